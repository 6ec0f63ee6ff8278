"""What a LightGBM file says of itself, and whether its trees only point inside themselves.

LightGBM walks trees in compiled code without bounds checks, so that a forged file could make it read anywhere or never end. The text is
read here as strictly as LightGBM writes it (a key once a tree, every array as long as it must be), so that LightGBM reads the same.

The format has no description but its reader: `Tree::Tree` and `GBDT::LoadModelFromString` in LightGBM's source.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt, EverloopError, NotSupported

MOST_FEATURES, MOST_CLASSES = 1_000_000, 100_000
MOST_LINES = 22
"""Of a tree, that LightGBM reads."""
CLASSIFICATION = ("binary", "multiclass", "multiclassova")
REGRESSION = (
    "regression",
    "regression_l1",
    "huber",
    "fair",
    "poisson",
    "quantile",
    "mape",
    "gamma",
    "tweedie",
    "cross_entropy",
    "cross_entropy_lambda",
)
RANKING = ("lambdarank", "rank_xendcg")
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_PLAIN = re.compile(r"[-+.0-9a-zA-Z ]*")
_HEADER = (
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "average_output",
    "feature_names",
    "feature_infos",
    "tree_sizes",
)
"""Keys of the header that an answer needs."""
_INNER_INTEGERS = ("split_feature", "decision_type", "left_child", "right_child", "internal_count")
_INNER_NUMBERS = ("split_gain", "threshold", "internal_value", "internal_weight")
_LEAF_NUMBERS = ("leaf_value", "leaf_weight", "leaf_count")
_SINGLE = ("num_leaves", "num_cat", "is_linear", "shrinkage")


@dataclass(frozen=True)
class LightGBMFacts:
    objective: str
    """Empty: the model has none, and its outputs are its trees' sums."""
    width: int
    groups: int
    rounds: int
    names: list[str] | None
    categorical: list[bool]
    categories: list[list[Any] | None]
    """Feature by feature: what its codes 0, 1, … stand for, where it was fitted on a frame of pandas."""
    note: dict[str, Any]
    """What everloop wrote into the file."""
    checked: str
    """The header and the trees alone, which were looked at to the last byte: what LightGBM is given. What follows them in a file (the
    parameters of the fit) is nothing that an answer needs, and LightGBM reads it without bounds."""


def read_facts(payload: bytes) -> LightGBMFacts:
    """Raises ArtifactCorrupt, NotSupported (ranking, linear trees, an unknown objective)."""
    try:
        return _facts(payload)
    except EverloopError:
        raise
    except (KeyError, ValueError, IndexError, UnicodeDecodeError, OverflowError, RecursionError) as error:
        raise ArtifactCorrupt(f"the LightGBM model is damaged: {type(error).__name__}: {error}") from error


def _facts(payload: bytes) -> LightGBMFacts:
    payload = payload.rstrip(b"\x00")
    _hold(b"\x00" not in payload and b"\r" not in payload, "bytes that no text has")
    head, found, _ = payload.partition(b"\nTree=0\n")
    body = payload[len(head) + 1 :] if found else b""
    first, *lines = head.decode().splitlines()
    _hold(first == "tree", "another beginning")
    header = _keys(lines, many=True)
    width, groups = _whole(header["max_feature_idx"]) + 1, _whole(header["num_tree_per_iteration"])
    _hold(0 < width <= MOST_FEATURES and 0 < groups <= MOST_CLASSES, f"{width} features and {groups} outputs")
    _hold(_whole(header["num_class"]) in (1, groups), "another number of classes than of outputs")
    names, infos = header["feature_names"].split(" "), header["feature_infos"].split(" ")
    _hold(len(names) == len(infos) == width, "names of another number of features")
    sizes = _integers(header["tree_sizes"]).tolist()
    _hold(all(size > 0 for size in sizes) and sum(sizes) <= len(body), "trees cut off")
    _hold(len(sizes) % groups == 0, "a round that is not whole")
    start = 0
    for number, size in enumerate(sizes):
        _check_tree(body[start : start + size].decode(), number, width)
        start += size
    _hold(not sizes or body[start:].startswith(b"end of trees"), "more trees than it tells")
    rest = body[start:].decode() if sizes else ""
    categorical, categories = _categories(infos, rest)
    return LightGBMFacts(
        objective=_objective(header.get("objective", ""), groups),
        width=width,
        groups=groups,
        rounds=len(sizes) // groups,
        names=None if names == [f"Column_{i}" for i in range(width)] else names,
        categorical=categorical,
        categories=categories,
        note=json.loads(header["everloop"]) if "everloop" in header else {},
        checked=_checked(header, body[:start]),
    )


def _checked(header: dict[str, str], trees: bytes) -> str:
    known = [key for key in _HEADER if key in header]
    lines = [f"{key}={header[key]}" if header[key] else key for key in known]
    return "\n".join(["tree", *lines]) + "\n\n" + trees.decode() + "end of trees\n\nparameters:\n\nend of parameters\n"


def _keys(lines: list[str], *, many: bool = False) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        if not line and many:
            continue
        key, _, value = line.partition("=")
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice")
        found[key] = value
    return found


def _objective(told: str, groups: int) -> str:
    """Its name. What it says of classes must be so: the library would write that many numbers a row."""
    if not told or told == "custom":
        return ""
    name, *options = told.split()
    if name in RANKING:
        raise NotSupported(f"the LightGBM model ranks ({name}): it has no answer to a row on its own")
    if name not in (*CLASSIFICATION, *REGRESSION):
        raise NotSupported(f"a LightGBM model with the objective {name!r}")
    classes = [_whole(option.partition(":")[2]) for option in options if option.startswith("num_class:")]
    expected = [groups] if name.startswith("multiclass") else []
    _hold(classes == expected and (bool(expected) or groups == 1), "an objective with other classes than the model")
    return name


def _check_tree(text: str, number: int, width: int) -> None:
    first, *lines = text.rstrip("\n").split("\n")
    _hold(first == f"Tree={number}" and 0 < len(lines) <= MOST_LINES, "a tree that does not begin as one")
    _hold("" not in lines and all("=" in line for line in lines), "a tree with an unexpected line")
    keys = _keys(lines)
    if keys.get("is_linear", "0") != "0":
        raise NotSupported("the LightGBM model has linear trees (linear_tree=True), which cannot be checked before use")
    leaves, cats = _whole(keys["num_leaves"]), _whole(keys["num_cat"])
    _hold(leaves > 0 and cats >= 0, f"a tree with {leaves} leaves")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for key, value in keys.items():
        if not _PLAIN.fullmatch(value):
            raise ValueError(f"{key} holds something else than numbers")
        if key in _SINGLE:
            float(value)
        elif key in ("cat_boundaries", "cat_threshold") or key in _INNER_INTEGERS:
            arrays[key] = _integers(value)
        elif key in _INNER_NUMBERS or key in _LEAF_NUMBERS:
            arrays[key] = np.array(value.split(" ") if value else [], np.float64)
        else:
            raise ValueError(f"a tree with the unknown key {key!r}")
    _hold(len(arrays["leaf_value"]) == leaves, "a tree whose leaves are cut off")
    if leaves == 1:
        return  # of such a tree, only the leaf's value is read, and the other arrays may be empty
    for key, values in arrays.items():
        if key in (*_INNER_INTEGERS, *_INNER_NUMBERS):
            _hold(len(values) == leaves - 1, f"a tree whose {key} is cut off")
        elif key in _LEAF_NUMBERS:
            _hold(len(values) == leaves, f"a tree whose {key} is cut off")
    _check_nodes(arrays, leaves, cats, width)


def _check_nodes(arrays: dict[str, npt.NDArray[Any]], leaves: int, cats: int, width: int) -> None:
    """Each node and leaf has one parent, and the root has none: from the root, no way leads back."""
    children = np.concatenate([arrays["left_child"], arrays["right_child"]])
    inner, ends = children[children >= 0], ~children[children < 0]
    _hold(
        bool(np.all((inner > 0) & (inner < leaves - 1)) and np.all(ends < leaves))
        and bool(np.all(np.bincount(inner, minlength=1) <= 1)),
        "a tree whose nodes point outside of it or back",
    )
    features, kinds = arrays["split_feature"], arrays["decision_type"]
    _hold(bool(np.all((features >= 0) & (features < width))), "a tree over features that the model has not")
    _hold(bool(np.all((kinds >= 0) & ((kinds >> 2) <= 2))), "a split of an unknown type")
    split = (kinds & 1) == 1
    if not cats:
        _hold(not split.any(), "splits by category without categories")
        return
    bounds, members = arrays["cat_boundaries"], arrays["cat_threshold"]
    chosen = arrays["threshold"][split]
    _hold(
        len(bounds) == cats + 1
        and bounds[0] == 0
        and bounds[-1] == len(members)
        and bool(np.all(np.diff(bounds) >= 0))
        and bool(np.all((chosen >= 0) & (chosen < cats) & (chosen == np.floor(chosen)))),
        "categories outside of their list",
    )


def _whole(text: str) -> int:
    """Python would take more for a number than LightGBM does: other digits, underscores, spaces."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _integers(text: str) -> npt.NDArray[np.int64]:
    values = np.array([_whole(part) for part in text.split(" ")] if text else [], np.int64)
    if np.any((values < -(2**31)) | (values >= 2**32)):
        raise ValueError("a number beyond 32 bits")
    return values


def _categories(infos: list[str], rest: str) -> tuple[list[bool], list[list[Any] | None]]:
    """Which features are categories, and what pandas called them: the parameters name the columns where the fit was told of them."""
    categorical = [not info.startswith("[") and info != "none" for info in infos]
    last = rest.rstrip("\n").rpartition("\n")[2]
    known = json.loads(last.partition(":")[2]) if last.startswith("pandas_categorical:") else None
    categories: list[list[Any] | None] = [None] * len(infos)
    if not known:
        return categorical, categories
    places = [i for i, each in enumerate(categorical) if each]
    for line in rest.splitlines():
        if line.startswith("[categorical_feature: ") and line.endswith("]"):
            listed = line.removeprefix("[categorical_feature: ").removesuffix("]").split(",")
            places = sorted(int(place) for place in listed if place.strip().isdigit()) or places
    if len(places) != len(known) or not all(place < len(infos) for place in places):
        raise NotSupported(
            "the LightGBM model was fitted on categories of pandas, and its file does not tell of which columns: name them at the fit "
            "with categorical_feature="
        )
    for place, values in zip(places, known, strict=True):
        categories[place], categorical[place] = list(values), True
    return categorical, categories


def _hold(sound: bool, what: str) -> None:
    if not sound:
        raise ArtifactCorrupt(f"the LightGBM model has {what}; LightGBM did not write it like this, so it is not used")
