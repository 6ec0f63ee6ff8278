"""What fitted scikit-learn transformers do to a row of numbers, as arithmetic that can be moved into the model behind them.

A scaler in front of a linear model only changes its weights, and one in front of a tree its thresholds. `steps_of` reads the fitted
parameters into steps, in the order in which a row meets them. Whoever folds them into the last one (`linear_folding.fold_linear`,
`tree_reading.read_trees`) gets the model that answers from the raw row.

Only scikit-learn's own classes are read, each by its exact type: a subclass may predict in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from everloop.core.errors import NotSupported

Floats = npt.NDArray[np.float64]
MOST_SHIFT = 1e6
"""How many of its own spreads a feature may lie away from zero. Folded, the shift is subtracted after the product and not before it,
which costs as many digits as the shift has: at this limit the last six of sixteen."""


@dataclass(frozen=True)
class Select:
    """Keep these columns, in this order."""

    places: npt.NDArray[np.intp]
    width: int
    """How many there were."""


@dataclass(frozen=True)
class Impute:
    """A missing value becomes its column's."""

    values: Floats


@dataclass(frozen=True)
class Add:
    by: Floats


@dataclass(frozen=True)
class Multiply:
    by: Floats


@dataclass(frozen=True)
class Divide:
    """Not the product with the inverse: the last digit would differ, and with it a tree's decision."""

    by: Floats


@dataclass(frozen=True)
class Project:
    """`matrix @ x`: (outputs, columns)."""

    matrix: Floats
    sizes: Floats
    """Of each output, as a rule: the root of its mean square in the rows of the fit."""


Step: TypeAlias = Select | Impute | Add | Multiply | Divide | Project


def own(part: Any, *names: str) -> bool:
    """Whether `part` is scikit-learn's class of one of these names, and neither derived from it nor given other methods."""
    kind = type(part)
    return kind.__name__ in names and kind.__module__.startswith("sklearn.") and not _METHODS & vars(part).keys()


_METHODS = frozenset({"predict", "predict_proba", "decision_function", "transform"})


def unfold(estimator: Any) -> tuple[list[Step], Any]:
    """A pipeline as steps and its last estimator; any other estimator as no steps and itself. Raises NotSupported."""
    steps: list[Step] = []
    while own(estimator, "Pipeline"):
        for _, transformer in estimator.steps[:-1]:
            steps += steps_of(transformer)
        estimator = estimator.steps[-1][1]
    return steps, estimator


def steps_of(transformer: Any) -> list[Step]:
    """Raises NotSupported for what is not read."""
    if transformer is None or transformer == "passthrough":
        return []
    if own(transformer, "Pipeline"):
        return [step for _, part in transformer.steps for step in steps_of(part)]
    for names, read in _READERS:
        if own(transformer, *names):
            return read(transformer)
    raise NotSupported(f"{type(transformer).__name__} is no step that can be folded into the model behind it")


def _standard(scaler: Any) -> list[Step]:
    """`(x - mean) / scale`: StandardScaler and RobustScaler."""
    shift = getattr(scaler, "mean_", None) if hasattr(scaler, "with_mean") else getattr(scaler, "center_", None)
    centred = scaler.with_mean if hasattr(scaler, "with_mean") else scaler.with_centering
    scale = getattr(scaler, "scale_", None)
    width = int(scaler.n_features_in_)
    by = np.ones(width) if scale is None else _row(scale, width)
    steps: list[Step] = []
    if centred and shift is not None:
        shift = _row(shift, width)
        if (np.abs(shift) > MOST_SHIFT * np.abs(by)).any():
            raise NotSupported(
                "a feature varies by less than a millionth of its value: folding its scaler loses digits"
            )
        steps.append(Add(-shift))
    return [*steps, Divide(by)] if scale is not None else steps


def _min_max(scaler: Any) -> list[Step]:
    if scaler.clip:
        raise NotSupported("a MinMaxScaler that clips is no linear step")
    width = int(scaler.n_features_in_)
    shift = _row(scaler.min_, width)
    if (np.abs(shift) > MOST_SHIFT).any():
        raise NotSupported("a feature varies by less than a millionth of its value: folding its scaler loses digits")
    return [Multiply(_row(scaler.scale_, width)), Add(shift)]


def _max_abs(scaler: Any) -> list[Step]:
    if getattr(scaler, "clip", False):
        raise NotSupported("a MaxAbsScaler that clips is no linear step")
    return [Divide(_row(scaler.scale_, int(scaler.n_features_in_)))]


def _imputer(imputer: Any) -> list[Step]:
    if imputer.add_indicator:
        raise NotSupported("an imputer that adds indicators makes more columns than it takes")
    if not isinstance(imputer.missing_values, float) or not np.isnan(imputer.missing_values):
        raise NotSupported(f"an imputer of {imputer.missing_values!r}, and not of missing values")
    statistics = np.asarray(imputer.statistics_)
    if statistics.dtype.kind != "f":
        raise NotSupported("an imputer of values that are no numbers")
    width = len(statistics)
    if imputer.keep_empty_features:
        return [Impute(np.nan_to_num(statistics.astype(np.float64)))]
    kept = np.flatnonzero(~np.isnan(statistics))
    steps: list[Step] = [] if len(kept) == width else [Select(kept, width)]
    return [*steps, Impute(statistics[kept].astype(np.float64))]


def _selector(selector: Any) -> list[Step]:
    return [Select(np.flatnonzero(selector.get_support()), int(selector.n_features_in_))]


def _components(decomposition: Any) -> list[Step]:
    """PCA, IncrementalPCA and TruncatedSVD: `(x - mean) @ components.T`, whitened or not."""
    matrix = np.asarray(decomposition.components_, np.float64)
    steps: list[Step] = []
    mean = getattr(decomposition, "mean_", None)
    if mean is not None:
        mean = _row(mean, matrix.shape[1])
        spread = np.sqrt(np.asarray(decomposition.explained_variance_, np.float64).max())
        if np.abs(mean).max() > MOST_SHIFT * spread:
            raise NotSupported("features vary by less than a millionth of their values: folding PCA loses digits")
        steps.append(Add(-mean))
    steps.append(Project(matrix, _sizes(decomposition)))
    if getattr(decomposition, "whiten", False):
        variance = np.asarray(decomposition.explained_variance_, np.float64)
        steps.append(Divide(np.maximum(np.sqrt(variance), np.finfo(np.float64).eps)))
    return steps


def _sizes(decomposition: Any) -> Floats:
    """TruncatedSVD does not centre: of how many rows its singular values are, the component that is most centred tells."""
    variance = np.asarray(decomposition.explained_variance_, np.float64)
    if not own(decomposition, "TruncatedSVD"):
        return np.sqrt(variance)
    squares = np.asarray(decomposition.singular_values_, np.float64) ** 2
    rows = np.min(squares[variance > 0] / variance[variance > 0], initial=np.inf)
    return np.sqrt(squares / rows) if np.isfinite(rows) else np.sqrt(squares)


def _identity(transformer: Any) -> list[Step]:
    if transformer.func is not None:
        raise NotSupported("a FunctionTransformer runs Python code")
    return []


_READERS: tuple[tuple[tuple[str, ...], Callable[[Any], list[Step]]], ...] = (
    (("StandardScaler", "RobustScaler"), _standard),
    (("MinMaxScaler",), _min_max),
    (("MaxAbsScaler",), _max_abs),
    (("SimpleImputer",), _imputer),
    (("VarianceThreshold", "SelectKBest", "SelectPercentile", "SelectFpr", "SelectFdr", "SelectFwe"), _selector),
    (("GenericUnivariateSelect", "SelectFromModel", "RFE", "RFECV", "SequentialFeatureSelector"), _selector),
    (("PCA", "IncrementalPCA", "TruncatedSVD"), _components),
    (("FunctionTransformer",), _identity),
)


def _row(values: Any, width: int) -> Floats:
    row = np.asarray(values, np.float64).reshape(-1)
    if len(row) != width:
        raise NotSupported(f"a step of {width} features with {len(row)} parameters")
    return row
