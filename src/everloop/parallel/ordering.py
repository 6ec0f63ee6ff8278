"""Where results wait to be handed out: in the order of their items, or as they come.

Results are kept in segments, as their chunks brought them: a run of `span` consecutive items and the values to hand out for them (fewer,
where items were skipped). Nothing is done for each item.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple, Protocol


class Segment(NamedTuple):
    span: int
    """Items of the input that this stands for."""
    values: list[Any]
    size: int
    """Bytes, where they are counted."""


class Waiting(Protocol):
    held: int
    """Items in segments that wait."""
    held_bytes: int

    def add(self, first: int, segment: Segment) -> None: ...

    def pop(self) -> Segment | None:
        """The next segment that may be handed out; None where there is none yet."""

    def reached(self, index: int) -> bool:
        """Whether everything that goes before the item `index` has been popped."""


class InOrder:
    """Segments leave in the order of their items."""

    def __init__(self) -> None:
        self.held = 0
        self.held_bytes = 0
        self._next = 0
        self._segments: dict[int, Segment] = {}

    def add(self, first: int, segment: Segment) -> None:
        self._segments[first] = segment
        self.held += segment.span
        self.held_bytes += segment.size

    def pop(self) -> Segment | None:
        segment = self._segments.pop(self._next, None)
        if segment is not None:
            self._next += segment.span
            self.held -= segment.span
            self.held_bytes -= segment.size
        return segment

    def reached(self, index: int) -> bool:
        return self._next >= index


class AsTheyCome:
    """Segments leave in the order in which they came back."""

    def __init__(self) -> None:
        self.held = 0
        self.held_bytes = 0
        self._segments: deque[Segment] = deque()

    def add(self, first: int, segment: Segment) -> None:  # noqa: ARG002 - the port's
        self._segments.append(segment)
        self.held += segment.span
        self.held_bytes += segment.size

    def pop(self) -> Segment | None:
        if not self._segments:
            return None
        segment = self._segments.popleft()
        self.held -= segment.span
        self.held_bytes -= segment.size
        return segment

    def reached(self, index: int) -> bool:  # noqa: ARG002 - nothing goes before anything
        return not self._segments
