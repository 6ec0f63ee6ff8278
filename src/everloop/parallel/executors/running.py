"""The innermost loop, the same in every worker of every kind: run a chunk's items one by one, timed, until the slice is over.

An item's own time is what lies between two readings of the clock: one reading an item. Whatever an item raises is its result, except
what ends the whole worker. Only the caller's own thread lets Ctrl-C through.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from everloop.parallel.signals import by_a_handler


class Tally:
    """What became of the items so far. Another thread may read it while they run, and may set `until`."""

    __slots__ = ("cpu_seconds", "failures", "seconds", "squares", "until", "values")

    def __init__(self, slice_seconds: float = math.inf) -> None:
        self.until = time.perf_counter() + slice_seconds
        self.values: list[Any] = []
        self.failures: list[tuple[int, BaseException, str]] = []
        self.seconds = 0.0
        self.squares = 0.0
        self.cpu_seconds = 0.0


def run(
    func: Callable[[Any], Any],
    items: Iterable[Any],
    tally: Tally,
    through: type[BaseException] | tuple[type[BaseException], ...] = (),
    *,
    here: bool = False,
) -> None:
    """Adds to `tally`. What is of a class in `through` is raised; everything else that an item raises is its failure. `here`: on the
    caller's own thread, where the program's signal handlers may raise in the middle of an item, for the caller."""
    clock = time.perf_counter
    values, squares = tally.values, 0.0
    append = values.append
    cpu = time.thread_time()
    begun = before = clock()
    try:
        for item in items:
            try:
                value = func(item)
            except through:
                raise
            except BaseException as error:
                if here and by_a_handler(error):
                    raise
                value = None
                tally.failures.append((len(values), error, _text(error)))
            append(value)
            now = clock()
            took = now - before
            squares += took * took
            before = now
            if now >= tally.until:
                break
    finally:
        tally.seconds = before - begun
        tally.squares = squares
        tally.cpu_seconds = time.thread_time() - cpu


def _text(error: BaseException) -> str:
    """Its traceback as text, and off it the frame of this module, which would keep all the items' results alive."""
    import traceback

    if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
        error.__traceback__ = error.__traceback__.tb_next
    return "".join(traceback.format_exception(error))
