"""The format of compiled trees: what is forged is refused before it is walked, and what is no plain row is not answered."""

from __future__ import annotations

import dataclasses
import json
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.core.errors import ArtifactCorrupt
from everloop.core.schema import Schema, Target
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.tree import MAGIC, MOST_DEPTH, TreeModel
from everloop.stores.ports import Manifest


def model(**changed):
    """x0 <= 1: (x1 <= 2: 10, else 20), else 30; and a second tree of one leaf, 5."""
    made = TreeModel(
        threshold=np.array([1.0, 2.0, 0, 0, 0, 0]),
        feature=np.array([0, 1, -1, -1, -1, -1], np.int32),
        left=np.array([1, 2, 0, 1, 2, 3], np.int32),
        right=np.array([4, 3, 0, 0, 0, 0], np.int32),
        missing_left=np.array([True, False, False, False, False, False]),
        root=np.array([0, 5], np.int32),
        column=np.array([0, 0], np.int32),
        values=np.array([[10.0], [20.0], [30.0], [5.0]]),
        base=np.array([0.5]),
        fill=np.array([np.nan, np.nan]),
        divisor=2.0,
        link="identity",
    )
    return dataclasses.replace(made, **changed)


def opened(made, classes=None, fields=2):
    task = "regression" if classes is None else "classification"
    target = Target("regression") if classes is None else Target.infer(task, classes[0])
    manifest = Manifest("tree", task, Schema.unnamed(fields), target, classes)
    return load_session(manifest, made.pack(), trust=Trust())


def test_the_way_of_a_row():
    session = opened(model())
    rows = [[0, 0], [0, 3], [2, 0], [1, 2], [np.nan, 3]]
    expected = [(0.5 + leaf + 5) / 2 for leaf in (10, 20, 30, 10, 20)]
    assert session.run(np.array(rows, float)).tolist() == expected
    assert session.run(np.array(rows * 200, float)).tolist() == expected * 200
    assert [session.compile_row()(row) for row in rows[:4]] == expected[:4]
    filled = opened(model(fill=np.array([5.0, np.nan])))
    assert filled.run(np.array(rows[4:])).tolist() == [(0.5 + 30 + 5) / 2]


def test_what_is_no_plain_row_is_refused():
    row = opened(model()).compile_row()
    assert row([True, 0]) == row([1, 0.0])
    for bad in ("1", None, [1.0], {}, float("nan"), float("inf"), 10**400, np.float64(1), np.array([1.0]), 1j):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            row([bad, 1.0])
    for wrong in ([], [1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="number of values"):
            row(wrong)


@pytest.mark.parametrize("classes", [["no", "yes"], [False, True]])
@pytest.mark.parametrize(("link", "at_zero"), [("logit", 0), ("logit_closed", 1)])
def test_links_of_two_classes(classes, link, at_zero):
    made = model(values=np.array([[-1.0], [1.0], [0.0], [0.0]]), base=np.zeros(1), divisor=1.0, link=link)
    session = opened(made, classes)
    rows = [[0.0, 0.0], [0.0, 3.0], [2.0, 0.0]]
    expected = [classes[0], classes[1], classes[at_zero]]
    assert session.run(np.array(rows)).tolist() == expected == [session.compile_row()(row) for row in rows]
    assert session.run(np.array(rows * 200)).tolist() == expected * 200
    np.testing.assert_allclose(session.scores(np.array(rows))[:, 1], [1 / (1 + np.e), np.e / (1 + np.e), 0.5])


def test_several_outputs_whose_trees_add_to_one_each():
    made = model(column=np.array([0, 2], np.int32), base=np.array([0.0, 12.0, 0.0]), divisor=1.0, link="softmax")
    session = opened(made, ["a", "b", "c"])
    rows = [[0.0, 0.0], [0.0, 3.0]]
    assert session.run(np.array(rows)).tolist() == ["b", "a"] == [session.compile_row()(row) for row in rows]
    assert session.run(np.array(rows * 400)).tolist() == ["b", "a"] * 400
    np.testing.assert_allclose(session.scores(np.array(rows)).sum(axis=1), 1.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"left": np.array([0, 2, 0, 1, 2, 3], np.int32)},  # itself
        {"left": np.array([9, 2, 0, 1, 2, 3], np.int32)},
        {"left": np.array([-1, 2, 0, 1, 2, 3], np.int32)},
        {"left": np.array([4, 2, 0, 1, 2, 3], np.int32)},  # two parents, and a node without one
        {"left": np.array([1, 2, 0, 1, 2, 4], np.int32)},  # no such leaf
        {"left": np.array([1, 2, 0, 1, 1, 3], np.int32)},  # one leaf's value for two
        {"feature": np.array([2, 1, -1, -1, -1, -1], np.int32)},
        {"root": np.array([0, 6], np.int32)},
        {"root": np.array([0, 0], np.int32)},
        {"column": np.array([0, 1], np.int32)},
        {"column": np.array([-1, 0], np.int32)},
        {"threshold": np.array([np.nan, 2.0, 0, 0, 0, 0])},
        {"values": np.array([[10.0], [np.inf], [30.0], [5.0]])},
        {"fill": np.array([np.inf, 0.0])},
        {"divisor": 0.0},
    ],
    ids=str,
)
def test_forged_trees(changed):
    with pytest.raises(ArtifactCorrupt):
        opened(model(**changed))


def test_forged_bytes_and_manifests():
    payload = model().pack()
    manifest = Manifest("tree", "regression", Schema.unnamed(2), Target("regression"))
    bad_headers = [b"{}", b"[]", b"\xff", json.dumps({"nodes": 10**12}).encode()]
    forged = [b"", payload[:20], payload[:-1], payload + b"x", b"EVTREES2" + payload[8:]]
    forged += [MAGIC + struct.pack("<I", len(header)) + header for header in bad_headers]
    for each in forged:
        with pytest.raises(ArtifactCorrupt):
            load_session(manifest, each, trust=Trust())
    for wrong in (
        Manifest("tree", "regression", Schema.unnamed(3), Target("regression")),
        Manifest("tree", "classification", Schema.unnamed(2), Target("classification", "text"), ["a", "b"]),
    ):
        with pytest.raises(ArtifactCorrupt):
            load_session(wrong, payload, trust=Trust())


def chain(levels):
    """Every node's left child is a leaf."""
    nodes = 2 * levels + 1
    inner = np.arange(0, nodes - 1, 2)
    feature, left, right = np.full(nodes, -1), np.zeros(nodes), np.zeros(nodes)
    feature[inner], left[inner], right[inner] = 0, inner + 1, inner + 2
    leaves = np.flatnonzero(feature < 0)
    left[leaves] = np.arange(len(leaves))
    parts = {"threshold": np.zeros(nodes), "missing_left": np.zeros(nodes, bool), "values": np.zeros((len(leaves), 1))}
    parts["threshold"][inner] = np.arange(levels)
    parts["values"][:, 0] = np.arange(len(leaves))
    ints = {name: array.astype(np.int32) for name, array in (("feature", feature), ("left", left), ("right", right))}
    return model(
        **parts, **ints, root=np.zeros(1, np.int32), column=np.zeros(1, np.int32), base=np.zeros(1), divisor=1.0
    )


def test_deep_trees_are_walked_and_too_deep_ones_refused():
    deep = opened(chain(200))
    assert not hasattr(deep, "compile_row"), "deeper than Python source may be"
    assert deep.run(np.array([[-1.0, 0], [57.5, 0], [1e9, 0]])).tolist() == [0, 58, 200]
    begun = time.monotonic()
    with pytest.raises(ArtifactCorrupt, match="deep"):
        opened(chain(MOST_DEPTH + 1))
    assert time.monotonic() - begun < 60, "found by counting levels, not by walking"


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60), st.integers(0, 400), st.integers(1, 8))
def test_damage_never_does_more_than_refuse(noise, place, width):
    payload = bytearray(model().pack())
    place %= len(payload)
    payload[place : place + width] = noise[:width]
    manifest = Manifest("tree", "regression", Schema.unnamed(2), Target("regression"))
    try:
        session = load_session(manifest, bytes(payload), trust=Trust())
    except ArtifactCorrupt:
        return
    assert session.run(np.zeros((3, 2))).shape == (3,)
