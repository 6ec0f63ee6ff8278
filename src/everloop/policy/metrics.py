"""How good answers are: running sums of one stream of (label, answer), from which the metrics of the field follow at any time.

Each sum takes arrays of any length, can be merged with another's (of other versions, of other stretches), and holds a fixed number of
values whatever it has seen.

- `ErrorSums`, regression: MAE, RMSE and R² as in the textbooks. Means and squared deviations are merged, not accumulated, which is
  stable (Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance").
- `ClassSums`, classification: accuracy; balanced accuracy, the mean recall of the classes that have occurred (Brodersen et al. 2010,
  "The balanced accuracy and its posterior distribution"); and the area under the curve of an answer that is nothing but a class.

Probabilities are judged in `policy.scores`. Property tests hold all of them to scikit-learn's functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

MOST_CLASSES = 1_000
"""Distinct labels that are counted one by one. Beyond, accuracy is still right, and what needs each class is not told."""


class ErrorSums:
    """Of numbers. Answers that are no finite numbers are counted in `bad` and in no mean."""

    __slots__ = ("absolute", "bad", "m2", "mean", "n", "square")

    def __init__(self) -> None:
        self.n = self.bad = 0
        self.absolute = self.square = 0.0
        self.mean = self.m2 = 0.0
        """Of the labels: their mean, and the sum of squared deviations from it."""

    def add(self, labels: Numbers, answers: Numbers) -> None:
        """Two arrays (n,). Labels are finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            errors = np.abs(labels - answers)
            good = np.isfinite(errors)
            if not good.all():
                self.bad += int(len(good) - np.count_nonzero(good))
                labels, errors = labels[good], errors[good]
            if not len(errors):
                return
            mean = float(labels.mean())
            self._merge(
                len(errors),
                float(errors.sum()),
                float(np.square(errors).sum()),
                mean,
                float(np.square(labels - mean).sum()),
            )

    def merge(self, other: ErrorSums) -> None:
        self.bad += other.bad
        if other.n:
            self._merge(other.n, other.absolute, other.square, other.mean, other.m2)

    def _merge(self, n: int, absolute: float, square: float, mean: float, m2: float) -> None:
        total = self.n + n
        delta = mean - self.mean
        self.m2 += m2 + delta * delta * self.n * n / total
        self.mean += delta * n / total
        self.n = total
        self.absolute += absolute
        self.square += square

    def figures(self) -> dict[str, float]:
        """`mae`, `rmse`, and `r2` where the labels differ. What has overflown is left out."""
        if not self.n:
            return {}
        figures = {"mae": self.absolute / self.n, "rmse": math.sqrt(self.square / self.n)}
        if self.m2 > 0:
            figures["r2"] = 1.0 - self.square / self.m2
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def dump(self) -> list[float]:
        return [self.n, self.bad, self.absolute, self.square, self.mean, self.m2]

    @classmethod
    def load(cls, numbers: Sequence[float]) -> ErrorSums:
        sums = cls()
        sums.n, sums.bad = int(numbers[0]), int(numbers[1])
        sums.absolute, sums.square, sums.mean, sums.m2 = map(float, numbers[2:6])
        return sums


class ClassSums:
    """Of classes, each known by a small number, its code."""

    __slots__ = ("counts", "n", "right", "whole")

    def __init__(self) -> None:
        self.n = self.right = 0
        self.counts: npt.NDArray[np.int64] = np.zeros((3, 0), np.int64)
        """By code: how often it was the label, how often the answer, how often both."""
        self.whole = True
        """Whether every label had a code."""

    def add(self, labels: Codes, answers: Codes, right: Flags) -> None:
        """Three arrays (n,). A code of -1 stands for a class that has none; `right` tells nevertheless whether the answer was."""
        self.n += len(right)
        self.right += int(np.count_nonzero(right))
        if len(labels) and labels.min() < 0:
            self.whole = False
            coded = labels >= 0
            labels, answers, right = labels[coded], answers[coded], right[coded]
        known = answers[answers >= 0]
        size = 1 + max(int(labels.max(initial=-1)), int(known.max(initial=-1)))
        self._grow(size)
        for row, codes in enumerate((labels, known, labels[right])):
            self.counts[row, :size] += np.bincount(codes, minlength=size)

    def merge(self, other: ClassSums) -> None:
        self.n += other.n
        self.right += other.right
        self.whole = self.whole and other.whole
        size = other.counts.shape[1]
        self._grow(size)
        self.counts[:, :size] += other.counts

    def figures(self) -> dict[str, float]:
        """`accuracy`, and `balanced_accuracy` where every label has a code."""
        if not self.n:
            return {}
        figures = {"accuracy": self.right / self.n}
        if self.whole:
            support, _, both = self.counts
            seen = support > 0
            if seen.any():
                figures["balanced_accuracy"] = float((both[seen] / support[seen]).mean())
        return figures

    def auc(self) -> float | None:
        """What the area under the curve is of answers that are sure of one class: (1 + recall - false positive rate) / 2, the mean over
        the classes, one against the rest. None where no class has both positives and negatives."""
        support, predicted, both = self.counts
        total = support.sum()
        seen = (support > 0) & (support < total)
        if not self.whole or not seen.any():
            return None
        false = (predicted - both)[seen] / (total - support[seen])
        return float(((1 + both[seen] / support[seen] - false) / 2).mean())

    def dump(self) -> list[Any]:
        return [self.n, self.right, self.whole, self.counts.tolist()]

    @classmethod
    def load(cls, data: Sequence[Any]) -> ClassSums:
        sums = cls()
        sums.n, sums.right, sums.whole = int(data[0]), int(data[1]), bool(data[2])
        sums.counts = np.array(data[3], np.int64).reshape(3, -1)
        return sums

    def _grow(self, size: int) -> None:
        missing = size - self.counts.shape[1]
        if missing > 0:
            self.counts = np.pad(self.counts, ((0, 0), (0, missing)))
