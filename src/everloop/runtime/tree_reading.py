"""A fitted tree, forest or gradient boosting of scikit-learn as one `TreeModel`, scalers in front of it included.

What makes it exact: a node asks `float32(scaled(x)) <= threshold`, and that is monotone in x. So there is a greatest double for which it
holds, found by bisection over the doubles themselves, and `x <= that` is the same question without the scaling and the rounding. The
leaves are added in the estimator's own order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt, NotSupported
from everloop.runtime.folding import Add, Divide, Floats, Impute, Multiply, Project, Select, Step, own, unfold
from everloop.runtime.tree import Link, TreeModel
from everloop.runtime.tree_source import WRITTEN_DEPTH, WRITTEN_NODES, deepest

_SINGLE = ("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor")
_FORESTS = ("RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor")
_BOOSTED = ("GradientBoostingClassifier", "GradientBoostingRegressor")
_HISTOGRAM = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
TREES = (*_SINGLE, *_FORESTS, *_BOOSTED, *_HISTOGRAM)


@dataclass(frozen=True)
class Nodes:
    """One tree: children are places in it, a leaf's feature is -1, and its values are (nodes, width)."""

    threshold: Floats
    feature: npt.NDArray[Any]
    left: npt.NDArray[Any]
    right: npt.NDArray[Any]
    missing_left: npt.NDArray[np.bool_]
    values: Floats
    column: int = 0


def read_trees(estimator: Any, *, gaps: bool = False) -> TreeModel:
    """Of a fitted estimator; `gaps`: its rows may have missing values. Raises NotSupported, saying why, for any other than small trees
    over numbers."""
    steps, last = unfold(estimator)
    if gaps and own(last, *_BOOSTED) and not any(isinstance(step, Impute) for step in steps):
        raise NotSupported("values may be missing, and no imputer says what they are taken for")
    if own(last, *_SINGLE, *_FORESTS):
        model = _averaged(last)
    elif own(last, *_BOOSTED):
        model = _boosted(last)
    elif own(last, *_HISTOGRAM):
        model = _histogram(last)
    else:
        raise NotSupported(f"{type(last).__name__} is no tree, forest or gradient boosting that is read")
    single = not own(last, *_HISTOGRAM)
    return _before(steps, model, _as_float32 if single else _as_it_is)


def put_together(trees: Sequence[Nodes], base: Floats, fields: int, divisor: float, link: Link) -> TreeModel:
    """Raises NotSupported where that is no small model."""
    nodes = sum(len(tree.feature) for tree in trees)
    if nodes > WRITTEN_NODES:
        raise NotSupported(f"trees of {nodes:,} nodes are no small ones: up to {WRITTEN_NODES:,} are compiled")
    starts = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    leaves = [np.flatnonzero(tree.feature < 0) for tree in trees]
    rows = np.cumsum([0, *(len(each) for each in leaves)])
    left, right = [], []
    for tree, mine, start, row in zip(trees, leaves, starts, rows, strict=False):
        lefts, rights = tree.left.astype(np.int32) + start, tree.right.astype(np.int32) + start
        lefts[mine], rights[mine] = row + np.arange(len(mine)), 0
        left.append(lefts)
        right.append(rights)
    feature = np.concatenate([tree.feature for tree in trees]).astype(np.int32)
    threshold = np.concatenate([tree.threshold for tree in trees]).astype(np.float64)
    threshold[feature < 0] = 0.0
    model = TreeModel(
        threshold=threshold,
        feature=feature,
        left=np.concatenate(left).astype(np.int32),
        right=np.concatenate(right).astype(np.int32),
        missing_left=np.concatenate([tree.missing_left for tree in trees]).astype(np.bool_),
        root=starts[:-1].astype(np.int32),
        column=np.array([tree.column for tree in trees], np.int32),
        values=np.concatenate([tree.values[mine] for tree, mine in zip(trees, leaves, strict=True)]),
        base=np.asarray(base, np.float64).reshape(-1),
        fill=np.full(fields, np.nan),
        divisor=divisor,
        link=link,
    )
    if deepest(model.feature, model.left, model.right, model.root, WRITTEN_DEPTH) > WRITTEN_DEPTH:
        raise NotSupported(f"trees of more than {WRITTEN_DEPTH} levels are no small ones")
    try:
        model.check()
    except ArtifactCorrupt as error:
        raise NotSupported(f"what it was read as does not hold: {error.message}") from error
    return model


def _averaged(last: Any) -> TreeModel:
    """One tree, or a forest's mean."""
    members = list(last.estimators_) if hasattr(last, "estimators_") else [last]
    small(member.tree_.node_count for member in members)
    classifies = hasattr(last, "classes_")
    if last.n_outputs_ != 1 or (classifies and np.asarray(last.classes_).ndim != 1):
        raise NotSupported("trees that answer several values a row")
    outputs = len(last.classes_) if classifies else 1
    trees = [_nodes(member.tree_, member.tree_.value[:, 0, :outputs]) for member in members]
    link: Link = "probabilities" if classifies else "identity"
    return put_together(trees, np.zeros(outputs), int(last.n_features_in_), float(len(members)), link)


def _boosted(last: Any) -> TreeModel:
    stages = last.estimators_
    small(member.tree_.node_count for member in stages.ravel())
    if last.init_ != "zero" and not own(last.init_, "DummyClassifier", "DummyRegressor"):
        raise NotSupported(f"a gradient boosting that starts from a {type(last.init_).__name__}")
    if last.loss == "exponential":
        raise NotSupported("a gradient boosting with loss='exponential' makes probabilities in its own way")
    fields = int(last.n_features_in_)
    base = last._raw_predict_init(np.zeros((1, fields), np.float32))[0]
    trees = [
        _nodes(member.tree_, last.learning_rate * member.tree_.value[:, 0, :1], column)
        for stage in stages
        for column, member in enumerate(stage)
    ]
    link: Link = "identity"
    if hasattr(last, "classes_"):
        link = "logit_closed" if len(base) == 1 else "softmax"
    return put_together(trees, base, fields, 1.0, link)


def _histogram(last: Any) -> TreeModel:
    if getattr(last, "_preprocessor", None) is not None:
        raise NotSupported("a histogram gradient boosting with categories")
    small(len(predictor.nodes) for stage in last._predictors for predictor in stage)
    trees = []
    for stage in last._predictors:
        for column, predictor in enumerate(stage):
            nodes = predictor.nodes
            if nodes["is_categorical"].any():
                raise NotSupported("a histogram gradient boosting with categories")
            leaf = nodes["is_leaf"] != 0
            trees.append(
                Nodes(
                    threshold=nodes["num_threshold"],
                    feature=np.where(leaf, -1, nodes["feature_idx"].astype(np.int64)),
                    left=nodes["left"].astype(np.int64),
                    right=nodes["right"].astype(np.int64),
                    missing_left=nodes["missing_go_to_left"] != 0,
                    values=nodes["value"].reshape(-1, 1),
                    column=column,
                )
            )
    base = np.asarray(last._baseline_prediction, np.float64).reshape(-1)
    link: Link = "identity"
    if hasattr(last, "classes_"):
        if len(last.classes_) < 2:
            raise NotSupported("a histogram gradient boosting of one class")
        link = "logit" if len(base) == 1 else "softmax"
    elif last.loss in ("poisson", "gamma"):
        link = "exp"
    return put_together(trees, base, int(last.n_features_in_), 1.0, link)


def through_float32(model: TreeModel) -> TreeModel:
    """The model that rounds what it is asked with to single precision first."""
    return _before((), model, _as_float32)


def small(counts: Iterable[int]) -> None:
    """Before anything is copied. Raises NotSupported."""
    total = 0
    for count in counts:
        total += int(count)
        if total > WRITTEN_NODES:
            raise NotSupported(f"trees of more than {WRITTEN_NODES:,} nodes are no small ones")


def _nodes(tree: Any, values: Floats, column: int = 0) -> Nodes:
    return Nodes(
        threshold=np.asarray(tree.threshold, np.float64),
        feature=np.where(tree.children_left < 0, -1, tree.feature),
        left=np.asarray(tree.children_left),
        right=np.asarray(tree.children_right),
        missing_left=np.asarray(tree.missing_go_to_left) != 0,
        values=np.asarray(values, np.float64),
        column=column,
    )


def _before(steps: Sequence[Step], model: TreeModel, rounded: Callable[[Floats], Floats]) -> TreeModel:
    """The same model as seen from before the steps."""
    inner = np.flatnonzero(model.feature >= 0)
    column = model.feature[inner].astype(np.intp)
    fill = model.fill
    functions: list[Callable[[Floats], Floats]] = [rounded]
    for step in reversed(steps):
        match step:
            case Select(places, width):
                column = places[column]
                wider = np.full(width, np.nan)
                wider[places] = fill
                fill = wider
            case Impute(values):
                fill = values
            case Project():
                raise NotSupported("behind a projection, a tree asks for sums of features and not for one")
            case Add(by) | Multiply(by) | Divide(by):
                if not np.isnan(fill).all():
                    raise NotSupported("an imputer behind a scaler")
                if not isinstance(step, Add) and not (by > 0.0).all():
                    raise NotSupported("a scaler with factors that are not positive")
                functions.append(_elementwise(step, by[column]))
                fill = np.full(len(by), np.nan)

    def seen(x: Floats) -> Floats:
        for function in reversed(functions):
            x = function(x)
        return x

    feature, threshold = model.feature.copy(), model.threshold.copy()
    feature[inner] = column
    threshold[inner] = _greatest(seen, model.threshold[inner])
    parts = {name: getattr(model, name) for name in model.__dataclass_fields__}
    return TreeModel(**parts | {"feature": feature, "threshold": threshold, "fill": fill})


def _elementwise(step: Add | Multiply | Divide, by: Floats) -> Callable[[Floats], Floats]:
    if isinstance(step, Add):
        return lambda x: x + by
    if isinstance(step, Multiply):
        return lambda x: x * by
    return lambda x: x / by


def _as_float32(x: Floats) -> Floats:
    return x.astype(np.float32).astype(np.float64)


def _as_it_is(x: Floats) -> Floats:
    return x


def _greatest(seen: Callable[[Floats], Floats], threshold: Floats) -> Floats:
    """The greatest doubles x with `seen(x) <= threshold`, `seen` being monotone: bisection over doubles in their order."""
    largest = np.finfo(np.float64).max
    low, high = _place(np.full_like(threshold, -largest)), _place(np.full_like(threshold, largest))
    with np.errstate(over="ignore"):
        none, every = seen(_number(low)) > threshold, seen(_number(high)) <= threshold
        for _ in range(64):
            middle = (low & high) + ((low ^ high) >> 1)
            holds = seen(_number(middle)) <= threshold
            low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return np.where(none, -np.inf, np.where(every, np.inf, _number(low)))


def _place(x: Floats) -> npt.NDArray[np.int64]:
    """Integers in the order of the doubles: bits below zero run the other way."""
    bits = x.view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits, bits)


def _number(place: npt.NDArray[np.int64]) -> Floats:
    bits = np.where(place < 0, np.int64(-(2**63)) - place, place)
    number: Floats = bits.view(np.float64)
    return number
