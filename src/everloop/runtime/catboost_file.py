"""What a CatBoost file says of itself, and whether its trees and tables only point inside themselves.

CatBoost verifies that the core of a file is a sound FlatBuffer, not that its numbers make sense, and it applies trees in compiled code
without bounds checks. Here every index that it would follow is checked first: splits, leaves, the steps of trees that are not symmetric,
and the tables of statistics of categories (hash tables whose search would not end without an empty place).

Models on text or embeddings hold further parts, whose format is not described: those take trust.

A file: `CBM1`, the length of the core (uint32), the core, then the parts that it names. Source: catboost/libs/model/flatbuffers/*.fbs and
`TFullModel::Load` in CatBoost's repository.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from everloop.core.errors import ArtifactCorrupt, EverloopError, NotSupported, Untrusted
from everloop.runtime.artifact import Trust
from everloop.runtime.flatbuffer import Buffer, Table

MAGIC = b"CBM1"
MOST_FEATURES, MOST_OUTPUTS, DEEPEST = 1_000_000, 100_000, 16
BIN_VALUES = 254
"""Borders of one feature that fit into a byte: more take several."""
STATISTICS = "static_provider_v1"
"""The part with the tables of statistics of categories."""
_BUCKET = np.dtype([("hash", "<u8"), ("index", "<u4")])
_EMPTY = 2**64 - 1
_MEANS, _COUNTS = (2, 3), (4, 5)
"""Kinds of tables: (sum, count) an index, and one count an index; the others have a count a class."""


@dataclass(frozen=True)
class CatBoostFacts:
    width: int
    outputs: int
    names: list[str] | None
    text: list[bool]
    """Which features are categories or text."""
    info: dict[str, str]
    loss: str


class _Features(NamedTuple):
    names: dict[int, str]
    text: set[int]
    categories: int


def read_facts(payload: bytes, trust: Trust) -> CatBoostFacts:
    """Raises ArtifactCorrupt, NotSupported, Untrusted (text or embeddings)."""
    try:
        return _facts(payload, trust)
    except EverloopError:
        raise
    except (KeyError, ValueError, IndexError, TypeError, UnicodeDecodeError, OverflowError, AttributeError) as error:
        raise ArtifactCorrupt(f"the CatBoost model is damaged: {type(error).__name__}: {error}") from error


def _facts(payload: bytes, trust: Trust) -> CatBoostFacts:
    file = Buffer(payload)
    size = file.number("I", 4)
    core = Buffer(file.part(8, size)).root()
    trees = core.table(1)
    if not payload.startswith(MAGIC) or trees is None:
        raise ValueError("it has no trees")
    parts = core.texts(3)
    if set(parts) - {STATISTICS} and not trust.pickle:
        raise Untrusted(
            f"the CatBoost model has parts that cannot be checked before CatBoost reads them ({', '.join(parts)}), as models on text or "
            "embeddings have: pass trust_pickle=True (--trust-pickle) if you know where it comes from"
        )
    outputs = trees.number(0, "i", 0)
    _hold(0 < outputs <= MOST_OUTPUTS, f"{outputs} outputs")
    features = _check_features(trees)
    splits, bins = _count_splits(trees, features)
    _check_trees(trees, outputs, splits, bins)
    _hold(len(trees.array(16, "<f8")) in (0, outputs), "a bias for other outputs")
    _check_parts(file, 8 + size, parts, trees)
    info = dict(zip(*_pairs(core), strict=True))
    width = len(features.names)
    names = [features.names[place] or str(place) for place in range(width)]
    return CatBoostFacts(
        width=width,
        outputs=outputs,
        names=None if names == [str(place) for place in range(width)] else names,
        text=[place in features.text for place in range(width)],
        info=info,
        loss=json.loads(info["params"])["loss_function"]["type"] if "params" in info else "",
    )


def _pairs(core: Table) -> tuple[list[str], list[str]]:
    pairs = core.tables(2)
    return [pair.text(0) for pair in pairs], [pair.text(1) for pair in pairs]


def _check_features(trees: Table) -> _Features:
    """Each place of a row belongs to one feature, and each kind of feature is numbered from 0."""
    names: dict[int, str] = {}
    text: set[int] = set()
    categories = 0
    for field, kind in ((4, "category"), (5, "number"), (12, "text"), (18, "embedding")):
        offset = 1 if kind == "number" else 0  # a number's table begins with whether it had gaps
        identity = 4 if kind == "number" else 2
        for number, feature in enumerate(trees.tables(field)):
            index, place = feature.number(offset, "i", -1), feature.number(offset + 1, "i", -1)
            _hold(index == number and place >= 0 and place not in names, "features that share a place")
            names[place] = feature.text(identity)
            if kind == "embedding":
                raise NotSupported("the CatBoost model takes embeddings, which no feature here can hold")
            if kind != "number":
                text.add(place)
            categories += kind == "category"
    _hold(0 < len(names) <= MOST_FEATURES and set(names) == set(range(len(names))), "features without a place")
    return _Features(names, text, categories)


def _count_splits(trees: Table, features: _Features) -> tuple[int, int]:
    """How many conditions trees may name, and how many bytes the features of a row take when they are binarised."""
    sizes = [len(feature.array(3, "<f4")) for feature in trees.tables(5)]
    for feature in trees.tables(6):
        _hold(0 <= feature.number(0, "i", -1) < features.categories, "a condition on a category that it has not")
        values = len(feature.array(1, "<i4"))
        _hold(len(feature.texts(2)) in (0, values), "categories without their names")
        sizes.append(values)
    sizes += [len(feature.array(3, "<f4")) for feature in trees.tables(13)]
    sizes += [len(feature.array(1, "<f4")) for feature in trees.tables(7)]
    return sum(sizes), sum(-(-size // BIN_VALUES) for size in sizes)


def _check_trees(trees: Table, outputs: int, conditions: int, bins: int) -> None:
    splits, sizes, starts = (trees.array(field, "<i4").astype(np.int64) for field in (1, 2, 3))
    steps, leaves = trees.array(10, "<u4").view("<u2").reshape(-1, 2), trees.array(11, "<u4").astype(np.int64)
    values = len(trees.array(8, "<f8"))
    total = int(sizes.sum())
    _hold(
        bool(np.all(sizes >= 0))
        and len(splits) == total
        and (not len(starts) or bool(np.array_equal(starts, np.cumsum(sizes) - sizes))),
        "trees cut off",
    )
    packed = trees.array(17, "<u4")
    _hold(len(packed) in (0, total), "conditions of other trees")
    _hold(bool(np.all((packed & 0xFFFF) < max(bins, 1))), "a condition on a feature that it has not")
    if not len(steps):
        _hold(bool(np.all((splits >= 0) & (splits < conditions))), "a condition that it does not have")
        _hold(bool(np.all(sizes <= DEEPEST)) and values == outputs * int((1 << sizes).sum()), "leaves without values")
        return
    # each step goes forward, none leaves its tree, and a step of nothing ends at a leaf
    _hold(len(steps) == len(leaves) == total and bool(np.all(sizes > 0)), "trees cut off")
    ends = np.repeat(np.cumsum(sizes), sizes)
    inside = np.arange(total)[:, None] + steps.astype(np.int64) < ends[:, None]
    _hold(bool(np.all(inside)), "a tree whose steps lead outside of it")
    stops = np.any(steps == 0, axis=1)
    _hold(bool(np.all((splits >= 0) & (splits < max(conditions, 1)))), "a condition that it does not have")
    _hold(bool(np.all(leaves[stops] + outputs <= values)), "a leaf without values")


def _check_parts(file: Buffer, at: int, parts: list[str], trees: Table) -> None:
    borders = 0
    for feature in trees.tables(7):
        statistic = feature.table(0)
        if statistic is None:
            raise ValueError("a statistic of no categories")
        border = statistic.number(1, "i", 0)
        _hold(border >= 0, "a statistic of no class")
        borders = max(borders, border)
    _hold(STATISTICS in parts or not trees.tables(7), "no statistics of its categories")
    if parts[:1] != [STATISTICS]:
        return
    (count, at) = file.number("I", at), at + 4
    for _ in range(count):
        size = file.number("I", at)
        _check_statistics(Buffer(file.part(at + 4, size)).root(), borders)
        at += 4 + size


def _check_statistics(table: Table, borders: int) -> None:
    base = table.table(0)
    if base is None:
        raise ValueError("a table of no categories")
    combination = base.table(0)
    if combination is not None:
        for field, kind in enumerate(("<i4", "<u8", "<u8")):
            combination.array(field, kind)
    kind, classes = base.number(1, "b", 0), table.number(4, "i", 0)
    buckets, content = table.array(1, "u1"), table.array(2, "u1")
    _hold(len(buckets) % _BUCKET.itemsize == 0, "a table cut off")
    places = np.frombuffer(buckets.tobytes(), _BUCKET)
    used = places["hash"] != np.uint64(_EMPTY)
    _hold(len(places) > 0 and (len(places) & (len(places) - 1)) == 0 and not used.all(), "a table without an end")
    width = 8 if kind in _MEANS else 4 if kind in _COUNTS else 4 * classes
    of_classes = kind not in (*_MEANS, *_COUNTS)
    _hold(0 <= kind <= 5 and width > 0 and (not of_classes or borders < max(classes, 2)), "a table of an odd kind")
    _hold(bool(np.all(places["index"][used] < len(content) // width)), "a table that points outside of itself")


def _hold(sound: bool, what: str) -> None:
    if not sound:
        raise ArtifactCorrupt(f"the CatBoost model has {what}; CatBoost did not write it like this, so it is not used")
