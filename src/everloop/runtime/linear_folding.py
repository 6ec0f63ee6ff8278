"""A fitted linear estimator or pipeline as one `LinearModel`: every step in front of it goes into the weights.

A row then costs one sum, whatever the pipeline did. The folded sum adds in another order than the estimator's matrix product, so the
last bits differ: by 1e-12 of what the model usually answers, by 1e-10 where a feature is far from zero or a component small, and beyond
that (`folding.MOST_SHIFT`) it is not folded. The probabilities are made as the estimator makes them: softmax,
or one sigmoid a class and normalised ("one versus rest"), or not at all.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from everloop.core.errors import NotSupported
from everloop.runtime.folding import (
    MOST_SHIFT,
    Add,
    Divide,
    Floats,
    Impute,
    Multiply,
    Project,
    Select,
    Step,
    own,
    unfold,
)
from everloop.runtime.linear import LinearModel

Scores = Literal["softmax", "ovr", "none"]

_REGRESSORS = (
    "LinearRegression",
    "Ridge",
    "RidgeCV",
    "Lasso",
    "LassoCV",
    "ElasticNet",
    "ElasticNetCV",
    "Lars",
    "LarsCV",
    "LassoLars",
    "LassoLarsCV",
    "LassoLarsIC",
    "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV",
    "BayesianRidge",
    "ARDRegression",
    "HuberRegressor",
    "TheilSenRegressor",
    "QuantileRegressor",
    "SGDRegressor",
    "PassiveAggressiveRegressor",
    "LinearSVR",
)
_SOFTMAX = ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis")
_LABELS_ONLY = ("RidgeClassifier", "RidgeClassifierCV", "LinearSVC", "Perceptron", "PassiveAggressiveClassifier")


def fold_linear(estimator: Any, *, gaps: bool = False) -> tuple[LinearModel, Scores]:
    """Of a fitted estimator; `gaps`: its rows may have missing values. Raises NotSupported, saying why, for any other than the linear
    ones."""
    steps, last = unfold(estimator)
    if gaps and not any(isinstance(step, Impute) for step in steps):
        raise NotSupported("values may be missing, and no imputer says what they are taken for")
    weights, bias, scores = _head(last)
    _check_digits(steps, weights)
    fill = np.zeros(weights.shape[1])
    for step in reversed(steps):
        weights, bias, fill = _before(step, weights, bias, fill)
    if not all(np.isfinite(part).all() for part in (weights, bias, fill)):
        raise NotSupported("a linear model whose weights are not finite")
    return LinearModel(np.ascontiguousarray(weights), bias, fill), scores


def _head(last: Any) -> tuple[Floats, Floats, Scores]:
    """Weights (outputs, columns) and bias of the last estimator."""
    if own(last, *_REGRESSORS):
        return *_weights(last, outputs=1), "none"
    if own(last, "RANSACRegressor"):
        return _head(last.estimator_)
    if own(last, "SVR", "NuSVR") and last.kernel == "linear":
        return *_weights(last, outputs=1), "none"
    if own(last, *_SOFTMAX, *_LABELS_ONLY, "SGDClassifier"):
        return *_weights(last, outputs=_outputs(last)), _scores_of(last)
    if own(last, "SVC", "NuSVC") and last.kernel == "linear" and not hasattr(last, "predict_proba"):
        if len(last.classes_) != 2:
            raise NotSupported("an SVC of several classes lets every two of them vote, which is no linear model")
        return *_weights(last, outputs=1), "none"
    raise NotSupported(
        f"{type(last).__name__} is neither linear nor a tree, forest or gradient boosting of scikit-learn"
    )


def _scores_of(last: Any) -> Scores:
    if own(last, *_LABELS_ONLY):
        return "none"
    if own(last, *_SOFTMAX):
        return "softmax"
    if last.loss == "modified_huber":
        raise NotSupported("an SGDClassifier with loss='modified_huber' makes probabilities in its own way")
    return "ovr" if last.loss == "log_loss" else "none"


def _outputs(last: Any) -> int:
    classes = last.classes_
    if isinstance(classes, list) or np.asarray(classes).ndim != 1 or len(classes) < 2:
        raise NotSupported(f"a {type(last).__name__} of several labels a row, or of one class")
    return 1 if len(classes) == 2 else len(classes)


def _weights(last: Any, outputs: int) -> tuple[Floats, Floats]:
    coefficients = last.coef_
    if hasattr(coefficients, "toarray"):
        coefficients = coefficients.toarray()
    weights = np.atleast_2d(np.asarray(coefficients, np.float64))
    if weights.shape[0] != outputs:
        raise NotSupported(f"a {type(last).__name__} of {weights.shape[0]} outputs")
    bias = np.broadcast_to(np.asarray(last.intercept_, np.float64).reshape(-1), (outputs,)).copy()
    return weights, bias


def _before(step: Step, weights: Floats, bias: Floats, fill: Floats) -> tuple[Floats, Floats, Floats]:
    """The same model as seen from before `step`."""
    match step:
        case Add(by):
            return weights, bias + weights @ by, fill - by
        case Multiply(by):
            return weights * by, bias, fill / np.where(by == 0.0, 1.0, by)
        case Divide(by):
            return weights / by, bias, fill * by
        case Impute(values):
            return weights, bias, values
        case Select(places, width):
            return _widened(weights, places, width), bias, _widened(fill[None], places, width)[0]
        case Project(matrix, _):
            return weights @ matrix, bias, np.zeros(matrix.shape[1])


def _check_digits(steps: list[Step], weights: Floats) -> None:
    """Of a component that varies little beside the others, only what large values leave when they cancel is seen. A scaler or large
    weights behind make that the answer, and then the order of the sum decides more than the last digits. Raises NotSupported.

    `most` is what a sum may weigh before it cancels, `usual` what it then comes to."""
    whole, usual, most = np.abs(weights), np.zeros(0), np.zeros(len(weights))
    for step in reversed(steps):
        match step:
            case Add(by):
                most += whole @ np.abs(by)
            case Multiply(by):
                weights, whole = weights * by, whole * np.abs(by)
            case Divide(by):
                weights, whole = weights / by, whole / np.abs(by)
            case Select(places, width):
                weights, whole = _widened(weights, places, width), _widened(whole, places, width)
            case Project(matrix, sizes):
                if not len(usual):
                    usual, most = np.hypot.reduce(weights * sizes, axis=1), np.zeros(len(weights))
                weights, whole = weights @ matrix, whole @ np.abs(matrix)
                most += whole @ np.hypot.reduce(matrix * sizes[:, None], axis=0)
            case Impute():
                pass
    if len(usual) and (most > MOST_SHIFT * usual).any():
        raise NotSupported("a component varies by less than a millionth of the others: folding it loses digits")


def _widened(weights: Floats, places: npt.NDArray[np.intp], width: int) -> Floats:
    wider = np.zeros((len(weights), width))
    wider[:, places] = weights
    return wider
