"""Whether confidence means what it says: predictions are held against outcomes, and the confidence of the next ones is corrected.

A raw confidence is the probability, by the model of `evidence.py`, that a run takes the predicted time within 25 %. Outcomes are collected
for *every* recorded run, before it is learned from (test-then-train), whether or not its prediction was used: otherwise nothing would
ever be known about predictions that were not trusted. Ten bins of raw confidence, each with a prior of a few outcomes at its own value,
are made monotonic by pooling adjacent violators (isotonic regression; Zadrozny & Elkan, KDD 2002) and read by linear interpolation.

The threshold moves by itself: to where, of the predictions that it lets through, the share that the caller asked for comes true.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from everloop.parallel.history import History
    from everloop.parallel.predictor import PredictionResult

Basis = Literal["function", "across"]
"""Predicted from the function's own runs, or from those of others."""
BINS = 10
_PRIOR_OUTCOMES = 4.0
_LOWEST, _HIGHEST = 0.01, 0.99
_ENOUGH_TO_MOVE = 20
_MOST_DOWN, _MOST_UP = 0.1, 0.2


@dataclass(frozen=True, slots=True)
class Outcome:
    raw: float
    """Confidence by the model alone."""
    confidence: float
    """As it was told: calibrated by the outcomes before it."""
    hit: bool
    """The run took the predicted time within 25 %."""
    error: float
    """Natural logarithm of actual over predicted time."""
    basis: Basis = "function"


class Calibrator:
    """From raw confidence to the share that came true."""

    def __init__(self, outcomes: Iterable[tuple[float, bool]] = ()) -> None:
        self._count = [0] * BINS
        self._hits = [0] * BINS
        self._raw = [0.0] * BINS
        for raw, hit in outcomes:
            self.add(raw, hit)
        self._curve: list[tuple[float, float]] | None = None

    def add(self, raw: float, hit: bool) -> None:
        at = min(BINS - 1, int(raw * BINS))
        self._count[at] += 1
        self._hits[at] += hit
        self._raw[at] += raw
        self._curve = None

    @property
    def curve(self) -> list[tuple[float, float]]:
        """(raw confidence, calibrated), rising in both."""
        if self._curve is None:
            centres, values, weights = [], [], []
            for at in range(BINS):
                middle = (at + 0.5) / BINS
                weight = self._count[at] + _PRIOR_OUTCOMES
                centres.append((self._raw[at] + _PRIOR_OUTCOMES * middle) / weight)
                values.append((self._hits[at] + _PRIOR_OUTCOMES * middle) / weight)
                weights.append(weight)
            self._curve = list(zip(centres, isotonic(values, weights), strict=True))
        return self._curve

    def __call__(self, raw: float) -> float:
        curve = self.curve
        at = bisect.bisect(curve, (raw, 2.0))
        if at == 0:  # below the lowest centre: toward nothing
            x, y = curve[0]
            found = y * raw / x
        elif at == len(curve):  # above the highest: toward the same distance from certainty
            x, y = curve[-1]
            found = 1.0 - (1.0 - y) * (1.0 - raw) / (1.0 - x) if y > x else y
        else:
            (x0, y0), (x1, y1) = curve[at - 1], curve[at]
            found = y0 + (y1 - y0) * (raw - x0) / (x1 - x0)
        return min(_HIGHEST, max(_LOWEST, found))


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The nearest rising sequence, by weighted squares: neighbours that fall are pooled to their mean."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, mass, length = blocks.pop()
            total = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / total, total, length + block[2])
        blocks.append(block)
    return [value for value, _, length in blocks for _ in range(length)]


def moved_threshold(asked: float, outcomes: Collection[Outcome]) -> float:
    """The lowest threshold near `asked` above which at least that share came true; `asked` itself while little is known.

    At most 0.1 lower and 0.2 higher (never above 0.95 unless that was asked for). A prior of ten outcomes at `asked` keeps it calm.
    """
    if len(outcomes) < _ENOUGH_TO_MOVE:
        return asked
    highest = max(asked, min(0.95, asked + _MOST_UP))
    falling = sorted(((outcome.confidence, outcome.hit) for outcome in outcomes), reverse=True)
    if falling[0][0] < asked - _MOST_DOWN:
        return asked  # nothing was let through, so nothing is known about what is
    found, hits = highest, 0
    for count, (confidence, hit) in enumerate(falling, 1):
        hits += hit
        if confidence < asked - _MOST_DOWN:
            break
        last = count == len(falling) or falling[count][0] < confidence
        if last and confidence <= highest and (hits + 10.0 * asked) / (count + 10.0) >= asked:
            found = confidence
    return found


def calibration_error(told: Sequence[float], hits: Sequence[bool], bins: int = BINS) -> float:
    """Expected calibration error: mean distance of confidence and share that came true, over bins by their number of outcomes (Guo et
    al., ICML 2017). `told`, `hits`: (n,); 0 for none."""
    total = 0.0
    for _, confidence, share, count in reliability(told, hits, bins):
        total += count * abs(confidence - share)
    return total / len(told) if told else 0.0


def reliability(told: Sequence[float], hits: Sequence[bool], bins: int = BINS) -> list[tuple[float, float, float, int]]:
    """Rows of the reliability curve: (lower edge, mean confidence, share that came true, outcomes), of the bins that have any."""
    rows = []
    for at in range(bins):
        inside = [i for i, confidence in enumerate(told) if min(bins - 1, int(confidence * bins)) == at]
        if inside:
            count = len(inside)
            share = sum(hits[i] for i in inside) / count
            rows.append((at / bins, sum(told[i] for i in inside) / count, share, count))
    return rows


def track_prediction_accuracy(
    prediction: PredictionResult, actual_speedup: float, verbose: bool = False, *, history: History | None = None
) -> bool:
    """Hold a prediction against the speedup that its run had; True if it came true within 25 %. `execute` and `stream` do this by
    themselves for the runs that they record."""
    import math

    from everloop.core.errors import InvalidInput
    from everloop.parallel.evidence import TOLERANCE
    from everloop.parallel.history import get_history
    from everloop.parallel.validation import number

    if not hasattr(prediction, "predicted_speedup"):
        raise InvalidInput(f"prediction: a prediction is needed, this is {prediction!r}", field="prediction")
    actual_speedup = number("actual_speedup", actual_speedup, 0, above=True)
    number("prediction.predicted_speedup", prediction.predicted_speedup, 0, above=True)
    number("prediction.confidence", prediction.confidence, 0, 1)
    error = math.log(prediction.predicted_speedup / actual_speedup)
    hit = abs(error) <= math.log(1 + TOLERANCE)
    raw = prediction.confidence if prediction.raw_confidence is None else prediction.raw_confidence
    (history or get_history()).outcomes.add(Outcome(raw, prediction.confidence, hit, error, prediction.basis))
    if verbose:
        verdict = "came true" if hit else "did not come true"
        print(  # noqa: T201 - that is what verbose asks for
            f"The prediction of {prediction.predicted_speedup:.2f}x {verdict}: it was {actual_speedup:.2f}x "
            f"(confidence {prediction.confidence:.0%})"
        )
    return hit


def get_calibration_stats(history: History | None = None, asked: float = 0.7) -> dict[str, Any]:
    """How predictions fared: outcomes counted, share that came true, expected calibration error, the reliability curve as rows (lower
    edge, mean confidence, share, outcomes), and where the threshold `asked` stands now."""
    from everloop.parallel.history import get_history

    outcomes = (history or get_history()).outcomes.load()
    told, hits = [each.confidence for each in outcomes], [each.hit for each in outcomes]
    return {
        "total_predictions": len(outcomes),
        "hit_rate": sum(hits) / len(hits) if hits else None,
        "mean_confidence": sum(told) / len(told) if told else None,
        "calibration_error": calibration_error(told, hits) if told else None,
        "reliability": reliability(told, hits),
        "baseline_threshold": asked,
        "adjusted_threshold": moved_threshold(asked, outcomes),
    }
