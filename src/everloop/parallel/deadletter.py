"""The dead-letter file: one line of JSON for each item that failed for good, so that they can be looked at and run again."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any, TextIO

from everloop.parallel.work import ItemFailure


class DeadLetters:
    """Appends to `path`, which is made when the first item fails. A line is whole on disk before the run goes on.

    Fields: `label`, `index`, `item` (as JSON where it is JSON, else `repr`), `error` (its type), `message`, `attempts`, `traceback`, `time`.
    """

    def __init__(self, path: str | Path, label: str) -> None:
        self._path = Path(path)
        self._label = label
        self._file: TextIO | None = None

    def add(self, failure: ItemFailure, time: float) -> None:
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        entry: dict[str, Any] = {
            "label": self._label,
            "index": failure.index,
            "item": _readable(failure.item),
            "error": type(failure.error).__name__,
            "message": str(failure.error),
            "attempts": failure.attempts,
            "traceback": failure.traceback,
            "time": time,
        }
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def short_repr(item: Any) -> str:
    """At most about a hundred characters, also of an item whose `repr` raises."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 100
    return short.repr(item)


def _readable(item: Any) -> Any:
    try:
        json.dumps(item, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return short_repr(item)
    return item
