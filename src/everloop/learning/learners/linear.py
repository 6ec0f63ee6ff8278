"""The built-in kinds `linear`, `ridge` and `logistic`: accelerated gradient descent where the features are well-behaved.

The descent runs in coordinates in which the (regularised) second moment of the features is the identity: columns are centred
(where there is an intercept), scaled so that its diagonal is one, and rotated by its eigenvectors. There neither scale nor
correlation slows the descent, constant columns fall out by themselves, and among collinear ones the smallest weights win, as
in least squares by singular values. The solution is then carried back into the caller's units.

Steps follow Nesterov's acceleration with the gradient restart of O'Donoghue & Candès, "Adaptive Restart for Accelerated
Gradient Schemes", Found. Comput. Math. 15 (2015). For the logistic loss the second moment bounds the Hessian: by 1/4 of it for
two classes, 1/2 for more (Böhning, "Multinomial logistic regression algorithm", Ann. Inst. Stat. Math. 44, 1992).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import FitFailed, ModelUntrained, NotSupported
from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.learning.config import ModelParameters
from everloop.learning.learners.base import Weight
from everloop.learning.learners.labels import encode_labels
from everloop.runtime.artifact import library_versions
from everloop.runtime.linear import LinearModel, LinearSession, softmax
from everloop.stores.ports import Manifest

Floats = npt.NDArray[np.float64]
LinearKind = Literal["linear", "ridge", "logistic"]

_EPS = float(np.finfo(np.float64).eps)
_FIRST_STAGE = 50
"""Steps of a logistic fit before its coordinates are taken anew; each stage is twice as long as the one before."""
# The gradient counts as vanished at this share of its first norm. Least squares is held to agree with an exact solver; the
# logistic loss is flat near its end, and labels do not change there any more.
_TOLERANCE = {"linear": 1e-10, "ridge": 1e-10, "logistic": 1e-5}


class _Dump(msgspec.Struct, frozen=True):
    manifest: Manifest
    payload: bytes


class LinearLearner:
    """Trains from scratch at every `fit`; not incremental."""

    incremental = False
    weight: Weight = "light"

    def __init__(self, kind: LinearKind, parameters: ModelParameters | None = None) -> None:
        self.kind: str = kind
        self.parameters = parameters or ModelParameters()
        self.parameters.validate()
        self.task: Task | None = "classification" if kind == "logistic" else "regression"
        self.iterations = 0
        """How many steps the last fit took."""
        self._session: LinearSession | None = None
        self._manifest: Manifest | None = None

    @property
    def alpha(self) -> float:
        if self.parameters.regularization is None:
            return 0.0 if self.kind == "linear" else 1.0
        return float(self.parameters.regularization)

    def clone(self) -> LinearLearner:
        return LinearLearner(self.kind, self.parameters)  # type: ignore[arg-type]

    def fit(self, schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Raises FitFailed: no rows, text features, fewer than two classes, numbers too large to square."""
        if target.task != self.task:
            raise FitFailed(f"kind {self.kind!r} is for {self.task}, but the labels are for {target.task}")
        text = [field.name for field in schema.fields if field.kind == "text"]
        if text:
            raise FitFailed(
                f"kind {self.kind!r} takes numbers only, but {', '.join(map(repr, text))} is text: register the kind 'auto', or a "
                "scikit-learn pipeline that encodes it"
            )
        if not rows:
            raise FitFailed("there are no examples to fit")
        classes: list[Any] | None = None
        with np.errstate(all="ignore"):
            X = schema.matrix(rows)
            fill = _means(X)
            X = np.where(np.isnan(X), fill, X)
            if self.task == "regression":
                weights, bias = self._fit_regression(X, np.asarray(labels, np.float64))
            else:
                classes, codes = encode_labels(labels)
                weights, bias = self._fit_classes(X, codes, len(classes))
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise FitFailed("the features or labels are too large to compute with: scale them below about 1e150")
        self._manifest = Manifest(
            runtime="linear",
            task=target.task,
            schema=schema,
            target=target,
            classes=classes,
            libraries=library_versions("numpy"),
        )
        self._session = LinearSession(self._manifest, LinearModel(weights, bias, fill))

    def learn(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:  # noqa: ARG002 - the contract's names
        raise NotSupported(f"kind {self.kind!r} does not learn example by example: fit it again")

    def predict(self, rows: Sequence[Row]) -> list[Any]:
        session, manifest = self._fitted()
        answers: list[Any] = session.run(manifest.schema.matrix(rows)).tolist()
        return answers

    def freeze(self) -> tuple[Manifest, bytes]:
        session, manifest = self._fitted()
        return manifest, session.model.pack()

    def dump(self) -> bytes:
        if self._session is None or self._manifest is None:
            return b""
        return msgspec.msgpack.encode(_Dump(self._manifest, self._session.model.pack()))

    def restore(self, data: bytes) -> None:
        if not data:
            self._session = self._manifest = None
            return
        dump = msgspec.msgpack.decode(data, type=_Dump)
        self._session = LinearSession(dump.manifest, LinearModel.unpack(dump.payload))
        self._manifest = dump.manifest

    def describe(self) -> tuple[dict[str, Any], None]:
        return asdict(self.parameters), None

    def _fitted(self) -> tuple[LinearSession, Manifest]:
        if self._session is None or self._manifest is None:
            raise ModelUntrained(f"this {self.kind} learner has not been fitted yet")
        return self._session, self._manifest

    def _fit_regression(self, X: Floats, y: Floats) -> tuple[Floats, Floats]:
        # In whitened coordinates least squares is |u - c|² up to a constant, so its gradient is u - c.
        bias = self.parameters.with_bias
        centre, level = (_means(X), float(y.mean())) if bias else (np.zeros(X.shape[1]), 0.0)
        X = _centred(X, centre)
        back = _whiten(X, self.alpha)
        moment = (X @ back).T @ (y - level)
        descent = _Descent(self.parameters.learning_rate, _TOLERANCE[self.kind])
        weights = back @ descent.run(lambda v: v - moment, np.zeros_like(moment), self.parameters.max_iterations)
        self.iterations = descent.steps
        return weights[None, :], np.array([level - weights @ centre])

    def _fit_classes(self, X: Floats, codes: npt.NDArray[np.intp], classes: int) -> tuple[Floats, Floats]:
        # Binary: one output against zero. More: one output a class, softmax. Centring makes the intercept, where there is one, a
        # coordinate of its own, uncorrelated with the others.
        #
        # The first coordinates come from the bound of the Hessian, which is far too careful once most examples are told apart. So
        # the stages that follow take each example's own curvature, but no less than `learning_rate` times its bound: then no
        # step can be too long, wherever the descent goes.
        outputs, bound = (1, 0.25) if classes == 2 else (classes, 0.5)
        rate, left, stage = self.parameters.learning_rate, self.parameters.max_iterations, _FIRST_STAGE
        truth = (codes[:, None] == np.arange(classes)).astype(np.float64)[:, -outputs:]
        weights, intercepts = np.zeros((X.shape[1], outputs)), np.zeros(outputs)
        curvature = np.full(len(X), bound)
        descent = _Descent(rate, _TOLERANCE[self.kind])
        while left > 0 and not descent.done:
            stage = min(stage, left)
            weights, intercepts = self._stage(
                X, truth, (weights, intercepts), curvature=curvature, descent=descent, steps=stage
            )
            P = _probabilities(X @ weights + intercepts)
            curvature = np.maximum((P * (1.0 - P)).max(axis=1) * (bound / 0.25), rate * bound)
            left, stage = left - stage, 2 * stage
        self.iterations = descent.steps
        return np.ascontiguousarray(weights.T), intercepts

    def _stage(
        self,
        X: Floats,
        truth: Floats,
        at: tuple[Floats, Floats],
        *,
        curvature: Floats,
        descent: _Descent,
        steps: int,
    ) -> tuple[Floats, Floats]:
        """Whiten by `curvature`, go `steps` from `at` (weights and intercepts), and come back to the caller's units."""
        weights, intercepts = at
        k = X.shape[1]
        if self.parameters.with_bias:
            total = curvature.sum()
            centre = curvature @ X / total
            X = _centred(X, centre)
            one = np.full((len(X), 1), 1.0 / np.sqrt(total))
        else:
            total, centre, one = 1.0, np.zeros(k), np.zeros((len(X), 0))
        S = X * np.sqrt(curvature)[:, None]
        back = _whiten(S, self.alpha)
        width = back.shape[1]
        Z = np.hstack([X @ back, one])
        shrink = np.pad(self.alpha * (back.T @ back), (0, one.shape[1]))
        start = [back.T @ (S.T @ (S @ weights) + self.alpha * weights)]
        if one.shape[1]:
            start.append(((intercepts + centre @ weights) * np.sqrt(total))[None, :])

        def gradient(U: Floats) -> Floats:
            slope: Floats = Z.T @ (_probabilities(Z @ U) - truth) + shrink @ U
            return slope

        U = descent.run(gradient, np.vstack(start), steps)
        weights = back @ U[:width]
        level = U[width] / np.sqrt(total) if one.shape[1] else intercepts
        return weights, level - centre @ weights


class _Descent:
    """Steps of size `rate` where the gradient's Lipschitz constant is at most 1 / `rate`, over one or several `run`s."""

    def __init__(self, rate: float, tolerance: float) -> None:
        self.rate, self.tolerance = rate, tolerance
        self.steps = 0
        self.done = False
        self._first = 0.0

    def run(self, gradient: Callable[[Floats], Floats], start: Floats, steps: int) -> Floats:
        """At most `steps` steps; `done` once the gradient has vanished against the very first one."""
        u, ahead, pace = start, start, 1.0
        for _ in range(steps):
            self.steps += 1
            slope = gradient(ahead)
            norm = float(np.sqrt(np.vdot(slope, slope)))
            self._first = self._first or norm
            if not norm > self.tolerance * self._first:  # also ends on NaN, which the caller reports
                self.done = True
                return ahead
            after = ahead - self.rate * slope
            if np.vdot(slope, after - u) > 0:  # momentum carries it uphill: start anew from here
                ahead, pace = after, 1.0
            else:
                faster = (1.0 + np.sqrt(1.0 + 4.0 * pace * pace)) / 2.0
                ahead, pace = after + (pace - 1.0) / faster * (after - u), faster
            u = after
        return u


def _means(X: Floats) -> Floats:
    """Column means over what is there; 0 for a column that is missing throughout."""
    present = ~np.isnan(X)
    means: Floats = np.where(present, X, 0.0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    return means


def _centred(X: Floats, centre: Floats) -> Floats:
    """`X - centre`, with columns that vary by no more than the rounding of their mean made exactly constant."""
    moved: Floats = X - centre
    moved[:, np.abs(moved).max(axis=0, initial=0.0) <= 64 * _EPS * np.abs(centre)] = 0.0
    return moved


def _whiten(S: Floats, alpha: float) -> Floats:
    """`back` (fields, directions) such that `back.T @ (SᵀS + alpha I) @ back` is the identity.

    The columns are first scaled to a unit diagonal, so that the eigenvalues measure correlation and not units. Directions
    in which the examples do not vary, within rounding, are left out."""
    n, k = S.shape
    moment = np.einsum("ij,ij->j", S, S)
    if not np.isfinite(moment).all():
        raise FitFailed("the features are too large to compute with: scale them below about 1e150")
    if n < k and alpha > 0:
        scale = np.ones(
            k
        )  # the penalty must stay a multiple of the identity for the smaller side to know all directions
    else:
        # Squares that are hardly numbers any more have lost their digits: such a column does not vary.
        varies = moment + alpha >= np.finfo(np.float64).tiny
        scale = np.divide(1.0, np.sqrt(moment + alpha), out=np.zeros(k), where=varies)
    S = S * scale
    if n < k:
        values, vectors = _eigen(S @ S.T)
        vectors = S.T @ (vectors / np.sqrt(values))
        values = values + alpha
    else:
        values, vectors = _eigen(S.T @ S + np.diag(alpha * scale**2))
    back: Floats = scale[:, None] * (vectors / np.sqrt(values))
    return back


def _eigen(H: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues of a symmetric matrix that are not zero within rounding, and their vectors as columns."""
    try:
        values, vectors = np.linalg.eigh(H)
    except np.linalg.LinAlgError as error:
        raise FitFailed(f"the features' correlations cannot be decomposed: {error}") from error
    kept = values > 10 * len(H) * _EPS * max(float(values[-1]), 0.0)
    return values[kept], vectors[:, kept]


def _probabilities(outputs: Floats) -> Floats:
    if outputs.shape[1] == 1:
        logistic: Floats = 0.5 * (1.0 + np.tanh(0.5 * outputs))
        return logistic
    return softmax(outputs)
