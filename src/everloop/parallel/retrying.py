"""What has to be sent out again: rests that were handed back, chunks whose worker died, items that get another try.

The rules, each a pure function: how long a retry waits, whether an error is worth one, and what is done with a chunk that was lost with
its worker. An item is poison if it has killed `max_deaths` workers while it was alone in its chunk, so that nobody pays for a neighbour.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

from everloop.parallel.options import RunOptions
from everloop.parallel.work import Chunk

DEATHS_TO_SPLIT = 2
"""A chunk that lost so many workers is cut in halves: once may have been anybody's fault."""


@dataclass(slots=True)
class Piece:
    """Items to be sent out again, all with the same past. `items[start:]` counts: rests are cut from the front without copying."""

    first: int
    items: list[Any]
    attempt: int
    deaths: int
    start: int = 0

    def __len__(self) -> int:
        return len(self.items) - self.start

    def __lt__(self, other: Piece) -> bool:
        return self.first < other.first

    def cut(self, size: int) -> Piece:
        """Take the first `size` items off."""
        taken = part(self.first, self.items[self.start : self.start + size], self.attempt, self.deaths)
        self.start += size
        self.first += size
        if len(self) == 1:
            self.attempt, self.deaths = self.attempt - self.deaths, 0
        return taken


def part(first: int, items: list[Any], attempt: int, deaths: int) -> Piece:
    """A part of a longer chunk with this past. Several items stay under suspicion; one that is alone now starts with a clean record."""
    if len(items) > 1:
        return Piece(first, items, attempt, deaths)
    return Piece(first, items, attempt - deaths, 0)


def wait_before(options: RunOptions, tries: int, rng: random.Random) -> float:
    """Seconds before the next try, after `tries` failed ones: exponential, with a random share so that retries do not come in step."""
    wait = min(options.backoff * 2.0 ** min(tries - 1, 60), options.max_backoff)
    return wait * (1.0 - options.jitter * rng.random())


def worth_another_try(options: RunOptions, error: BaseException, tries: int) -> bool:
    return tries <= options.retries and isinstance(error, options.retry_on)


def after_death(options: RunOptions, chunk: Chunk, innocent: int = 0) -> list[Piece]:
    """What to send out after a worker died with this chunk; nothing where its single item is poison. `innocent`: workers that died in
    this run with an item alone which then went well, so that something else must have killed them."""
    deaths, attempt, items = chunk.deaths + 1, chunk.attempt + 1, chunk.items
    if len(items) == 1:
        return [] if deaths >= options.max_deaths + innocent else [Piece(chunk.first, items, attempt, deaths)]
    if deaths < DEATHS_TO_SPLIT:
        return [Piece(chunk.first, items, attempt, deaths)]
    half = len(items) // 2
    return [
        part(chunk.first, items[:half], attempt, deaths),
        part(chunk.first + half, items[half:], attempt, deaths),
    ]


def another_try(chunk: Chunk, index: int) -> Piece:
    """One item of it alone, after it failed."""
    if len(chunk.items) == 1:
        return Piece(index, chunk.items, chunk.attempt + 1, chunk.deaths)
    return part(index, [chunk.items[index - chunk.first]], chunk.attempt + 1, chunk.deaths)


def rest_of(chunk: Chunk, count: int) -> Piece:
    """What is left after its first `count` items; all of it keeps its past where nothing was run."""
    if not count:
        return Piece(chunk.first, chunk.items, chunk.attempt, chunk.deaths)
    return part(chunk.first + count, chunk.items[count:], chunk.attempt, chunk.deaths)


def one_by_one(chunk: Chunk) -> list[Piece]:
    """Each item alone: one of them is at fault, and which cannot be told."""
    return [part(chunk.first + i, [item], chunk.attempt, chunk.deaths) for i, item in enumerate(chunk.items)]


@dataclass
class Backlog:
    """Pieces to send out again, lowest index first; some only when their wait is over."""

    items: int = 0
    """In all of them."""
    _ready: list[Piece] = field(default_factory=list)
    _later: list[tuple[float, Piece]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        self.items += len(piece)
        heapq.heappush(self._ready, piece)

    def add_later(self, due: float, piece: Piece) -> None:
        """`due`: on the clock that `take` is given."""
        self.items += len(piece)
        heapq.heappush(self._later, (due, piece))

    def take(self, size: int, now: float) -> Piece | None:
        """At most `size` items of the first piece that is due."""
        while self._later and self._later[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._later)[1])
        if not self._ready:
            return None
        piece = self._ready[0]
        if len(piece) > size:
            # Its place in the heap stays right: it moves up by less than its own length, and pieces do not overlap.
            piece = piece.cut(size)
        else:
            heapq.heappop(self._ready)
            if piece.start:
                piece = piece.cut(len(piece))
        self.items -= len(piece)
        return piece

    def due(self) -> float | None:
        """When the next waiting piece is due; None where none waits."""
        return self._later[0][0] if self._later else None

    def drop_from(self, index: int) -> None:
        """Forget the items from `index` on: the run ends before them."""
        self._ready = [piece for piece in self._ready if piece.first < index]
        self._later = [(due, piece) for due, piece in self._later if piece.first < index]
        heapq.heapify(self._ready)
        heapq.heapify(self._later)
        self.items = sum(map(len, self._ready)) + sum(len(piece) for _, piece in self._later)
