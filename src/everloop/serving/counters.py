"""Counts of one batcher: plain integers that one thread owns and readers add up."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from dataclasses import dataclass, field

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
    largest: int = 0
    """Rows of the largest batch."""
    run_seconds: float = 0.0
    """Time in the model."""
    latency_seconds: float = 0.0
    """Sum over requests of the time from the first of its batch coming in until its answer was written."""
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    """Requests by that time, not cumulated."""

    def batch(self, requests: int, rows: int, run_seconds: float, latency: float) -> None:
        self.requests += requests
        self.rows += rows
        self.batches += 1
        self.largest = max(self.largest, rows)
        self.run_seconds += run_seconds
        self.latency_seconds += latency * requests
        self.latencies[bisect_left(LATENCY_BOUNDS, latency)] += requests

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
        self.latencies = [a + b for a, b in zip(self.latencies, other.latencies, strict=True)]


def value_of(counter: itertools.count[int]) -> int:
    """What `next(counter)` will give. `itertools.count` is the counter that several threads may raise without a lock (its `next`
    is one operation of the interpreter), but it tells where it stands in its text only."""
    return int(repr(counter)[6:-1])
