"""What the process logs, and in which form. Everything goes to stderr; nothing below `app/` configures logging."""

from __future__ import annotations

import logging
import sys

QUIET = ("uvicorn", "uvicorn.error", "asyncio")
"""Libraries whose everyday messages say nothing about everloop."""


def configure(level: str, *, as_json: bool) -> None:
    """`level`: debug, info, warning or error. With `as_json` one object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(level.upper() if level in ("debug", "error") else "WARNING")


def _json() -> logging.Formatter:
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ],
    )
