"""DECIDE when rows run together: how many, where, and whom to turn away. Pure: the batcher measures and acts.

Rules.

1. Whatever one turn of the event loop brought is one batch, up to `max_rows`; a full batch leaves at once. Nobody waits for
   a timer, unless a window is asked for (`policy.pacing`).
2. The rows of one request stay together. A request with more rows than `max_rows` runs alone, in slices.
3. A batch whose estimated cost is above `inline_seconds` runs on a thread, and the next one collects meanwhile. So does every batch of
   a model that has stalled the loop.
4. At most `queue_rows` rows wait. Beyond that a request is turned away, unless nothing waits at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from everloop.core.errors import InvalidInput

MEASURED_SIZES = (1, 8, 64)
"""Batch sizes whose cost is measured when a lane opens: alone, a few connections, many."""
EWMA_WEIGHT = 0.2
"""Weight of the newest measurement: five batches forget most of the past."""
OUTLIER = 4.0
"""A measurement counts as at most this many times the estimate (and no less than its inverse): one batch that was
preempted by another process must not move a lane to its thread."""

STALL_SECONDS = 0.01
"""A run of this length is felt by whoever waits for the event loop."""
STALLS_FORGIVEN = 512
"""Short batches after which a long one is forgotten."""


@dataclass(frozen=True, slots=True)
class BatchRules:
    max_rows: int = 256
    """Most rows of one run of the model."""
    queue_rows: int = 4096
    """Most rows that wait for their run."""
    inline_seconds: float = 0.001
    """What a batch may cost on the event loop itself; handing it to a thread and back costs about a tenth of that."""
    window_seconds: float = 0.0
    """For how long a request may wait for others although the model is free."""
    target_seconds: float | None = None
    """Within which nearly all requests should be answered."""

    def validate(self) -> None:
        """Raises InvalidInput naming the field."""
        if self.max_rows < 1:
            raise InvalidInput(f"max_rows: expected at least 1, got {self.max_rows!r}", field="max_rows")
        if self.queue_rows < self.max_rows:
            raise InvalidInput(
                f"queue_rows: expected at least max_rows ({self.max_rows}), got {self.queue_rows!r}", field="queue_rows"
            )
        if self.inline_seconds < 0:
            raise InvalidInput(
                f"inline_seconds: expected at least 0, got {self.inline_seconds!r}", field="inline_seconds"
            )


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds that a batch of so many rows takes: straight lines between measured sizes, the last one prolonged."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def estimate(self, rows: int) -> float:
        sizes, seconds = self.sizes, self.seconds
        if rows <= sizes[0] or len(sizes) == 1:
            return seconds[0] * max(1.0, rows / sizes[0]) if len(sizes) == 1 else seconds[0]
        i = min(bisect_left(sizes, rows), len(sizes) - 1)
        slope = (seconds[i] - seconds[i - 1]) / (sizes[i] - sizes[i - 1])
        if rows > sizes[i] and slope < 0:
            slope = 0.0
        return seconds[i] + slope * (rows - sizes[i])

    def observed(self, rows: int, seconds: float) -> CostCurve:
        """The curve after a batch of `rows` took `seconds`: the measured sizes on both sides move towards it."""
        estimate = self.estimate(rows)
        ratio = min(max(seconds / estimate, 1 / OUTLIER), OUTLIER) if estimate > 0 else 1.0
        factor = 1.0 + EWMA_WEIGHT * (ratio - 1.0)
        right = min(bisect_left(self.sizes, rows), len(self.sizes) - 1)
        left = right if self.sizes[right] == rows or right == 0 else right - 1
        return CostCurve(
            self.sizes,
            tuple(max(s * factor, 1e-9) if left <= i <= right else s for i, s in enumerate(self.seconds)),
        )


UNMEASURED = CostCurve((1,), (0.0001,))
"""Before anything is known: 0.1 ms a row, so that a large batch starts on the thread."""


class Costs(Protocol):
    """What batches take: a `CostCurve`, or a `policy.pacing.Pace`."""

    def estimate(self, rows: int) -> float:
        """Seconds of a batch of so many rows."""


def runs_on_thread(curve: Costs, rows: int, rules: BatchRules) -> bool:
    return rows > rules.max_rows or curve.estimate(rows) > rules.inline_seconds


class Stalls:
    """Runs that took long although they were expected not to, as of a model whose time depends on its input: on an event loop all others
    would wait for it. One may have been preempted, so it takes two; then batches go to the thread, until many in a row were short."""

    __slots__ = ("_left", "_seen")

    def __init__(self) -> None:
        self._seen = self._left = 0

    def observe(self, seconds: float) -> None:
        if seconds > STALL_SECONDS:
            self._seen += 1
            self._left = STALLS_FORGIVEN
        elif self._left:
            self._left -= 1
            if not self._left:
                self._seen = 0

    @property
    def many(self) -> bool:
        return self._seen > 1


def admits(waiting: int, rows: int, rules: BatchRules) -> bool:
    """Whether a request of `rows` rows may join `waiting` others."""
    return waiting == 0 or waiting + rows <= rules.queue_rows


def retry_after(waiting: int, curve: Costs, rules: BatchRules) -> float:
    """Seconds after which the queue should have room again."""
    batches = -(-max(waiting, 1) // rules.max_rows)
    return max(0.05, batches * curve.estimate(min(max(waiting, 1), rules.max_rows)))


def next_batch(counts: Sequence[int], most: int) -> int:
    """How many of the waiting requests, with these numbers of rows, run next: in order, whole, at least one, else no more than `most`
    rows."""
    total = 0
    for taken, rows in enumerate(counts):
        if taken and total + rows > most:
            return taken
        total += rows
    return len(counts)


def slices(rows: int, rules: BatchRules) -> list[tuple[int, int]]:
    """The runs of the model that a batch of `rows` rows takes, as (start, stop)."""
    return [(start, min(start + rules.max_rows, rows)) for start in range(0, rows, rules.max_rows)]


def sampled(number: int, share: float) -> bool:
    """Whether request `number` is recorded at this share: the same for whoever asks, and spread evenly over numbers
    (Fibonacci hashing, Knuth, The Art of Computer Programming 3, 6.4)."""
    return share >= 1.0 or (number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) < share * 18446744073709551616.0


def sampled_runs(first: int, count: int, share: float) -> Iterable[tuple[int, int]]:
    """The recorded stretches of `count` numbers from `first`, as (offset, length)."""
    start = None
    for offset in range(count):
        if sampled(first + offset, share):
            start = offset if start is None else start
        elif start is not None:
            yield start, offset - start
            start = None
    if start is not None:
        yield start, count - start
