"""What a quantised graph loses against the original, as one number that a search can go by. (The gate is `optimization.parity`.)

With labels: by how much the accuracy, or R² of a regression, falls. Without: the lost share of the answers' variance, that is
`mean((a - b)²) / var(a)` over probabilities, values or output tensors, and for models that give nothing but labels the share of them that
changed. It is found on rows that calibration does not see, where there are at least two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from everloop.core.errors import InvalidInput, NotSupported
from everloop.optimization.labels import strangers
from everloop.runtime import onnx
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOGETHER = 32
"""Rows that a graph is asked at once, where it takes more than one."""
_BLOCK = 256
_MOST_JUDGED = 4_096


class Judge:
    """Made once from the original; `loss` then of as many forms as are tried."""

    def __init__(
        self,
        manifest: Manifest,
        payload: bytes,
        rows: Sequence[Sequence[Any]] | NDArray[Any] | Mapping[str, NDArray[Any]],
        labels: Sequence[Any] | None,
        calibration_rows: int,
    ) -> None:
        """`rows`: (n, fields), or a model of tensors' inputs by name, each (n, …). `labels`: (n,). Rows with missing values are left out.
        Raises InvalidInput, NotSupported (none that is complete)."""
        self._manifest = manifest
        session = onnx.load(manifest, payload)
        self._tensors = manifest.task == "tensors"
        columns, y = _complete(session, rows, labels)
        n = len(columns[0])
        shown = max(1, min(calibration_rows, n // 2))
        places = _spread_over(np.arange(n), shown)
        others = np.setdiff1d(np.arange(n), places)
        kept = _spread_over(others if len(others) else places, _MOST_JUDGED)
        self.calibration = _feeds(session, [column[places] for column in columns])
        self.calibrated_on, self.judged_on = len(places), len(kept)
        self._columns = [column[kept] for column in columns]
        self._y = None if y is None else y[kept]
        self._classifies = manifest.target.task == "classification"
        self.measure = "answers' variance"
        if y is not None:
            self.measure = "accuracy" if self._classifies else "R²"
        self._before = self._numbers(session)
        self._metric_before = self._metric(session)
        if y is not None and self._classifies:
            known = manifest.classes or [label for X in self._blocks() for label in session.run(X).tolist()]
            strangers(y.tolist(), known)
        session.close()

    @property
    def labelled(self) -> bool:
        return self._y is not None

    def told(self) -> dict[str, Any]:
        """What `loss` is of, for a manifest."""
        return {"loss_is_of": self.measure, "judged_on": self.judged_on}

    def loss(self, payload: bytes) -> float:
        """Infinite for answers that are no numbers. Raises ArtifactCorrupt."""
        session = onnx.load(self._manifest, payload)
        try:
            if self._y is not None:
                return max(0.0, self._metric_before - self._metric(session))
            return _lost_share(self._before, self._numbers(session))
        finally:
            session.close()

    def _numbers(self, session: Any) -> list[NDArray[Any]]:
        """What the forms are compared by: each array on its own."""
        if self._tensors:
            names = [spec.name for spec in session.tensors.signature.outputs if spec.datatype.startswith("FP")]
            parts = [session.tensors.infer(list(feed.values()), names) for feed in _feeds(session, self._columns)]
            return [np.concatenate([np.asarray(part[name]).reshape(-1) for part in parts]) for name in names]
        answers = [
            scores if self._classifies and (scores := session.scores(X)) is not None else session.run(X)
            for X in self._blocks()
        ]
        return [np.concatenate(answers)]

    def _blocks(self) -> list[NDArray[Any]]:
        (X,) = self._columns
        return [X[i : i + _BLOCK] for i in range(0, len(X), _BLOCK)]

    def _metric(self, session: Any) -> float:
        if self._y is None:
            return 0.0
        answers = np.concatenate([session.run(X) for X in self._blocks()])
        if self._classifies:
            return float(np.mean([a == b for a, b in zip(answers.tolist(), self._y.tolist(), strict=True)]))
        y = self._y.astype(np.float64)
        spread = float(((y - y.mean()) ** 2).sum())
        return 1 - float(((y - answers) ** 2).sum()) / spread if spread else 0.0


def _spread_over(places: NDArray[Any], most: int) -> NDArray[Any]:
    """At most so many of them, evenly."""
    kept: NDArray[Any] = places[np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))]
    return kept


def _complete(session: Any, rows: Any, labels: Sequence[Any] | None) -> tuple[list[NDArray[Any]], NDArray[Any] | None]:
    """One array an input of a model of tensors, one matrix of any other; without incomplete rows."""
    y = None if labels is None else np.asarray(labels)
    if session.target.task == "tensors":
        if not isinstance(rows, Mapping):
            raise InvalidInput("this model takes tensors: give its inputs by name, (n, …) each", field="rows")
        names = [spec.name for spec in session.tensors.signature.inputs]
        missing = [name for name in names if name not in rows]
        if missing:
            raise InvalidInput(f"there is no input {missing[0]!r} among the examples", field="rows")
        if y is not None:
            raise NotSupported("a model of tensors has no metric that labels could tell", field="labels")
        columns = [np.asarray(rows[name]) for name in names]
    else:
        X = rows if isinstance(rows, np.ndarray) else session.schema.matrix(list(rows), session.dtype)
        columns = [X.reshape(len(X), len(session.schema.fields))]
    n = len(columns[0])
    if n == 0:
        raise InvalidInput("there are no rows to calibrate and judge on", field="rows")
    if any(len(column) != n for column in columns) or (y is not None and len(y) != n):
        raise InvalidInput("all inputs and the labels need the same number of rows", field="rows")
    good = np.ones(n, bool)
    for column in columns:
        if column.dtype.kind == "f":
            good &= np.isfinite(column.reshape(n, -1)).all(axis=1)
    if not good.any():
        raise NotSupported("there are no complete rows to calibrate and judge on", field="rows")
    return [column[good] for column in columns], None if y is None else y[good]


def _feeds(session: Any, columns: Sequence[NDArray[Any]]) -> list[dict[str, Any]]:
    """What ONNX Runtime is asked, a few rows at a time."""
    by_tensors = session.target.task == "tensors"
    together = session.tensors.batched if by_tensors else not session.single
    size = _TOGETHER if together else 1
    parts = [[column[i : i + size] for column in columns] for i in range(0, len(columns[0]), size)]
    if by_tensors:
        names = [spec.name for spec in session.tensors.signature.inputs]
        return [dict(zip(names, part, strict=True)) for part in parts]
    return [session.feed(part[0]) for part in parts]


def _lost_share(before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]]) -> float:
    """Of the array that loses the most."""
    worst = 0.0
    for a, b in zip(before, after, strict=True):
        if a.dtype.kind != "f":
            worst = max(worst, float(np.mean(a != b)))
            continue
        if not np.isfinite(b).all():
            return float("inf")
        difference = float(np.mean((a.astype(np.float64) - b) ** 2))
        spread = float(np.var(a)) or float(np.mean(np.square(a))) or 1.0
        worst = max(worst, difference / spread)
    return worst
