"""Whether a challenger may replace the champion: a paired comparison on held-out examples that neither has trained on.

Order of calls: hold rows back (`policy.windows.holdout_rows`), fit the challenger on the others, take one loss an example
of both models on the very same rows (`learning.learners.base.losses`), then `judge`.

The evidence is the interval of the mean difference, champion minus challenger, one number a row. If neither model is
better, swapping their names changes nothing, so every difference is as likely to have the other sign. That alone gives
an interval, whatever the tails:

- up to 12 rows, Hartigan's typical values: the means of all subsets of the differences cut the line into intervals of
  equal probability (J. A. Hartigan, "Using subsample values as typical values", JASA 64, 1969). From 5 rows on the
  smallest one is a lower bound at 95 %.
- beyond, the self-normalised sum: P(sum of signed a_i / sqrt(sum of a_i**2) >= t) <= 3.178 (1 - Phi(t)) for any a_i
  (V. Bentkus and D. Dzindzalieta, "A tight Gaussian bound for weighted sums of Rademacher random variables",
  Bernoulli 21, 2015). No variance has to exist, and a single huge difference can never decide alone.

What it cannot give: a bound on the mean when a challenger is a little better nearly always and very much worse on rare
rows that the held-out ones happen to miss. No method can without assuming a bound on the losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput
from everloop.core.types import Task

Losses = npt.NDArray[np.float64]
Rule = Literal["better", "fresh"]

CONFIDENCE = 0.95
"""One-sided: of challengers that are no better than the champion, at most one in twenty passes `better`."""
RECOVERY_CONFIDENCE = 0.6
"""The same after a drift alarm, when the champion is known to have failed and waiting costs more than a mistake does."""
RECOVERY_GAIN = 0.1
RECOVERY_POINTS = 0.01
"""What that lesser evidence has to be of: a mean loss lower by a tenth, or an error rate lower by a point. Otherwise each refit
on a few examples more would be a version more."""
LEAST_ROWS = 5
"""With fewer, no outcome is evidence at 95 %: all four of four differences positive happens one time in sixteen."""
_EXACT_ROWS = 12
_BENTKUS = 3.178


@dataclass(frozen=True)
class Verdict:
    promote: bool
    reason: str
    """One sentence for a person, without the model's name."""
    champion: float | None
    """Mean loss on the held-out rows; None without a champion."""
    challenger: float | None
    """The same for the challenger; None where no row was held out."""
    difference: float | None
    """Champion minus challenger: positive where the challenger is better."""
    interval: tuple[float, float] | None
    """Of the difference; each end at the one-sided confidence. Infinite ends where the rows are too few."""
    n: int
    """Held-out rows."""


def judge(
    champion: Losses | Sequence[float] | None,
    challenger: Losses | Sequence[float],
    *,
    rule: Rule = "better",
    threshold: float = 0.05,
    task: Task = "regression",
    baseline: Losses | Sequence[float] | float | None = None,
    recovering: bool = False,
    floor: float = 0.0,
) -> Verdict:
    """Compare two models by their losses on the same rows, shape (n,) each, lower is better.

    `rule`: `better` promotes only on evidence that the mean loss is lower; `fresh` also when it is not higher by more
    than `threshold`, relatively. `recovering`: the challenger was fitted because of a drift alarm, or on more examples
    of the concept that one began; less evidence will do, if it is of a gain that matters. `baseline`: what always answering the mean (or the majority
    class) would lose on these rows; told in the reason. `floor`: a difference of the means up to this is none
    (`policy.drift.errors.loss_floor`); two exact models differ by rounding errors, which are no reason to swap.

    Without a champion a first model is promoted unless it is unusable, that is, any loss is not finite.
    Raises InvalidInput if the two differ in length.
    """
    ours = _losses(challenger, "challenger")
    n = len(ours)
    theirs = None if champion is None else _losses(champion, "champion")
    if theirs is not None and len(theirs) != n:
        raise InvalidInput(
            f"champion: expected {n} losses, one for each row the challenger was judged on, got {len(theirs)}",
            field="champion",
        )
    bad = int(np.count_nonzero(~np.isfinite(ours)))
    if bad:
        old = _mean(theirs) if theirs is not None else None
        return Verdict(False, f"the challenger gave unusable answers on {bad} of {n} rows", old, None, None, None, n)
    noun = "error rate" if task == "classification" else "mean absolute error"
    if theirs is None:
        return _first(ours, baseline, noun)
    if n == 0:
        return Verdict(False, "no row was held out to judge on", None, None, None, None, 0)
    broken = int(np.count_nonzero(~np.isfinite(theirs)))
    if broken:
        reason = f"the champion gives unusable answers on {broken} of {n} rows, the challenger on none"
        return Verdict(True, reason, None, _mean(ours), None, None, n)

    old, new = float(np.mean(theirs)), float(np.mean(ours))
    differences = theirs - ours
    confidence = RECOVERY_CONFIDENCE if recovering else CONFIDENCE
    interval = mean_interval(differences, confidence)
    figures = f"{noun} {new:.4g} against {old:.4g} on {n} rows"

    def verdict(promote: bool, why: str) -> Verdict:
        return Verdict(promote, f"{why}: {figures}", old, new, float(np.mean(differences)), interval, n)

    if n >= LEAST_ROWS and interval[0] > 0 and old - new > max(floor, 1e-12 * old):
        matters = RECOVERY_GAIN * old if task == "regression" else min(RECOVERY_GAIN * old, RECOVERY_POINTS)
        if not recovering or old - new >= matters or mean_interval(differences, CONFIDENCE)[0] > 0:
            return verdict(True, "better")
    if rule == "fresh" and n >= LEAST_ROWS and new <= old * (1 + threshold) + floor:
        return verdict(True, f"fresher, and not worse by more than {threshold:.0%}")
    if n < LEAST_ROWS:
        return verdict(False, f"too few held-out rows to tell (at least {LEAST_ROWS} are needed)")
    if interval[1] < 0 and new - old > floor:
        return verdict(False, "worse")
    return verdict(False, "not shown to be better")


def mean_interval(differences: Losses, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """An interval for the centre of `differences`, shape (n,): each end holds with probability `confidence`.

    Ends are infinite where n is too small for the confidence.
    """
    n = len(differences)
    alpha = 1 - confidence
    if n <= _EXACT_ROWS:
        outside = math.floor(alpha * 2**n + 1e-9)
        if n == 0 or outside < 1:
            return -math.inf, math.inf
        means = np.sort(_subset_means(differences))
        return float(means[outside - 1]), float(means[-outside])
    bound = min(NormalDist().inv_cdf(1 - alpha / _BENTKUS), math.sqrt(2 * math.log(1 / alpha)))
    mean, deviation = float(np.mean(differences)), float(np.std(differences))
    if bound <= 0:
        return mean, mean
    if n <= bound**2:
        return -math.inf, math.inf
    half = deviation * bound / math.sqrt(n - bound**2)
    return mean - half, mean + half


def _subset_means(values: Losses) -> Losses:
    """The means of all 2**n - 1 subsets that are not empty."""
    sums, sizes = np.zeros(1), np.zeros(1)
    for value in values:
        sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
    means: Losses = sums[1:] / sizes[1:]
    return means


def _first(ours: Losses, baseline: Any, noun: str) -> Verdict:
    n = len(ours)
    if n == 0:
        return Verdict(True, "the first version; no row was held out to judge it", None, None, None, None, 0)
    new = float(np.mean(ours))
    reason = f"the first version: {noun} {new:.4g} on {n} rows"
    if baseline is not None:
        plain = float(np.mean(np.asarray(baseline, np.float64)))
        worse = "" if new < plain else ", which it does not beat"
        reason += f"; a constant answer has {plain:.4g}{worse}"
    return Verdict(True, reason, None, new, None, None, n)


def _losses(values: Any, field: str) -> Losses:
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise InvalidInput(f"{field}: expected one loss an example, shape (n,), got {array.shape}", field=field)
    return array


def _mean(values: Losses) -> float | None:
    """None where it is not finite, so that a verdict can always be written as JSON."""
    if len(values) == 0:
        return None
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else None
