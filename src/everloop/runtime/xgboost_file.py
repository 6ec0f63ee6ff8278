"""What an XGBoost file says of itself, and whether its trees only point inside themselves.

XGBoost walks trees in compiled code without bounds checks, so that a forged file could make it read anywhere or never end. Here the file
(JSON or UBJSON) is read without XGBoost, every index in it is checked, and only then may XGBoost load the same bytes. A tree is sound
where each node has at most one parent and the root has none: from the root, no way then leads back.

Source: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html and the JSON schema that it links to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt, EverloopError, NotSupported
from everloop.runtime import ubjson

MOST_FEATURES, MOST_CLASSES, MOST_CATEGORIES = 1_000_000, 100_000, 100_000
_PER_NODE = (
    "left_children",
    "right_children",
    "parents",
    "split_indices",
    "split_conditions",
    "default_left",
    "base_weights",
    "loss_changes",
    "sum_hessian",
)


@dataclass(frozen=True)
class XGBoostFacts:
    objective: str
    width: int
    groups: int
    """How many outputs a row has: as many as there are classes beyond two, else one."""
    rounds: int
    linear: bool
    """Whether it is linear and has no trees (`booster='gblinear'`)."""
    names: list[str] | None
    kinds: list[str]
    """Of the features: `float`, `int`, `i` (yes or no), `q`, `c` (a category)."""
    categories: list[list[Any] | None]
    """Feature by feature: what its codes 0, 1, … stand for, where the file tells."""
    attributes: dict[str, str]


def read_facts(payload: bytes) -> XGBoostFacts:
    """Raises ArtifactCorrupt, NotSupported (several targets)."""
    try:
        document = json.loads(payload, object_pairs_hook=_once) if payload[1:2] != b"L" else ubjson.decode(payload)
        return _facts(document["learner"])
    except EverloopError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ArtifactCorrupt(f"the XGBoost model is damaged: {type(error).__name__}: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _facts(learner: Mapping[str, Any]) -> XGBoostFacts:
    param = learner["learner_model_param"]
    width, groups = int(param["num_feature"]), max(1, int(param["num_class"]))
    if int(param.get("num_target", 1)) > 1:
        raise NotSupported("the XGBoost model has several targets; a model here answers one number or one label a row")
    _hold(0 < width <= MOST_FEATURES and groups <= MOST_CLASSES, f"{width} features and {groups} outputs")
    scores = str(param["base_score"]).strip("[]").split(",")
    _hold(len(scores) in (1, groups), f"{len(scores)} base scores for {groups} outputs")
    names, kinds = learner.get("feature_names") or [], learner.get("feature_types") or []
    _hold(len(names) in (0, width) and len(kinds) in (0, width), "names or types for another number of features")
    booster = learner["gradient_booster"]
    rounds, categories = _check_booster(booster, width, groups)
    return XGBoostFacts(
        objective=str(learner["objective"]["name"]),
        width=width,
        groups=groups,
        rounds=rounds,
        linear=booster["name"] == "gblinear",
        names=[str(name) for name in names] or None,
        kinds=[str(kind) for kind in kinds] or ["float"] * width,
        categories=categories or [None] * width,
        attributes={str(key): str(value) for key, value in learner.get("attributes", {}).items()},
    )


def _check_booster(booster: Mapping[str, Any], width: int, groups: int) -> tuple[int, list[list[Any] | None]]:
    name = booster["name"]
    if name == "gblinear":
        weights = np.asarray(booster["model"]["weights"], np.float64)
        _hold(weights.shape == ((width + 1) * groups,), f"{weights.size} weights of {width} features")
        return 0, []
    if name not in ("gbtree", "dart"):
        raise NotSupported(f"an XGBoost model with the booster {name!r}")
    model = booster["model"] if name == "gbtree" else booster["gbtree"]["model"]
    trees, parameters = model["trees"], model["gbtree_model_param"]
    parallel = int(parameters.get("num_parallel_tree", 1))
    _hold(int(parameters["num_trees"]) == len(trees) and parallel > 0, "another number of trees than it tells")
    if name == "dart":
        _hold(len(booster["weight_drop"]) == len(trees), "weights for another number of trees")
    owners = _integers(model["tree_info"])
    _hold(len(owners) == len(trees) and _within(owners, 0, groups), "trees for outputs that it has not")
    starts = model.get("iteration_indptr")
    rounds = len(trees) // (groups * parallel)
    if starts is not None and len(starts):
        found = _integers(starts)
        _hold(found[0] == 0 and found[-1] == len(trees) and bool(np.all(np.diff(found) >= 0)), "rounds without order")
        rounds = len(found) - 1
    for tree in trees:
        _check_tree(tree, width)
    return rounds, _categories(model.get("cats"), width)


def _check_tree(tree: Mapping[str, Any], width: int) -> None:
    told = tree["tree_param"]
    count = int(told["num_nodes"])
    if int(told.get("size_leaf_vector", 1)) > 1:
        raise NotSupported("the XGBoost model's trees have several values a leaf (multi_strategy='multi_output_tree')")
    _hold(int(told.get("num_feature", width)) in (0, width), "a tree over another number of features")
    _hold(count > 0 and all(len(tree[name]) == count for name in _PER_NODE), "a tree with nodes cut off")
    left, right, parents = (_integers(tree[name]) for name in ("left_children", "right_children", "parents"))
    inner = left != -1
    features = _integers(tree["split_indices"])
    _hold(_within(features[inner], 0, width), "a tree over features that the model has not")
    check_shape(np.concatenate([left[inner], right[inner]]), count)
    _hold(_within(parents[1:], 0, count), "a node whose parent is outside of its tree")
    kinds = _integers(tree.get("split_type", [0] * count))
    _hold(len(kinds) == count and _within(kinds, 0, 2), "splits of an unknown type")
    nodes, starts, sizes, members = (
        _integers(tree.get(name, []))
        for name in ("categories_nodes", "categories_segments", "categories_sizes", "categories")
    )
    _hold(
        len(nodes) == len(starts) == len(sizes)
        and _within(nodes, 0, count)
        and bool(np.all(np.diff(nodes) > 0))
        and bool(np.all((starts >= 0) & (sizes >= 0) & (starts + sizes <= len(members))))
        and _within(members, 0, MOST_CATEGORIES),
        "categories outside of their list",
    )
    _hold(bool(np.array_equal(nodes, np.flatnonzero(kinds == 1))), "splits by category without categories")


def check_shape(children: npt.NDArray[np.int64], count: int) -> None:
    """`children`: of all inner nodes of a tree with `count` nodes. Raises ArtifactCorrupt."""
    sound = _within(children, 1, count) and bool(np.all(np.bincount(children, minlength=1) <= 1))
    _hold(sound, "a tree whose nodes point outside of it or back")


def _categories(cats: Mapping[str, Any] | None, width: int) -> list[list[Any] | None]:
    """Since 3.1 a file holds what its codes stand for: text as UTF-8 with offsets, numbers as they are."""
    if not cats or not len(cats.get("enc", [])):
        return []
    encoded, segments, order = cats["enc"], _integers(cats["feature_segments"]), _integers(cats["sorted_idx"])
    _hold(len(encoded) == width and len(segments) == width + 1, "categories of other features")
    found: list[list[Any] | None] = []
    for each in encoded:
        values = _integers(each["values"]) if "offsets" in each else np.asarray(each["values"])
        if "offsets" not in each:
            found.append(values.tolist() or None)
            continue
        offsets = _integers(each["offsets"])
        _hold(
            not len(offsets)
            or (offsets[0] == 0 and offsets[-1] == len(values) and bool(np.all(np.diff(offsets) >= 0))),
            "categories whose texts overlap",
        )
        text = (values & 0xFF).astype(np.uint8).tobytes()
        found.append([text[a:b].decode() for a, b in pairwise(offsets)] or None)
    lengths = np.array([len(each or ()) for each in found])
    _hold(
        bool(np.array_equal(segments, np.concatenate([[0], np.cumsum(lengths)])))
        and len(order) == segments[-1]
        and all(_within(order[a:b], 0, b - a) for a, b in pairwise(segments)),
        "categories without order",
    )
    return found


def _integers(values: Any) -> npt.NDArray[np.int64]:
    found = np.asarray(values)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iub"):
        raise ValueError("an array of whole numbers was expected")
    return found.astype(np.int64)


def _within(values: npt.NDArray[np.int64], low: int, high: int) -> bool:
    return bool(np.all((values >= low) & (values < high)))


def _hold(sound: bool, what: str) -> None:
    if not sound:
        raise ArtifactCorrupt(f"the XGBoost model has {what}; XGBoost did not write it like this, so it is not used")
