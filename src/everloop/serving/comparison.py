"""What a shadow has answered beside what was answered: counts that add up over batches and over processes.

Every row that came by while the shadow was open is counted once, when it is known what became of it:

    offered = skipped + answered + failed + (waiting)        answered = agreed + disagreed

Two labels agree if they are the same, two numbers if they differ by at most the tolerance. Seconds and differences are kept as
histograms of `policy.bins`, so their quantiles are known to 1 %.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from everloop.core.errors import Failure
from everloop.core.types import Task
from everloop.policy.bins import latency_bin, latency_middle, loss_bins, loss_middle, quantile_bins

K = TypeVar("K")
Bins = dict[int, int]
"""A histogram of `policy.bins`."""


class Shown(msgspec.Struct):
    """Of one shadow, cumulated since it was opened. Rows unless said otherwise."""

    version: int = 0
    task: Task = "regression"
    state: str = ""
    """`opening`, `running`, `waiting` (to be started again), `down` or `closed`."""
    reason: str = ""
    """Why it is not running, or why it failed last."""
    offered: int = 0
    skipped: int = 0
    """Not shown, because the budget was used up or the shadow was not there."""
    answered: int = 0
    agreed: int = 0
    failed: dict[Failure, int] = {}
    """Without an answer to compare, by kind: `raised`, `not_finite`, `shape`; `timeout` and `crash` are the rows of those batches."""
    unrecorded: int = 0
    """Answers that the journal had no room for."""
    timeouts: int = 0
    """Runs that took too long."""
    crashes: int = 0
    """Times its process died."""
    starts: int = 0
    """Times its process was started."""
    batches: int = 0
    run_seconds: float = 0.0
    """In the model."""
    spent_seconds: float = 0.0
    """Of processor time, in its process and for it in this one."""
    batch_seconds: Bins = {}
    """Batches by how long they took."""
    row_seconds: Bins = {}
    """Rows by how long their batch took a row."""
    differences: Bins = {}
    """Regression: by |shadow's answer - the answer|."""
    difference_sum: float = 0.0
    """Of shadow's answer - the answer: a shadow that is always higher tells here."""
    distance_sum: float = 0.0
    """Of the absolute values."""
    largest: float = 0.0
    """The largest absolute value."""

    @property
    def disagreed(self) -> int:
        return self.answered - self.agreed

    @property
    def failures(self) -> int:
        return sum(self.failed.values())

    @property
    def shown(self) -> int:
        return self.answered + self.failures

    @property
    def agreement(self) -> float | None:
        """The share of answers that agreed."""
        return self.agreed / self.answered if self.answered else None

    @property
    def mean_difference(self) -> float | None:
        """Regression: of the absolute values."""
        return self.distance_sum / self.answered if self.answered and self.task == "regression" else None

    @property
    def median_difference(self) -> float | None:
        """The same, their median."""
        return loss_middle(quantile_bins(self.differences, [0.5])[0]) if self.differences else None

    def row_latency(self, share: float) -> float | None:
        """The quantile of seconds a row."""
        return latency_middle(quantile_bins(self.row_seconds, [share])[0]) if self.row_seconds else None

    def batch_latency(self, share: float) -> float | None:
        """The quantile of seconds a run."""
        return latency_middle(quantile_bins(self.batch_seconds, [share])[0]) if self.batch_seconds else None

    def add(self, other: Shown) -> None:
        """Another process's shadow of the same version on top of this one."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        for name in ("failed", "batch_seconds", "row_seconds", "differences"):
            _add(getattr(self, name), getattr(other, name))
        self.reason = other.reason or self.reason
        self.state = self.state or other.state
        if not self.version:
            self.version, self.task = other.version, other.task

    def fail(self, how: Failure, rows: int = 1) -> None:
        _add(self.failed, {how: rows})

    def ran(self, rows: int, seconds: float) -> None:
        """A batch came back after `seconds` in the model."""
        self.batches += 1
        self.run_seconds += seconds
        _count(self.batch_seconds, latency_bin(seconds))
        _count(self.row_seconds, latency_bin(seconds / rows), rows)

    def compare(self, answers: Sequence[Any], served: Sequence[Any], tolerance: float) -> None:
        """Answers of the shadow (None: it has none) beside those that were served."""
        pairs = [(mine, theirs) for mine, theirs in zip(answers, served, strict=True) if mine is not None]
        self.answered += len(pairs)
        if self.task == "classification":
            self.agreed += sum(same(mine, theirs) for mine, theirs in pairs)
        elif pairs:
            self._measure(np.array(pairs, np.float64), tolerance)

    def _measure(self, pairs: Any, tolerance: float) -> None:
        answers, served = pairs.T
        with np.errstate(over="ignore"):
            difference = np.clip(answers - served, -sys.float_info.max, sys.float_info.max)
            distance = np.abs(difference)
            larger = np.maximum(np.abs(answers), np.abs(served))
            self.agreed += int(np.count_nonzero(distance <= tolerance * larger))
            self.difference_sum += float(difference.sum())
            self.distance_sum += float(distance.sum())
        self.largest = max(self.largest, float(distance.max()))
        _add(self.differences, loss_bins(distance))


_SUMMED = tuple(
    name
    for name, kind in Shown.__annotations__.items()
    if kind in ("int", "float") and name not in ("version", "largest")
)


def same(answer: Any, served: Any) -> bool:
    """Whether two labels are the same: True is not 1."""
    return bool(answer == served) and isinstance(answer, bool) == isinstance(served, bool)


def _count(bins: Bins, place: int, times: int = 1) -> None:
    bins[place] = bins.get(place, 0) + times


def _add(bins: dict[K, int], more: Mapping[K, int]) -> None:
    for place, times in more.items():
        bins[place] = bins.get(place, 0) + times
