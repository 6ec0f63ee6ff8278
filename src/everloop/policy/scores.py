"""How good probabilities are: log loss, Brier score, calibration and the area under the ROC curve, as running sums.

Of each row only a few numbers are kept (`Judged`): what the label was given, the sum of squares, the greatest probability and whether
its class was right. All but the area follow from their sums:

- log loss, -log p(label) (Good 1952); p is clipped to `CLIP` … 1 - `CLIP`, as scikit-learn does, so one certain and wrong row costs 36.
- Brier score (Brier 1950): the sum of squared differences over the classes, halved for two classes, as scikit-learn scales it.
- expected calibration error of the top class in `CALIBRATION_BINS` bins of equal width (Guo, Pleiss, Sun, Weinberger 2017, "On
  calibration of modern neural networks").

The area under the curve is the chance that a positive row is scored above a negative one, ties counting one half (Hanley, McNeil 1982);
with more than two classes the mean over the classes, each against the rest (scikit-learn's `roc_auc_score(multi_class="ovr")`), over
those that have positives and negatives. Over few rows it is exact (`exact_auc`). Over a stream scores are counted in `CURVE_BINS` bins
that are narrow both in probability and in log-odds, so that neither timid nor certain models fall into a few of them; pairs within a bin
count one half, so the error is at most half their share of all pairs, and is told (`auc_error`).

A label that the model has no class for was given a probability of 0. Rows whose scores are no probabilities are not judged.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.policy.metrics import Flags, Numbers

Counts = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]

CLIP = float(np.finfo(np.float64).eps)
CALIBRATION_BINS = 15
CURVE_BINS = 1_000
MOST_CURVES = 10
"""Classes up to which there is an area under the curve: each costs `CURVE_BINS` counts and a sorting of the window."""
_FARTHEST = 36.0
"""Log-odds beyond which scores are not told apart: those of 1 - `CLIP`."""
_SUM_TOLERANCE = 1e-3
"""By how much probabilities, in single precision or rounded, may miss a sum of 1."""


def curves_of(classes: int) -> int:
    """How many areas are measured: one for two classes, as the other is its mirror image."""
    return 1 if classes == 2 else classes if 2 < classes <= MOST_CURVES else 0


@dataclass(frozen=True)
class Judged:
    """What is kept of n rows."""

    place: Places
    """(n,) Which of the model's classes the label is; -1 for none of them."""
    truth: Numbers
    """(n,) The probability that the label was given."""
    square: Numbers
    """(n,) The sum of the squared probabilities."""
    top: Numbers
    """(n,) The greatest one …"""
    hit: Flags
    """(n,) … and whether it was the label's."""
    curves: Numbers
    """(n, `curves_of(classes)`) Scores that areas are measured of."""
    classes: int


def probable(scores: Numbers) -> Flags:
    """(n, classes) -> (n,): which rows are probabilities."""
    with np.errstate(invalid="ignore"):
        whole = (scores >= -CLIP).all(axis=1) & (np.abs(scores.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    return np.asarray(whole, np.bool_)


def judge(scores: Numbers, place: Places) -> Judged:
    """`scores`: (n, classes), probabilities; `place`: (n,), which class the label is."""
    n, classes = scores.shape
    rows = np.arange(n)
    best = scores.argmax(axis=1)
    curves = curves_of(classes)
    return Judged(
        place=place,
        truth=np.where(place >= 0, scores[rows, place], 0.0),
        square=np.square(scores).sum(axis=1),
        top=scores[rows, best],
        hit=best == place,
        curves=scores[:, classes - curves :],
        classes=classes,
    )


def log_losses(truth: Numbers) -> Numbers:
    return -np.log(np.clip(truth, CLIP, 1 - CLIP))


def brier_losses(truth: Numbers, square: Numbers, classes: int) -> Numbers:
    whole: Numbers = square - 2 * truth + 1
    return whole / 2 if classes == 2 else whole


def positives(judged: Judged) -> Flags:
    """(n, curves): whether the label is the curve's class."""
    curves = judged.curves.shape[1]
    return np.asarray(judged.place[:, None] == np.arange(judged.classes - curves, judged.classes), np.bool_)


def exact_auc(scores: Numbers, positive: Flags) -> float | None:
    """(n,), (n,) -> the area; None without both positives and negatives."""
    many = int(np.count_nonzero(positive))
    pairs = many * (len(positive) - many)
    if not pairs:
        return None
    ordered = np.sort(scores)
    of = scores[positive]
    ranks = (np.searchsorted(ordered, of, "left") + np.searchsorted(ordered, of, "right") + 1) / 2
    return float((ranks.sum() - many * (many + 1) / 2) / pairs)


def mean_auc(judged: Judged) -> float | None:
    """The exact area of these rows, the mean over the curves; None where no curve has one."""
    positive = positives(judged)
    areas = [exact_auc(judged.curves[:, i], positive[:, i]) for i in range(judged.curves.shape[1])]
    known = [area for area in areas if area is not None]
    return sum(known) / len(known) if known else None


def bins_of(scores: Numbers) -> npt.NDArray[np.intp]:
    """Which of the `CURVE_BINS` bins a probability is counted in; never lower for a greater one."""
    sure = np.clip(scores, 1e-300, 1.0)
    with np.errstate(divide="ignore"):
        odds = np.clip(np.log(sure) - np.log1p(-sure), -_FARTHEST, _FARTHEST)
    share = (sure + (odds + _FARTHEST) / (2 * _FARTHEST)) / 2
    bins: npt.NDArray[np.intp] = np.minimum((share * CURVE_BINS).astype(np.intp), CURVE_BINS - 1)
    return bins


class ScoreSums:
    """Of one stream of judged rows, all of models with the same classes; merged with others, what they have in common."""

    __slots__ = ("bins", "brier", "classes", "curves", "log", "n")

    def __init__(self) -> None:
        self.n = 0
        self.log = self.brier = 0.0
        self.bins: Numbers = np.zeros((3, CALIBRATION_BINS))
        """By bin: rows, sum of the greatest probability, how often its class was right."""
        self.classes: tuple[Any, ...] | None = None
        """None before the first row; empty once rows of models with different classes have been merged: then there is no area."""
        self.curves: Counts = np.zeros((2, 0, CURVE_BINS), np.int64)
        """By curve and bin: positives, negatives."""

    def add(self, judged: Judged, classes: Sequence[Any]) -> None:
        if not len(judged.truth):
            return
        self.n += len(judged.truth)
        self.log += float(log_losses(judged.truth).sum())
        self.brier += float(brier_losses(judged.truth, judged.square, judged.classes).sum())
        where = np.clip((judged.top * CALIBRATION_BINS).astype(np.intp), 0, CALIBRATION_BINS - 1)
        for row, weights in enumerate((None, judged.top, judged.hit)):
            self.bins[row] += np.bincount(where, weights, CALIBRATION_BINS)
        curves = np.zeros((2, judged.curves.shape[1], CURVE_BINS), np.int64)
        positive = positives(judged)
        for i in range(curves.shape[1]):
            bins = bins_of(judged.curves[:, i])
            for row, chosen in enumerate((positive[:, i], ~positive[:, i])):
                curves[row, i] = np.bincount(bins[chosen], minlength=CURVE_BINS)
        self._add_curves(curves, tuple(classes))

    def merge(self, other: ScoreSums) -> None:
        self.n += other.n
        self.log += other.log
        self.brier += other.brier
        self.bins = self.bins + other.bins
        if other.classes is not None:
            self._add_curves(other.curves, other.classes)

    def _add_curves(self, curves: Counts, classes: tuple[Any, ...]) -> None:
        if self.classes is None:
            self.classes, self.curves = classes, curves.copy()
        elif self.classes == classes:
            self.curves += curves
        else:
            self.classes, self.curves = (), np.zeros((2, 0, CURVE_BINS), np.int64)

    def figures(self) -> dict[str, float]:
        """`log_loss`, `brier`, `calibration_error`, `auc` and `auc_error`, as far as they are known; `scored` rows."""
        if not self.n:
            return {}
        rows, confidence, right = self.bins
        figures = {
            "scored": self.n,
            "log_loss": self.log / self.n,
            "brier": self.brier / self.n,
            "calibration_error": float(np.abs(confidence - right).sum() / rows.sum()),
        }
        areas = []
        for i in range(self.curves.shape[1]):
            positive, negative = self.curves[0, i], self.curves[1, i]
            pairs = int(positive.sum()) * int(negative.sum())
            if pairs:
                below = np.cumsum(negative) - negative
                tied = float((positive * negative).sum()) / 2
                areas.append((float((positive * below).sum() + tied) / pairs, tied / pairs))
        if areas:
            figures["auc"], figures["auc_error"] = (float(np.mean(each)) for each in zip(*areas, strict=True))
        return figures

    def dump(self) -> dict[str, Any]:
        return {
            "sums": [self.n, self.log, self.brier],
            "bins": self.bins.tolist(),
            "classes": None if self.classes is None else list(self.classes),
            "curves": zlib.compress(self.curves.astype("<i8").tobytes(), 1),  # most bins are empty
        }

    @classmethod
    def load(cls, data: dict[str, Any]) -> ScoreSums:
        sums = cls()
        sums.n, sums.log, sums.brier = int(data["sums"][0]), float(data["sums"][1]), float(data["sums"][2])
        sums.bins = np.array(data["bins"], np.float64).reshape(3, CALIBRATION_BINS)
        sums.classes = None if data["classes"] is None else tuple(data["classes"])
        sums.curves = np.frombuffer(zlib.decompress(data["curves"]), "<i8").astype(np.int64).reshape(2, -1, CURVE_BINS)
        return sums
