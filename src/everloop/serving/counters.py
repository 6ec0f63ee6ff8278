"""Counts of one batcher: plain integers that one thread owns and readers add up."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from everloop.policy.pacing import REASONS, Reason

if TYPE_CHECKING:
    from everloop.serving.batch import Batch

LATENCY_BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)
"""Upper bounds in seconds, as a Prometheus histogram wants them; one more bucket holds the rest."""
SIZE_BOUNDS = tuple(1 << i for i in range(11))
"""Upper bounds of a batch's rows; one more bucket holds the rest."""
COARSE = 0.001
"""Seconds below which the requests of one batch are not told apart."""
_PLACES = {why: place for place, why in enumerate(REASONS)}


def _buckets() -> list[int]:
    return [0] * (len(LATENCY_BOUNDS) + 1)


@dataclass(slots=True)
class Counters:
    requests: int = 0
    """Answered or failed."""
    rows: int = 0
    batches: int = 0
    failed: int = 0
    """Requests on which the model failed."""
    referred: int = 0
    """Of those, the ones that the champion was asked instead: what it made of them is counted where it is."""
    refused: int = 0
    """Requests turned away because the queue was full."""
    abandoned: int = 0
    """Requests whose client went before they ran."""
    expired: int = 0
    """Requests whose deadline could no longer be kept when they would have run."""
    repeated: int = 0
    """Of the rows, those that no batch was run for: they were known."""
    largest: int = 0
    """Rows of the largest batch."""
    run_seconds: float = 0.0
    """Time in the model."""
    latency_seconds: float = 0.0
    """Sum over requests of the time from coming in until the answer was written."""
    latencies: list[int] = field(default_factory=_buckets)
    """Requests by that time, not cumulated."""
    queued_seconds: float = 0.0
    """Sum over requests of the time until their batch began to run."""
    queued: list[int] = field(default_factory=_buckets)
    """Requests by that time."""
    ran_seconds: float = 0.0
    """Sum over requests of the time that their batch ran."""
    ran: list[int] = field(default_factory=_buckets)
    """Requests by that time."""
    sizes: list[int] = field(default_factory=lambda: [0] * (len(SIZE_BOUNDS) + 1))
    """Batches by their rows."""
    released: list[int] = field(default_factory=lambda: [0] * len(REASONS))
    """Batches by why they left, in the order of `policy.pacing.REASONS`."""

    def batch(self, batch: Batch, why: Reason, run_seconds: float, latency: float) -> None:
        """One that has been answered, `latency` seconds after the first of its requests came.

        Below `COARSE` seconds all its requests count as its first one; beyond, each as it came."""
        requests, rows = len(batch.tickets), batch.rows
        self.requests += requests
        self.rows += rows
        self.batches += 1
        self.largest = max(self.largest, rows)
        self.sizes[min((rows - 1).bit_length(), len(SIZE_BOUNDS))] += 1
        self.released[_PLACES[why]] += 1
        self.run_seconds += run_seconds
        self.ran_seconds += run_seconds * requests
        self.ran[bisect_left(LATENCY_BOUNDS, run_seconds)] += requests
        queued = batch.started - batch.since
        if latency < COARSE or requests == 1:
            self.latency_seconds += latency * requests
            self.latencies[bisect_left(LATENCY_BOUNDS, latency)] += requests
            self.queued_seconds += queued * requests
            self.queued[bisect_left(LATENCY_BOUNDS, queued)] += requests
            return
        answered = batch.since + latency
        for came in batch.times:
            latency, queued = answered - came, batch.started - came
            self.latency_seconds += latency
            self.latencies[bisect_left(LATENCY_BOUNDS, latency)] += 1
            self.queued_seconds += queued
            self.queued[bisect_left(LATENCY_BOUNDS, queued)] += 1

    def known(self, rows: int, latency: float) -> None:
        """One request that was answered without a run of its own."""
        self.requests += 1
        self.rows += rows
        self.repeated += rows
        self.latency_seconds += latency
        self.latencies[bisect_left(LATENCY_BOUNDS, latency)] += 1
        self.queued_seconds += latency
        self.queued[bisect_left(LATENCY_BOUNDS, latency)] += 1
        self.ran[0] += 1

    def add(self, other: Counters) -> None:
        """For readers: `other` on top of this one."""
        self.requests += other.requests
        self.rows += other.rows
        self.batches += other.batches
        self.failed += other.failed
        self.referred += other.referred
        self.refused += other.refused
        self.abandoned += other.abandoned
        self.largest = max(self.largest, other.largest)
        self.run_seconds += other.run_seconds
        self.latency_seconds += other.latency_seconds
        self.expired += other.expired
        self.repeated += other.repeated
        self.queued_seconds += other.queued_seconds
        self.ran_seconds += other.ran_seconds
        for name in ("latencies", "queued", "ran", "sizes", "released"):
            setattr(self, name, [a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True)])


def value_of(counter: itertools.count[int]) -> int:
    """What `next(counter)` will give. `itertools.count` is the counter that several threads may raise without a lock (its `next`
    is one operation of the interpreter), but it tells where it stands in its text only."""
    return int(repr(counter)[6:-1])
