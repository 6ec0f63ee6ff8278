"""The input, read no further than it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

_AT_ONCE = 16
"""Items between two looks at whether that is enough, while they come quickly."""


class Source:
    """Takes items from the front. Lists, tuples and ranges are sliced, everything else is iterated.

    An exception of the iterator ends the input and is kept in `error`: what was read before it is still worked on.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._sliced = items if isinstance(items, (list, tuple, range)) else None
        self._iterator: Iterator[Any] | None = None if self._sliced is not None else iter(items)
        self._position = 0
        self.ended = self._sliced is not None and not self._sliced
        self.error: Exception | None = None
        self._slow = False

    @property
    def left(self) -> int | None:
        """Items not yet taken; None where only reading them would tell."""
        if self.ended:
            return 0
        return None if self._sliced is None else len(self._sliced) - self._position

    def take(self, count: int, enough: Callable[[], bool] | None = None) -> list[Any]:
        """At most `count` items; fewer only where the input ends, or where an iterator is slow: once `enough` says so, what there is
        by then has to do."""
        if self.ended:
            return []
        if self._sliced is not None:
            items = list(self._sliced[self._position : self._position + count])
            self._position += len(items)
            self.ended = self._position >= len(self._sliced)
            return items
        items = []
        try:
            if enough is None:
                self._read(items, count)
            else:
                self._read_while(items, count, enough)
        except Exception as error:
            self.error = error
            self.ended = True
        return items

    def _read(self, items: list[Any], count: int) -> None:
        assert self._iterator is not None
        had = len(items)
        items.extend(islice(self._iterator, count))
        self.ended = len(items) - had < count

    def _read_while(self, items: list[Any], count: int, enough: Callable[[], bool]) -> None:
        # Whoever waits for one item of a slow input should not have to wait for sixteen.
        step, slow = 1, self._slow
        while not self.ended and len(items) < count:
            self._read(items, min(step, count - len(items)))
            if enough():
                self._slow = True
                return
            if not slow:
                step = min(2 * step, _AT_ONCE)
        self._slow = False

    def stop(self) -> None:
        """Read no more."""
        self.ended = True
