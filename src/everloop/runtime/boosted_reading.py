"""Small models of XGBoost and LightGBM as a `TreeModel`, read from their own files once those were checked.

LightGBM adds its leaves in double precision, as the compiled form does: answers are the same to the last bit. XGBoost adds in single
precision: answers differ in its last digit, 1e-7 of a value.

Sources: the JSON of XGBoost's `Booster.save_model` (https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html); LightGBM's
`Tree::ToString` and `Tree::NumericalDecision` (include/LightGBM/tree.h).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from everloop.core.errors import NotSupported
from everloop.runtime import ubjson
from everloop.runtime.tree import Link, TreeModel
from everloop.runtime.tree_reading import Nodes, put_together, small, through_float32
from everloop.stores.ports import Manifest

_XGBOOST: dict[str, Link] = {
    "reg:squarederror": "identity",
    "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "binary:logistic": "logit",
    "multi:softprob": "softmax",
    "multi:softmax": "softmax",
}
_LIGHTGBM: dict[str, Link] = {
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "binary": "logit",
    "multiclass": "softmax",
}
_CATEGORY, _LEFT, _ZERO, _NAN = 1, 2, 4, 8
"""Bits of LightGBM's `decision_type`."""


def read_xgboost(manifest: Manifest, payload: bytes) -> tuple[TreeModel, str]:
    """The model, and its objective. Raises NotSupported, saying why; ArtifactCorrupt."""
    from everloop.runtime.xgboost_file import read_facts

    facts = read_facts(payload)
    link = _XGBOOST.get(facts.objective)
    if link is None or facts.linear or "missing" in manifest.options:
        raise NotSupported(f"XGBoost's {facts.objective}, or a linear booster, or a number for missing values")
    learner = (ubjson.decode(payload) if payload[1:2] == b"L" else json.loads(payload))["learner"]
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise NotSupported(f"XGBoost's booster {booster['name']}")
    trees, owners = booster["model"]["trees"], booster["model"]["tree_info"]
    best = facts.attributes.get("best_iteration", "")
    if best.isdigit():
        kept = min(int(best) + 1, facts.rounds) * (len(trees) // max(1, facts.rounds))
        trees, owners = trees[:kept], owners[:kept]
    small(int(tree["tree_param"]["num_nodes"]) for tree in trees)
    nodes = [_xgboost_tree(tree, int(owner)) for tree, owner in zip(trees, owners, strict=True)]
    base = np.array(str(learner["learner_model_param"]["base_score"]).strip("[]").split(","), np.float64)
    if link == "exp":
        base = np.log(base)
    elif link == "logit":
        base = np.log(base / (1.0 - base))
    base = np.broadcast_to(base, (facts.groups,))
    model = put_together(nodes, base, facts.width, 1.0, link)
    return through_float32(model), f"XGBoost {facts.objective}"


def read_lightgbm(payload: bytes) -> tuple[TreeModel, str]:
    """The model, and its objective. Raises NotSupported, saying why; ArtifactCorrupt."""
    from everloop.runtime.lightgbm_file import read_facts

    facts = read_facts(payload)
    head, *blocks = facts.checked.split("\nTree=")
    told = dict(line.partition("=")[::2] for line in head.splitlines())
    link = _LIGHTGBM.get(facts.objective)
    options = told.get("objective", "").split()[1:]
    scale = next((float(each[8:]) for each in options if each.startswith("sigmoid:")), 1.0)
    if link is None or scale != 1.0 or "sqrt" in options:
        raise NotSupported(f"LightGBM's {told.get('objective') or 'objective of your own'}")
    trees = [dict(line.partition("=")[::2] for line in block.splitlines()[1:]) for block in blocks]
    small(2 * int(tree["num_leaves"]) - 1 for tree in trees)
    nodes = [_lightgbm_tree(tree, i % facts.groups) for i, tree in enumerate(trees)]
    divisor = float(facts.rounds) if "average_output" in told else 1.0
    model = put_together(nodes, np.zeros(facts.groups), facts.width, divisor, link)
    return model, f"LightGBM {facts.objective}"


def _xgboost_tree(tree: Mapping[str, Any], column: int) -> Nodes:
    if np.any(tree.get("split_type", 0)):
        raise NotSupported("XGBoost's splits by category")
    left = np.asarray(tree["left_children"], np.int64)
    conditions = np.asarray(tree["split_conditions"], np.float32)
    leaf = left < 0
    return _in_order(
        Nodes(
            threshold=np.nextafter(conditions, np.float32(-math.inf)).astype(
                np.float64
            ),  # it asks for less, not at most
            feature=np.where(leaf, -1, np.asarray(tree["split_indices"], np.int64)),
            left=left,
            right=np.asarray(tree["right_children"], np.int64),
            missing_left=np.asarray(tree["default_left"]) != 0,
            values=conditions.astype(np.float64).reshape(-1, 1),
            column=column,
        )
    )


def _lightgbm_tree(tree: Mapping[str, str], column: int) -> Nodes:
    """Its leaves are counted apart; here they follow the inner nodes."""
    leaves = int(tree["num_leaves"])
    values = np.array(tree["leaf_value"].split(" "), np.float64)
    if leaves == 1:
        none = np.zeros(1, np.int64)
        return Nodes(np.zeros(1), np.full(1, -1), none, none, np.zeros(1, bool), values.reshape(1, 1), column)
    inner = leaves - 1
    kinds = np.array(tree["decision_type"].split(" "), np.int64)
    if np.any(kinds & (_CATEGORY | _ZERO)):
        raise NotSupported("LightGBM's splits by category, or with zeros taken for missing values")
    threshold = np.array(tree["threshold"].split(" "), np.float64)
    # A missing value that a split knows nothing of is a zero to it.
    missing = np.where(kinds & _NAN, (kinds & _LEFT) != 0, threshold >= 0.0)
    children = [np.array(tree[name].split(" "), np.int64) for name in ("left_child", "right_child")]
    left, right = (np.where(each < 0, inner + ~each, each) for each in children)
    ends = np.zeros(leaves, np.int64)
    return _in_order(
        Nodes(
            threshold=np.concatenate([threshold, ends]),
            feature=np.concatenate([np.array(tree["split_feature"].split(" "), np.int64), ends - 1]),
            left=np.concatenate([left, ends]),
            right=np.concatenate([right, ends]),
            missing_left=np.concatenate([missing, ends != 0]),
            values=np.concatenate([np.zeros(inner), values]).reshape(-1, 1),
            column=column,
        )
    )


def _in_order(tree: Nodes) -> Nodes:
    """Each node before its children, and none that no way leads to."""
    order = [0]
    for node in order:  # grows while it is walked
        if tree.feature[node] >= 0:
            order += [int(tree.left[node]), int(tree.right[node])]
    new = np.zeros(len(tree.feature), np.int64)
    new[order] = np.arange(len(order))
    return Nodes(
        tree.threshold[order],
        tree.feature[order],
        new[tree.left[order]],
        new[tree.right[order]],
        tree.missing_left[order],
        tree.values[order],
        tree.column,
    )
