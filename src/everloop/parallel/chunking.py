"""How many items a chunk gets, and for how long a worker keeps it. Pure: numbers in, numbers out.

An estimate alone cannot be trusted, since items that were fast may turn slow. So every chunk also carries a time slice: a worker whose
slice is over hands the rest of its chunk back. A wrong size then costs one slice, never a starved worker, and sizes may follow the
newest evidence boldly:

- first chunks get a short slice, so that there is an estimate soon;
- the estimate is a running mean in which a chunk weighs by the time it measured, and is replaced where reality is several times off;
- sizes grow by a factor at most, since one lucky item tells little;
- toward the end of a known input, chunks shrink with what remains (guided self-scheduling, Polychronopoulos and Kuck 1987), so that all
  workers end together; where the end is not known, chunks are a small share of the work so far.
"""

from __future__ import annotations

import math

from everloop.parallel.plan import ChunkBounds, Plan

FIRST_SLICE = 0.02
"""Seconds: until the first chunk is back nothing is known."""
SLICES = 2.0
"""A slice is this many target durations: it is for surprises, not for ordinary variation."""
SERIAL_SLICE = 0.03
"""Seconds, for items that run one after the other here: a turn of the loop costs next to nothing, and only between two slices can it show
that they should have been spread."""
FIXED_SLICE = 1.0
"""Seconds, where the caller fixed the chunk size: sharing out what is left of so long a chunk costs next to nothing."""
REGIME = 4.0
"""An item time that is off by more than this factor is no noise: the items are others now."""
GROWTH = 4
"""From one chunk to the next."""
AHEAD = 0.005
"""Seconds of work that may be queued at a worker so that it need not wait for more; what is queued waits out its neighbours' surprises."""
TAIL = 2
"""Chunks for each worker that the remaining items are cut into, at least."""
AGE = 20
"""The work so far is this many chunks for each worker, at least, where the end is not known: it may come at any time."""
YOUNG = 0.01
"""Seconds: what chunks may take from the start."""
SHORTEST = 0.002
"""Seconds: chunks are not cut smaller than this for balance alone."""


class ItemTime:
    """A running estimate of the seconds that one item takes.

    `rate` is the weight, in (0, 1], of a chunk that took `full` seconds or more.
    """

    def __init__(self, rate: float, full: float, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._rate = rate
        self._full = full

    def observe(self, count: int, seconds: float) -> None:
        """`count` items took `seconds` together."""
        mean = max(seconds / count, 1e-9)
        if self.seconds is None or not self.seconds / REGIME <= mean <= self.seconds * REGIME:
            self.seconds = mean
        else:
            self.seconds += self._rate * min(1.0, seconds / self._full) * (mean - self.seconds)


class Chunking:
    """The sizes of one run under one plan: adaptive where the plan has `ChunkBounds`, else always `chunksize`.

    `item_seconds` is what is already known of the items, from before.
    """

    def __init__(self, plan: Plan, item_seconds: float | None = None) -> None:
        bounds = plan.adaptive
        self._bounds = bounds if bounds is not None else ChunkBounds()
        self.fixed = bounds is None
        """By the caller, to `chunksize`."""
        self._workers = max(1, plan.n_jobs)
        self._size = self._bounded(plan.chunksize)
        self._time = ItemTime(self._bounds.adaptation_rate, self._bounds.target_duration, item_seconds)
        self._worked = 0.0
        self._slice = SERIAL_SLICE if plan.executor == "serial" else SLICES * self._bounds.target_duration
        self.slice = FIXED_SLICE if self.fixed else min(FIRST_SLICE, self._slice)
        """Seconds that the next chunk may take before its rest is handed back."""

    @property
    def item_seconds(self) -> float | None:
        return self._time.seconds

    def depth(self, remaining: int | None) -> int:
        """Chunks that a worker may have at once. None is queued behind another where that would be long, or at the end, where the last
        ones shall go to whoever is free."""
        if self._time.seconds is None or (remaining is not None and remaining <= TAIL * self._workers * self._size):
            return 1
        return 1 + int(AHEAD / (self._time.seconds * self._size))

    def size(self, remaining: int | None = None) -> int:
        """Items of the next chunk, at least 1. `remaining`: how many are left to send, where that is known."""
        if self.fixed or self._workers == 1:
            return self._size
        if remaining is None:
            return max(1, min(self._size, self._by_age()), self._bounds.smallest)
        share = math.ceil(remaining / (TAIL * self._workers))
        if share >= self._size:
            return self._size
        short = int(SHORTEST / self._time.seconds) if self._time.seconds else 1
        return max(1, min(self._size, max(share, short, self._bounds.smallest)))

    def observe(self, count: int, seconds: float) -> None:
        """A chunk is back: `count` of its items were run in `seconds` together."""
        if count < 1:
            return
        self._time.observe(count, seconds)
        self._worked += seconds
        if self.fixed or self._time.seconds is None:
            return
        self.slice = self._slice
        wanted = self._bounds.target_duration / self._time.seconds
        self._size = self._bounded(int(min(wanted, GROWTH * max(self._size, count))))

    def _by_age(self) -> int:
        """Items of a chunk where nobody knows how many are to come: as likely as not, about as much work as there was."""
        if self._time.seconds is None:
            return self._size
        seconds = max(YOUNG, self._worked / (AGE * self._workers))
        return int(min(seconds / self._time.seconds, self._size))

    def _bounded(self, size: int) -> int:
        if self.fixed:
            return max(1, size)
        largest = self._bounds.largest
        return max(1, self._bounds.smallest, size if largest is None else min(size, largest))
