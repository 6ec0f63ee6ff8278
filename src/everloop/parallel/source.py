"""The input, read no further than it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any


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

    @property
    def left(self) -> int | None:
        """Items not yet taken; None where only reading them would tell."""
        if self.ended:
            return 0
        return None if self._sliced is None else len(self._sliced) - self._position

    def take(self, count: int) -> list[Any]:
        """At most `count` items; fewer only where the input ends."""
        if self.ended:
            return []
        if self._sliced is not None:
            items = list(self._sliced[self._position : self._position + count])
            self._position += len(items)
            self.ended = self._position >= len(self._sliced)
            return items
        assert self._iterator is not None
        items = []
        try:
            items.extend(islice(self._iterator, count))
        except Exception as error:
            self.error = error
        self.ended = len(items) < count
        return items

    def stop(self) -> None:
        """Read no more."""
        self.ended = True
