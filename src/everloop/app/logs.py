"""What the process logs, and in which form. Everything goes to stderr; nothing below `app/` configures logging.

A record may carry facts beside its message, as `extra={"facts": {…}}`: in JSON they are fields of the line, in text the message
says what a person needs of them.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

QUIET = ("uvicorn", "uvicorn.error", "asyncio")
"""Libraries whose everyday messages say nothing about everloop."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure(level: str, *, as_json: bool) -> None:
    """`level`: debug, info, warning or error. With `as_json` one object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(json_lines() if as_json else TextLines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(level.upper() if level in ("debug", "error") else "WARNING")


class TextLines(logging.Formatter):
    """A message is one line, whatever a caller has put into it: nobody writes a line of their own into somebody's log."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        record.message = _CONTROL.sub(lambda found: repr(found[0])[1:-1], record.message)
        return super().formatMessage(record)


def json_lines() -> logging.Formatter:
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ],
        processors=[
            _with_facts,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ],
    )


def _with_facts(_: Any, __: str, event: Any) -> Any:
    """A processor of structlog. What every line has stands before a record's own facts of the same name."""
    record: logging.LogRecord = event["_record"]
    return {**getattr(record, "facts", {}), **event}
