"""How much better or worse a second set of answers is, on the same rows: differences of paired outcomes, with their intervals.

- Of answers that are right or wrong: Tango's score interval for the difference of two paired proportions (T. Tango, "Equivalence test and
  confidence interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17, 1998). Unlike a bootstrap
  it does not claim to be certain where no row differed: 0 of 500 leaves ± 0.76 points.
- Of losses that are numbers: the percentile bootstrap over rows (B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from everloop.policy.intervals import Interval, edge
from everloop.policy.metrics import Numbers

LEVEL = 0.95
RESAMPLES = 1_000
_HALVINGS = 50
_DRAWN = 1 << 20
"""Numbers that are drawn at once: a bootstrap of many rows stays small in memory."""


def share_difference(lost: int, won: int, n: int, level: float = LEVEL) -> Interval:
    """Bounds of (share right now) - (share right before), where of `n` rows `lost` were right before and are wrong now, and `won` the
    other way round."""
    if n == 0:
        return -1.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    estimate = (won - lost) / n
    low = -1.0 if lost == n else edge(lambda d: _score(lost, won, n, d) <= z, estimate, -1.0, _HALVINGS)
    high = 1.0 if won == n else edge(lambda d: _score(lost, won, n, d) >= -z, estimate, 1.0, _HALVINGS)
    return low, high


def _score(lost: int, won: int, n: int, difference: float) -> float:
    """Standard deviations by which what was seen is above `difference`."""
    above = won - lost - n * difference
    # The likeliest share of losses, given the difference: the greater root of a quadratic.
    b = (2 * n - won + lost) * difference - won - lost
    c = -lost * difference * (1 - difference)
    root = math.sqrt(max(b * b - 8 * n * c, 0.0))
    share = (root - b) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return 0.0 if above == 0 else math.copysign(math.inf, above)
    return above / math.sqrt(variance)


def mean_difference(differences: Numbers, rng: np.random.Generator, level: float = LEVEL) -> Interval:
    """Bounds of the mean of (n,) paired differences."""
    n = len(differences)
    if n == 0:
        return -math.inf, math.inf
    means = np.empty(RESAMPLES)
    step = max(1, _DRAWN // n)
    for start in range(0, RESAMPLES, step):
        stop = min(start + step, RESAMPLES)
        means[start:stop] = differences[rng.integers(0, n, (stop - start, n))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
