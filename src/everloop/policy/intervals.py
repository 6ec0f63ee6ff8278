"""Confidence sequences: intervals that hold at all times together, so that one may look whenever one likes.

    rate        exact: beta-binomial mixture (H. Robbins, 1970; M. Lindon and A. Malek, "Anytime-valid inference for multinomial count
                data", NeurIPS 2022)
    quantile    exact: the rate of values below a quantile is known, so the rate's sequence bounds its rank (S. R. Howard and A. Ramdas,
                "Sequential estimation of quantiles with applications to A/B testing and best-arm identification", Bernoulli 28, 2022)
    difference  of two rates: that of the odds ratio (`policy.sequential.bounds`), told as a difference at the overall rate
                (J. Cornfield, 1956)
    mean        asymptotic: I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy and A. Ramdas, "Time-uniform central limit theory and
                asymptotic confidence sequences", Annals of Statistics 52, 2024. Finite variances are assumed, and some hundred values.

Outcomes of an arm are assumed independent and of one distribution over time; only the odds ratio's need no constant base rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from math import lgamma

from everloop.policy.bins import LATENCY_BINS, latency_edge, total

Interval = tuple[float, float]
_SURE = 0.001
"""What the overall rate's sequence may err; its bounds only scale a difference, its sign is the odds ratio's."""
_DISCOUNT = 0.02
"""Squared scale of the mean's mixture: tightest at some hundred values."""


def log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def rate_bounds(events: int, n: int, level: float) -> Interval:
    """Of a probability of which `events` of `n` outcomes happened; both ends together at 1 - `level`."""
    if n == 0:
        return 0.0, 1.0
    mixed = log_beta(events + 0.5, n - events + 0.5) - log_beta(0.5, 0.5)
    needed = mixed - math.log(1 / level)

    def likely(rate: float) -> bool:
        happened = events * math.log(rate) if events else 0.0
        return happened + ((n - events) * math.log1p(-rate) if n > events else 0.0) > needed

    observed = events / n
    lower = 0.0 if events == 0 else edge(likely, observed, 0.0)
    upper = 1.0 if events == n else edge(likely, observed, 1.0)
    return lower, upper


def edge(holds: Callable[[float], bool], inside: float, outside: float, halvings: int = 30) -> float:
    """Where `holds` ends on the way out, to the safe side: the way is halved so many times."""
    for _ in range(halvings):
        middle = (inside + outside) / 2
        if holds(middle):
            inside = middle
        else:
            outside = middle
    return outside


def difference_bounds(n: tuple[int, int], events: tuple[int, int], log_odds: Interval) -> Interval:
    """Rate of the second arm minus that of the first, from bounds of the log odds ratio: each end at their level and 0.001 more."""
    outcomes, happened = sum(n), sum(events)
    share = n[1] / outcomes
    low, high = rate_bounds(happened, outcomes, _SURE)
    # As a function of the overall rate a difference has one extreme; the nodes between the ends come close enough to it.
    overall = [low + (high - low) * i / 8 for i in range(9)] + [happened / outcomes]
    ends = [[_difference(rate, share, d) for rate in overall] for d in log_odds]
    return min(ends[0]), max(ends[1])


def _difference(overall: float, share: float, log_odds: float) -> float:
    """The difference of two rates of this odds ratio whose mean, weighted with `share` for the second, is `overall`."""
    if math.isinf(log_odds):
        first, second = (1 - share, share) if log_odds > 0 else (share, 1 - share)
        more = min(1.0, overall / second)
        less = (overall - second * more) / first
        return more - less if log_odds > 0 else less - more
    excess = math.expm1(log_odds)
    if abs(excess) < 1e-12:
        return 0.0
    linear = (1 - share) + share * (1 + excess) - overall * excess
    root = math.sqrt(max(linear**2 + 4 * (1 - share) * excess * overall, 0.0))
    first = 2 * overall / (linear + root)
    return first * (1 + excess) / (1 + first * excess) - first


def mean_bounds(mean: float, variance: float, n: float, level: float) -> Interval:
    """Of a mean, each end at 1 - `level`; `variance` is that of one of the `n` values."""
    if n < 2 or not math.isfinite(variance):
        return -math.inf, math.inf
    grown = n * _DISCOUNT + 1
    half = math.sqrt(variance) * math.sqrt(2 * grown / (n * n * _DISCOUNT) * math.log(math.sqrt(grown) / (2 * level)))
    return mean - half, mean + half


def latency_bounds(histogram: Mapping[int, int], share: float, level: float) -> Interval:
    """Seconds between which the quantile `share` lies, from a histogram by `bins.latency_bin`; the upper end is infinite where the
    sample is too small for it."""
    n = total(histogram)
    if n == 0:
        return 0.0, math.inf
    weight = 20.0
    a, b = weight * share, weight * (1 - share)
    needed = math.log(1 / level)

    def likely(below: int) -> bool:
        mixed = log_beta(below + a, n - below + b) - log_beta(a, b)
        return mixed - below * math.log(share) - (n - below) * math.log1p(-share) < needed

    least, most = _rank(likely, n * share, 0), _rank(likely, n * share, n)
    lower, upper, seen = 0.0, math.inf, 0
    for number in sorted(histogram):
        before, seen = seen, seen + histogram[number]
        if before < least:
            lower = latency_edge(number)
        if before <= most < seen:
            upper = latency_edge(number + 1) if number < LATENCY_BINS - 1 else math.inf
    return lower, upper


def _rank(likely: Callable[[int], bool], middle: float, end: int) -> int:
    """The last whole number between `middle` and `end` that is likely, or one beyond it."""
    inside, outside = round(middle), end
    if likely(end):
        return end
    while abs(outside - inside) > 1:
        halfway = (inside + outside) // 2
        inside, outside = (halfway, outside) if likely(halfway) else (inside, halfway)
    return outside
