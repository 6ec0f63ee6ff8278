"""Linear sessions: the compiled row is never wrong, and says the same as the matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import ArtifactCorrupt, NotSupported
from everloop.core.schema import Schema, Target
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.linear import UNROLL_FIELDS, LinearModel
from everloop.stores.ports import Manifest

WIDTHS = (1, 2, 8, 30, 64, UNROLL_FIELDS, UNROLL_FIELDS + 1, 300)


def session_of(weights, bias=None, classes=None):
    weights = np.atleast_2d(np.asarray(weights, float))
    outputs, fields = weights.shape
    model = LinearModel(weights, np.zeros(outputs) if bias is None else np.asarray(bias, float), np.full(fields, 0.5))
    task = "regression" if classes is None else "classification"
    target = Target("regression") if classes is None else Target.infer(task, classes[0])
    manifest = Manifest("linear", task, Schema.unnamed(fields), target, classes)
    return load_session(manifest, model.pack(), trust=Trust())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "classes", [None, ["no", "yes"], [3, 5, 9], list(range(10))], ids=["value", "two", "three", "ten"]
)
def test_row_matrix_and_formula_agree(width, classes):
    rng = np.random.default_rng(width)
    outputs = 1 if classes is None or len(classes) == 2 else len(classes)
    weights, bias = rng.normal(size=(outputs, width)), rng.normal(size=outputs)
    session = session_of(weights, bias, classes)
    X = rng.normal(size=(120, width)) * 10
    exact = X @ weights.T + bias
    compiled = [session.compile_row()(row) for row in X.tolist()]
    answers = session.run(X).tolist()
    if classes is None:
        np.testing.assert_allclose(answers, exact[:, 0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(compiled, answers, rtol=1e-12, atol=1e-12)
        assert all(type(answer) is float for answer in compiled)
    else:
        best = (exact[:, 0] > 0).astype(int) if outputs == 1 else exact.argmax(axis=1)
        assert answers == compiled == [classes[i] for i in best]
        scores = session.scores(X)
        np.testing.assert_allclose(scores.sum(axis=1), 1)
        assert [classes[i] for i in scores.argmax(axis=1)] == answers


@pytest.mark.parametrize("width", WIDTHS)
def test_an_answer_does_not_depend_on_its_batch(width):
    rng = np.random.default_rng(0)
    session = session_of(rng.normal(size=width), [0.1])
    X = rng.normal(size=(65, width))
    whole = session.run(X)
    for size in (1, 3, 64):
        assert session.run(X[:size]).tolist() == whole[:size].tolist()
    if width <= UNROLL_FIELDS:
        assert [session.compile_row()(row) for row in X.tolist()] == whole.tolist()


@pytest.mark.parametrize("width", [3, UNROLL_FIELDS + 1])
@pytest.mark.parametrize("classes", [None, ["no", "yes"], [1, 2, 3]])
def test_what_is_no_plain_row_is_refused_or_not_finite(width, classes):
    outputs = 3 if classes and len(classes) == 3 else 1
    answer = session_of(np.ones((outputs, width)) * np.arange(1, outputs + 1)[:, None], classes=classes).compile_row()
    good = [1.0] * width
    expected = answer(good)
    assert answer([True] + [1] * (width - 1)) == expected
    assert type(answer([1] * width)) is type(expected)
    for bad in ("1.0", None, [1.0], {}, b"1", 10**400):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            answer([bad, *good[1:]])
    for row in (good[1:], [*good, 1.0], []):
        with pytest.raises(ValueError):
            answer(row)
    for number in (math.nan, math.inf, -math.inf):
        if classes is None:
            assert not math.isfinite(answer([number, *good[1:]]))
        else:
            with pytest.raises(ValueError):
                answer([number, *good[1:]])


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    st.floats(-1e6, 1e6),
    st.lists(st.integers(-1000, 1000) | st.booleans() | st.floats(-1e6, 1e6), min_size=20, max_size=20),
)
def test_any_weights_any_numbers(weights, bias, row):
    answer = session_of(weights, [bias]).compile_row()(row[: len(weights)])
    assert type(answer) is float
    assert answer == pytest.approx(
        math.fsum([*(w * x for w, x in zip(weights, row, strict=False)), bias]), rel=1e-6, abs=1e-3
    )


def test_missing_values_are_filled():
    session = session_of([2.0, 10.0], [1.0])
    assert session.run(np.array([[np.nan, 1.0], [1.0, np.nan]])).tolist() == [12.0, 8.0]


def test_ties_go_to_the_first_class():
    session = session_of(np.zeros((3, 2)), classes=["a", "b", "c"])
    assert session.compile_row()([1.0, 2.0]) == "a" == session.run(np.ones((1, 2)))[0]
    two = session_of(np.zeros((1, 2)), classes=["a", "b"])
    assert two.compile_row()([1.0, 2.0]) == "a" == two.run(np.ones((1, 2)))[0]


def test_damage_is_noticed():
    good = LinearModel(np.ones((1, 2)), np.zeros(1), np.zeros(2)).pack()
    manifest = Manifest("linear", "regression", Schema.unnamed(2), Target("regression"))
    load_session(manifest, good, trust=Trust())
    other = Manifest("linear", "regression", Schema.unnamed(3), Target("regression"))
    for bad in (
        b"",
        good[:-1],
        good + b"x",
        b"pickle" + good,
        good[:12] + b"\xff" + good[13:],
        good[:-8] + b"\xff" * 8,
    ):
        with pytest.raises(ArtifactCorrupt):
            load_session(manifest, bad, trust=Trust())
    with pytest.raises(ArtifactCorrupt, match="3 fields"):
        load_session(other, good, trust=Trust())


def test_unknown_runtime():
    manifest = Manifest("abacus", "regression", Schema.unnamed(2), Target("regression"))
    with pytest.raises(NotSupported, match="abacus"):
        load_session(manifest, b"", trust=Trust())
