"""The dead-letter file: one line of JSON for each item that failed for good, so that they can be looked at and run again."""

from __future__ import annotations

import json
import os
import reprlib
from pathlib import Path
from typing import Any, TextIO

from everloop.core.errors import StoreUnavailable
from everloop.parallel.work import ItemFailure


class DeadLetters:
    """Appends to `path`, which is made when the first item fails. A line is whole on disk before the run goes on.

    Fields: `label`, `index`, `item` (as JSON where it is JSON, else `repr`), `error` (its type), `message`, `attempts`, `traceback`, `time`.
    """

    def __init__(self, path: str | Path, label: str) -> None:
        """Raises StoreUnavailable at once, not with the first failure hours later, where `path` cannot be written."""
        self._path = Path(path)
        self._label = label
        self._file: TextIO | None = None
        if self._path.exists():
            self._open()
        elif not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise StoreUnavailable(
                f"dead_letter: {self._path} cannot be made: its folder is not there, or not writable",
                field="dead_letter",
            )

    def add(self, failure: ItemFailure, time: float) -> None:
        file = self._file if self._file is not None else self._open()
        entry: dict[str, Any] = {
            "label": self._label,
            "index": failure.index,
            "item": _readable(failure.item),
            "error": type(failure.error).__name__,
            "message": _message(failure.error),
            "attempts": failure.attempts,
            "traceback": failure.traceback,
            "time": time,
        }
        try:
            file.write(json.dumps(entry) + "\n")
            file.flush()
        except OSError as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> TextIO:
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unavailable(error) from error
        return self._file

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"dead_letter: {self._path} cannot be written: {error.strerror}", field="dead_letter")


def short_repr(item: Any) -> str:
    """At most about a hundred characters, also of an item whose `repr` raises."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 100
    try:
        return short.repr(item)
    except Exception:  # a whole number of thousands of digits, or whatever calls itself `list`
        return f"<{type(item).__name__} object>"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"(its message cannot be told: {type(broken).__name__})"


def _readable(item: Any) -> Any:
    try:
        json.dumps(item, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return short_repr(item)
    return item
