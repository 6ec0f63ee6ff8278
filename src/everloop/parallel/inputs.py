"""The input as a caller hands it over: how long it is, and how to look at its beginning without losing any of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

from everloop.core.errors import InvalidInput
from everloop.parallel.source import Source

_PEEK = 4096
_PATIENCE = 0.002
"""Seconds of looking ahead."""


@dataclass
class Input:
    source: Source
    total: int | None
    """Items; None where nobody can tell."""
    data: Iterable[Any]
    """The whole of it, to be read anew. Of an iterator, what is not taken yet."""
    repeatable: bool
    """`data` can be read again and again."""
    first: Any = None


def _length(data: Iterable[Any]) -> int | None:
    try:
        return len(data) if isinstance(data, Sized) else None
    except Exception as error:  # an array of no dimensions, a data set of unknown length
        if getattr(data, "ndim", None) == 0:
            raise InvalidInput("data: this is a single value, not a list of them", field="data") from error
        return None


def opened(data: Iterable[Any], *, look_ahead: bool = False) -> Input:
    """`look_ahead`: an iterator may be read a little further than is needed, to find out whether it is a short one."""
    if isinstance(data, (str, bytes)):
        raise InvalidInput(
            "data: this is text; a list, an iterator or another iterable of items is needed", field="data"
        )
    total = _length(data)
    if not hasattr(type(data), "__iter__"):
        try:
            data = iter(data)  # by index, as PyTorch's data sets
        except TypeError as error:
            raise InvalidInput(f"data: a list or another iterable is needed, this is {data!r}", field="data") from error
    if isinstance(data, (list, tuple, range)):
        return Input(Source(data), total, data, repeatable=True, first=data[0] if data else None)
    repeatable = not isinstance(data, Iterator)
    if total is None and look_ahead and not repeatable:
        source = Source(data)
        begun = _begin(source)
        if source.ended and source.error is None:
            return Input(Source(begun), len(begun), begun, repeatable=True, first=begun[0] if begun else None)
        data = rest(begun, source)
        return Input(Source(data), None, data, repeatable=False, first=begun[0] if begun else None)
    return Input(Source(data), total, data, repeatable=repeatable)


def rest(taken: list[Any], source: Source) -> Iterator[Any]:
    """What was taken from `source`, and then what is left of it."""
    yield from taken
    while items := source.take(1):
        yield items[0]
    if source.error is not None:
        raise source.error


def _begin(source: Source) -> list[Any]:
    begun: list[Any] = []
    until = time.perf_counter() + _PATIENCE
    while len(begun) < _PEEK and not source.ended and time.perf_counter() < until:
        begun += source.take(1)
    return begun
