"""What is counted of one version's answers: since it was first seen, and over its newest labels.

Examples come in as `Columns`, arrays of one entry an example, and are counted twice: into a `Tally`, sums that hold whatever they have
seen in a fixed number of values, and into a `Recent`, which keeps the columns themselves of the newest ones. The figures of the window
are those of a fresh tally over its columns, but for the area under the curve, which is exact there.

Beside each figure stands that of the no-change baseline, which answers the label before: on autocorrelated streams it beats many a
model that looks good (Bifet et al. 2013; kappa-temporal compares with it). Where probabilities are judged it is given the benefit
of honesty: the label before gets the share of labels so far that were like the one before them, the other classes the rest evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from everloop.core.types import Task
from everloop.policy.metrics import ClassSums, ErrorSums, Numbers
from everloop.policy.scores import Judged, ScoreSums, brier_losses, log_losses, mean_auc

WINDOW = 1000
"""Newest labels of a version that its window holds."""

Columns: TypeAlias = dict[str, npt.NDArray[Any]]
"""`at` (the number of the example), `label`, `answer`, `previous`; values for regression, NaN for no previous one, codes for
classification, -1 for none, and beside them `right`, `honest` (what the baseline gives the label before; 0 where there is none),
`others` (the classes that get the rest), `scored`, and the fields of `policy.scores.Judged`, which say something where `scored`
does."""

SCORE_COLUMNS = ("place", "truth", "square", "top", "hit", "curves")


class Tally:
    """Sums over one stream of examples. Owned by one thread; `merge` into a new one is a copy."""

    __slots__ = ("answers", "baseline", "honest", "scores", "task")

    def __init__(self, task: Task) -> None:
        self.task: Task = task
        self.answers: Any = ErrorSums() if task == "regression" else ClassSums()
        self.baseline: Any = type(self.answers)()
        self.scores = ScoreSums()
        self.honest = [0, 0.0, 0.0]
        """Of the baseline's probabilities: rows, log loss, Brier score."""

    @property
    def n(self) -> int:
        return int(self.answers.n)

    def add(self, columns: Columns, classes: Sequence[Any]) -> None:
        """`classes`: those that the scores are of."""
        if self.task == "regression":
            self.answers.add(columns["label"], columns["answer"])
            known = np.isfinite(columns["previous"])
            self.baseline.add(columns["label"][known], columns["previous"][known])
            return
        label, previous = columns["label"], columns["previous"]
        self.answers.add(label, columns["answer"], columns["right"])
        same = (label == previous) & (label >= 0)
        known = columns["honest"] > 0
        self.baseline.add(label[known], previous[known], same[known])
        scored = columns["scored"]
        if scored.any():
            self.scores.add(_judged(columns, scored, len(classes)), classes)
            self._add_honest(columns, same, scored & known, len(classes))

    def _add_honest(self, columns: Columns, same: npt.NDArray[np.bool_], rows: npt.NDArray[np.bool_], k: int) -> None:
        honest, others = columns["honest"][rows], columns["others"][rows]
        spread = (1 - honest) / others
        truth: Numbers = np.where(same[rows], honest, spread)
        square = np.square(honest) + others * np.square(spread)
        self.honest[0] += len(truth)
        self.honest[1] += float(log_losses(truth).sum())
        self.honest[2] += float(brier_losses(truth, square, k).sum())

    def merge(self, other: Tally) -> None:
        self.answers.merge(other.answers)
        self.baseline.merge(other.baseline)
        self.scores.merge(other.scores)
        self.honest = [mine + theirs for mine, theirs in zip(self.honest, other.honest, strict=True)]

    def figures(self) -> dict[str, Any]:
        """One that is not defined yet is left out."""
        figures: dict[str, Any] = {"n": self.n}
        baseline: dict[str, float] = self.baseline.figures()
        if self.task == "regression":
            if self.answers.bad:
                figures["unusable"] = self.answers.bad
            figures |= self.answers.figures()
            return figures | _prefixed(baseline)
        if not self.n:
            return figures
        figures |= self.answers.figures() | {"correct": self.answers.right} | self.scores.figures()
        if self.honest[0]:
            rows, log, brier = self.honest
            baseline |= {"log_loss": log / rows, "brier": brier / rows}
        if "auc" in figures and (auc := self.baseline.auc()) is not None:
            baseline["auc"] = auc
        missed = 1 - baseline["accuracy"] if "accuracy" in baseline else 0.0
        if missed > 0:
            figures["kappa_temporal"] = (figures["accuracy"] - baseline["accuracy"]) / missed
        return figures | _prefixed(baseline)

    def dump(self) -> dict[str, Any]:
        """For a checkpoint: values that msgpack can hold."""
        data = {"answers": self.answers.dump(), "baseline": self.baseline.dump()}
        return data if self.task == "regression" else data | {"scores": self.scores.dump(), "honest": self.honest}

    @classmethod
    def load(cls, task: Task, data: Mapping[str, Any]) -> Tally:
        tally = cls(task)
        sums = type(tally.answers)
        tally.answers, tally.baseline = sums.load(data["answers"]), sums.load(data["baseline"])
        if task == "classification":
            tally.scores, tally.honest = ScoreSums.load(data["scores"]), list(data["honest"])
        return tally


class Recent:
    """The newest `WINDOW` examples of one version. Its arrays are replaced, never changed: what was read stays as it was."""

    __slots__ = ("columns",)

    def __init__(self, columns: Columns | None = None) -> None:
        self.columns: Columns = columns or {}

    def add(self, columns: Columns) -> None:
        if not self.columns:
            self.columns = {name: column[-WINDOW:] for name, column in columns.items()}
            return
        keep = max(WINDOW - len(columns["at"]), 0)
        self.columns = {
            name: _stacked(self.columns[name][-keep:] if keep else self.columns[name][:0], column[-WINDOW:])
            for name, column in columns.items()
        }

    @property
    def last(self) -> int:
        """The number of the newest example."""
        return int(self.columns["at"][-1])

    def dump(self) -> dict[str, Any]:
        return {name: [column.dtype.str, list(column.shape), column.tobytes()] for name, column in self.columns.items()}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Recent:
        return cls(
            {name: np.frombuffer(raw, kind).reshape(shape) for name, (kind, shape, raw) in data.items()},
        )


def window_figures(task: Task, parts: Sequence[tuple[Columns, Sequence[Any]]]) -> dict[str, Any]:
    """Of the examples of one version, or of several: their columns, and the classes that their scores are of."""
    tally = Tally(task)
    for columns, classes in parts:
        tally.add(columns, classes)
    figures = tally.figures()
    if figures.pop("auc_error", None) is not None:
        scored = [(columns, classes) for columns, classes in parts if columns["scored"].any()]
        area = mean_auc(_joined([_judged(columns, columns["scored"], len(classes)) for columns, classes in scored]))
        assert area is not None
        figures["auc"] = area
    return figures


def _prefixed(figures: Mapping[str, float]) -> dict[str, float]:
    return {f"baseline_{name}": value for name, value in figures.items()}


def _judged(columns: Columns, rows: npt.NDArray[np.bool_], classes: int) -> Judged:
    return Judged(**{name: columns[name][rows] for name in SCORE_COLUMNS}, classes=classes)


def _joined(parts: Sequence[Judged]) -> Judged:
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in SCORE_COLUMNS}
    return Judged(**columns, classes=parts[0].classes)


def _stacked(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A version's curves have no width until its first scores."""
    if old.ndim == 2 and old.shape[1] != new.shape[1]:
        width = max(old.shape[1], new.shape[1])
        old, new = (np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in (old, new))
    return np.concatenate([old, new])
