"""Sparse histograms {bin: count} of latencies and losses, and their quantiles: what evidence is made of, and small enough to send.

Bins grow by 2 %, so a quantile is known to 1 % either way, and bins of the same number are added wherever they were counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


FACTOR = 1.02
_LOG = math.log(FACTOR)
_MICROSECOND = 1e-6
LATENCY_BINS = 1400
"""`latency_bin` is below this."""
_ZERO = 40_000
"""Added to the bins of losses above 0, so that the least positive float is still above the bin of 0."""
WORST = 10**6
"""The bin of losses that are no number: worse than any."""


def latency_bin(seconds: float) -> int:
    """0 (up to a microsecond) … 1399 (12 days and beyond, and what is no number)."""
    if seconds <= _MICROSECOND:
        return 0
    if not seconds < 1e6:
        return LATENCY_BINS - 1
    return min(int(math.log(seconds / _MICROSECOND) / _LOG), LATENCY_BINS - 1)


def latency_edge(bin: int) -> float:  # noqa: A002 -- the field's word
    """Seconds where a latency's bin begins."""
    return _MICROSECOND * FACTOR**bin if bin > 0 else 0.0


def latency_middle(bin: int) -> float:  # noqa: A002
    """Seconds in the middle of a latency's bin."""
    return _MICROSECOND * float(FACTOR ** (bin + 0.5))


def bin_from(seconds: float) -> int:
    """The first latency bin that holds nothing below `seconds`."""
    if seconds <= 0:
        return 0
    return max(0, min(math.ceil(math.log(seconds / _MICROSECOND) / _LOG - 1e-9), LATENCY_BINS))


def loss_bins(losses: Floats) -> dict[int, int]:
    """Histogram of losses, shape (n,), of any scale and sign; what is not finite is in `WORST`."""
    finite = np.isfinite(losses)
    size = np.abs(losses[finite])
    bins = np.zeros(len(size), np.int64)
    positive = size > 0
    bins[positive] = np.floor(np.log(size[positive]) / _LOG).astype(np.int64) + _ZERO
    bins = np.where(losses[finite] < 0, -bins, bins)
    values, counts = np.unique(bins, return_counts=True)
    histogram = dict(zip(values.tolist(), counts.tolist(), strict=True))
    bad = len(losses) - int(finite.sum())
    if bad:
        histogram[WORST] = bad
    return histogram


def loss_middle(bin: int) -> float:  # noqa: A002
    """The value in the middle of a loss's bin."""
    if bin == 0 or abs(bin) >= WORST:
        return 0.0 if bin == 0 else math.nan
    return math.copysign(math.exp((abs(bin) - _ZERO + 0.5) * _LOG), bin)


def added(histogram: Mapping[int, int], more: Mapping[int, int]) -> dict[int, int]:
    sums = dict(histogram)
    for number, count in more.items():
        sums[number] = sums.get(number, 0) + count
    return sums


def total(histogram: Mapping[int, int]) -> int:
    return sum(histogram.values())


def exceeding(histogram: Mapping[int, int], first: int) -> int:
    """How many are in bin `first` or above."""
    return sum(count for number, count in histogram.items() if number >= first)


def quantile_bins(histogram: Mapping[int, int], shares: Iterable[float]) -> list[int]:
    """For each share the bin that holds that quantile: at least the share is in it or below. The histogram is not empty."""
    numbers = sorted(histogram)
    cumulated = np.cumsum([histogram[number] for number in numbers])
    wanted = [max(1, math.ceil(share * int(cumulated[-1]) - 1e-9)) for share in shares]
    return [numbers[place] for place in np.searchsorted(cumulated, wanted)]
