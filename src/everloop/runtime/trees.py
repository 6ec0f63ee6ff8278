"""Makes sure that a tree read from a file only points inside itself.

scikit-learn walks its trees in compiled code without bounds checks: a forged file could make `predict` read anywhere or never end. Its
builders append a node after its parent, so a child's index is greater than its parent's; that excludes cycles, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from everloop.core.errors import ArtifactCorrupt

_LEAF = -1


def check_trees(model: Any) -> None:
    """Walk everything that `model` holds. Raises ArtifactCorrupt at the first tree that is not sound."""
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or part is None or isinstance(part, (str, bytes, int, float, complex, type)):
            continue
        seen.add(id(part))
        if isinstance(part, np.ndarray):
            if part.dtype == object:
                waiting.extend(part.ravel().tolist())
            continue
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple, set, frozenset)):
            waiting.extend(part)
        elif hasattr(part, "__dict__"):
            members = vars(part)
            if "tree_" in members:
                _check_tree(members["tree_"], _width(part))
            if members.get("_tree") is not None and "_fit_X" in members:
                _build_anew(part)
            if "_predictors" in members:
                _check_histogram_trees(part)
            elif "estimators_" in members:
                _check_members(part)
            waiting.extend(members.values())


def _width(owner: Any) -> int:
    width = getattr(owner, "n_features_in_", None)
    if not isinstance(width, (int, np.integer)):
        raise _unsound(f"{type(owner).__name__} does not tell how many features it takes")
    return int(width)


def _check_members(owner: Any) -> None:
    """A forest or a gradient boosting checks the width of its input once and not again for every tree."""
    from sklearn.ensemble._forest import BaseForest
    from sklearn.ensemble._gb import BaseGradientBoosting

    if isinstance(owner, (BaseForest, BaseGradientBoosting)):
        for member in np.asarray(owner.estimators_, dtype=object).ravel().tolist():
            if not hasattr(member, "tree_") or _width(member) != _width(owner):
                raise _unsound(f"{type(owner).__name__} has a member that is not a tree over its features")
            if isinstance(owner, BaseGradientBoosting) and np.prod(member.tree_.value.shape[1:]) != 1:
                raise _unsound("a boosted tree with more than one value a leaf")


def _check_tree(tree: Any, width: int) -> None:
    left, right = np.asarray(tree.children_left), np.asarray(tree.children_right)
    feature, count = np.asarray(tree.feature), len(left)
    place = np.arange(count)
    inner = left != _LEAF
    sound = (
        count > 0
        and len(tree.value) == count
        and len(right) == len(feature) == count
        and bool(np.all((left[inner] > place[inner]) & (left[inner] < count)))
        and bool(np.all((right[inner] > place[inner]) & (right[inner] < count)))
        and bool(np.all((feature[inner] >= 0) & (feature[inner] < width)))
    )
    if not sound:
        raise _unsound("a tree whose nodes point outside of it")


def _check_histogram_trees(owner: Any) -> None:
    width = _width(owner)
    categorical = getattr(getattr(owner, "_bin_mapper", None), "is_categorical_", None)
    known = np.zeros(width, bool) if categorical is None else np.asarray(categorical, bool)
    for predictor in (predictor for step in owner._predictors for predictor in step):
        nodes = predictor.nodes
        count, place = len(nodes), np.arange(len(nodes))
        inner = nodes["is_leaf"] == 0
        left, right, feature = (nodes[name][inner].astype(np.int64) for name in ("left", "right", "feature_idx"))
        split = nodes["is_categorical"][inner] != 0
        sets = nodes["bitset_idx"][inner].astype(np.int64)[split]
        sound = (
            count > 0
            and len(known) == width
            and bool(np.all((left > place[inner]) & (left < count) & (right > place[inner]) & (right < count)))
            and bool(np.all((feature >= 0) & (feature < width)))
            and bool(np.all(sets < len(predictor.raw_left_cat_bitsets)))
            and bool(np.all(known[feature[split]]))
        )
        if not sound:
            raise _unsound("a boosted tree whose nodes point outside of it")


def _build_anew(owner: Any) -> None:
    """Nearest neighbours: the search tree says nothing that its points do not."""
    from sklearn.neighbors import BallTree, KDTree

    kind = {"kd_tree": KDTree, "ball_tree": BallTree}.get(getattr(owner, "_fit_method", ""))
    if kind is None or type(owner._tree) is not kind:
        raise _unsound(f"{type(owner).__name__} with a search tree of an unexpected kind")
    owner._tree = kind(
        owner._fit_X, owner.leaf_size, metric=owner.effective_metric_, **(owner.effective_metric_params_ or {})
    )


def _unsound(what: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"the model file holds {what}; scikit-learn did not write it like this, so it is not used")
