"""A chunk's items and what became of them, packed for another process and unpacked from it: the same by pipe and by Ray.

The usual case is one pickle of all. Where one of them spoils that, each goes by itself (`SEPARATE`), and only that one fails.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everloop.parallel import payload
from everloop.parallel.executors.frames import FAILURES, SEPARATE, Bytes
from everloop.parallel.executors.running import Tally, run

if TYPE_CHECKING:
    from everloop.parallel.work import Chunk, ItemFailure

Function = Callable[[Any], Any]


class Unreadable(Exception):
    """Some item cannot be unpickled here; which one shows when they come each by itself. Nothing has run."""


class Spoiled(Exception):
    """Some result cannot be unpickled here; which one shows when the items are run one by one."""


class TimeUp(BaseException):
    """Raised by the timer in the middle of an item; no `except Exception` of the function's swallows it."""


def run_packed(
    func: Function, body: Bytes, parts: list[Bytes], *, flags: int, slice_seconds: float
) -> tuple[Tally, int, Bytes, list[memoryview]]:
    """In the worker: the tally, and its results packed as (flags, body, parts). Raises Unreadable."""
    if flags & SEPARATE:
        items, bad = payload.load_each(body, "the item")
        func = _failing(func, bad)
    else:
        try:
            items = payload.load(body, parts)
        except BaseException as error:
            raise Unreadable from error
    tally = Tally(slice_seconds)
    run(func, items, tally)
    del items
    return tally, *pack(tally)


def pack(tally: Tally) -> tuple[int, Bytes, list[memoryview]]:
    failures, flags = tally.failures, 0
    parts: list[memoryview] = []
    try:
        body, parts = payload.dump(tally.values, from_main=False)
    except Exception:
        body, unsent = payload.dump_each(tally.values, from_main=False)
        failures, flags = failures + unsent, SEPARATE
    if failures:
        parts.append(memoryview(payload.dump_failures(failures)))
        flags |= FAILURES
    return flags, body, parts


def unpack(
    chunk: Chunk, count: int, flags: int, body: Bytes, parts: list[Bytes]
) -> tuple[list[Any], list[ItemFailure]]:
    """In the caller's process: values and failures. A single result that cannot be unpickled here is a failure, too; of several, nobody
    can tell which: raises Spoiled."""
    failures = payload.load_failures(parts.pop()) if flags & FAILURES else []
    try:
        if flags & SEPARATE:
            values, bad = payload.load_each(body, "the result")
            failures += bad
        else:
            values = payload.load(body, parts)
    except Exception as error:
        if count > 1:  # one has spoiled the pickle of all
            raise Spoiled from error
        from everloop.core.errors import NotPicklable, explain

        values = [None]
        failures += [(0, NotPicklable(f"the result cannot be unpickled again: {explain(error)}"), "")]
    return values, _told(chunk, failures) if failures else []


def _told(chunk: Chunk, failures: payload.Failures) -> list[ItemFailure]:
    from everloop.parallel.work import ItemFailure

    return [ItemFailure(index, error, text, item=chunk.items[index]) for index, error, text in failures]


class Alarm:
    """An item's timeout, kept by a timer signal: it ends whatever comes back to the interpreter. For the main thread of a worker process."""

    def __init__(self) -> None:
        self._armed = False
        signal.signal(signal.SIGALRM, self._ring)

    def limit(self, func: Function, timeout: float, begin: Callable[[int], None] | None = None) -> Function:
        """`begin`: called with the item's index in its chunk before it runs."""
        index = -1

        def limited(item: Any) -> Any:
            nonlocal index
            index += 1
            if begin is not None:
                begin(index)
            try:
                self._armed = True
                signal.setitimer(signal.ITIMER_REAL, timeout)
                try:
                    return func(item)
                finally:
                    self._armed = False
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except TimeUp as up:
                from everloop.core.errors import ItemTimeout

                raise ItemTimeout(f"the item took longer than {timeout:g} s") from up

        return limited

    def _ring(self, *_: object) -> None:
        if self._armed:
            self._armed = False
            raise TimeUp


def _failing(func: Function, bad: payload.Failures) -> Function:
    """`func`, but raising for the items that could not be unpickled."""
    errors = {index: error for index, error, _ in bad}
    index = -1

    def checked(item: Any) -> Any:
        nonlocal index
        index += 1
        if index in errors:
            raise errors[index]
        return func(item)

    return checked if errors else func
