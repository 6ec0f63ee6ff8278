"""What the error monitor is made of: the scale of losses, detectors that read them one by one, the evidence of a split.

HDDM_A is written out here, and held to River's by a test, because importing `river.drift` costs 150 MB and a second, and
River's own takes 2 µs an example; the compiled ADWIN alone costs 1 MB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Adwin(Protocol):
    def update(self, x: float) -> bool: ...
    def get_total(self) -> float: ...
    def get_width(self) -> float: ...


class HddmA:
    """HDDM_A for rises, as in River: True when the mean of all so far exceeds the lowest earlier one by more than chance
    allows; then it starts anew."""

    __slots__ = ("_low_bound", "_low_mean", "_low_n", "_n", "_total")
    _DETECT = math.log(2 / 0.001) / 2
    _BOUND = math.log(1 / 0.001) / 2

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._n, self._total = 0, 0.0
        self._low_n, self._low_mean, self._low_bound = 0, 0.0, math.inf

    def update(self, x: float) -> bool:
        """`x` in [0, 1]."""
        self._n = n = self._n + 1
        self._total += x
        mean = self._total / n
        bound = mean + math.sqrt(self._BOUND / n)
        if bound <= self._low_bound:
            self._low_n, self._low_mean, self._low_bound = n, mean, bound
            return False
        rise = mean - self._low_mean
        if rise <= 0 or rise * rise < (n - self._low_n) / (self._low_n * n) * self._DETECT:
            return False
        self._restart()
        return True


def adaptive_windowing() -> Adwin:
    """River's compiled ADWIN with River's defaults."""
    try:
        from river._river_rust.drift import AdaptiveWindowing
    except ImportError:  # other releases keep it elsewhere: take the public class, and its imports
        return _PublicAdwin()
    adwin: Adwin = AdaptiveWindowing(delta=0.002, clock=32, max_buckets=5, min_window_length=5, grace_period=10)
    return adwin


class _PublicAdwin:
    """`river.drift.ADWIN` with the compiled class's methods."""

    def __init__(self) -> None:
        from river.drift import ADWIN

        self._detector = ADWIN()

    def update(self, x: float) -> bool:
        self._detector.update(x)
        return bool(self._detector.drift_detected)

    def get_total(self) -> float:
        return float(self._detector.total)

    def get_width(self) -> float:
        return float(self._detector.width)


def chernoff(after: float, newer: int, before: float, older: int) -> float:
    pooled = (after * newer + before * older) / (newer + older)
    return newer * _divergence(after, pooled) + older * _divergence(before, pooled)


def _divergence(p: float, q: float) -> float:
    """Kullback and Leibler's, of two coins, in nats; q strictly between 0 and 1 wherever p differs from it."""
    value = 0.0
    if p > 0:
        value = p * math.log(p / q)
    if p < 1:
        value += (1 - p) * math.log((1 - p) / (1 - q))
    return value


def divergences(p: npt.NDArray[np.float64], q: float) -> npt.NDArray[np.float64]:
    q = min(max(q, 1e-12), 1 - 1e-12)
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def bernstein(rise: float, spread_after: float, newer: int, spread_before: float, older: int) -> float:
    # One loss in twenty of the full range is mixed into the variance of a small sample, which may look calm by luck.
    spread = (spread_after * newer + spread_before * older + 0.05) / (newer + older)
    return newer * older / (newer + older) * rise * rise / (2 * (max(spread, 0.0) + rise / 3))


def loss_cap(reference: Sequence[float], floor: float) -> float:
    """The absolute error that counts as 1. For normal errors 6 medians are 4 standard deviations."""
    finite = np.asarray([abs(loss) for loss in reference if math.isfinite(loss)])
    if not len(finite):
        return max(floor, 1.0)
    cap = max(6 * float(np.median(finite)), 2 * float(np.quantile(finite, 0.9)), 6 * floor)
    return cap or float(np.max(finite)) or 1e-300
