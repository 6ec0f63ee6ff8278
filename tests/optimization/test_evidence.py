"""The rows that forms are compared on: given, drawn, made up, and the very same ones again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.optimization.forms import Spoken, given_rows, sigmoid

from everloop.core.errors import InvalidInput
from everloop.core.schema import Field, Schema
from everloop.optimization.asking import ask
from everloop.optimization.evidence import data_digest, gather
from everloop.optimization.synthetic import draw_rows, make_up_rows


def test_what_calibrates_does_not_judge() -> None:
    rows = given_rows(50)
    labels = list(range(50))
    made = gather(Spoken(sigmoid), rows, labels, total=60, drawn=None, seconds=5.0, calibrate=True, loss=0.0, seed=0)
    assert (made.data.judged, made.data.calibrated, made.data.rows) == (40, 10, 50)
    assert made.shown == rows[::5]
    assert made.shown_labels == labels[::5]
    assert made.labels == [label for label in labels if label % 5]
    assert made.rows[:40] == [row for i, row in enumerate(rows) if i % 5]
    assert len(made.rows) == 50 + made.data.drawn <= 60


def test_the_same_rows_come_again() -> None:
    rows = given_rows(30)
    once, again = (
        gather(Spoken(sigmoid), rows, None, total=10, drawn=70, seconds=0.0, calibrate=False, loss=0.0, seed=4)
        for _ in range(2)
    )
    assert once.rows == again.rows
    assert once.data == again.data
    assert once.data.drawn == 70


def test_made_up_rows_judge_no_metric() -> None:
    made = gather(Spoken(sigmoid), [], [1], total=100, drawn=0, seconds=1.0, calibrate=True, loss=0.0, seed=0)
    assert (made.data.source, made.data.judged, made.data.calibrated, made.labels) == ("made up", 0, 0, None)
    assert len(made.rows) == 100


@given(st.integers(0, 40), st.integers(0, 3))
def test_drawn_values_are_those_of_their_column(count: int, seed: int) -> None:
    rows = [[float(i), f"t{i}", None] for i in range(5)]
    drawn = draw_rows(rows, count, seed)
    assert len(drawn) == count
    for number, text, nothing in drawn:
        assert number in {0.0, 1.0, 2.0, 3.0, 4.0}
        assert text in {"t0", "t1", "t2", "t3", "t4"}
        assert nothing is None


def test_made_up_rows_are_of_the_schema() -> None:
    schema = Schema((Field("a"), Field("b", "text"), Field("c", "number", nullable=True)), named=True)
    rows = make_up_rows(schema, 300, 1)
    assert schema.rows(rows) == rows
    magnitudes = np.abs([row[0] for row in rows])
    assert magnitudes.min() < 0.1
    assert magnitudes.max() > 100
    assert any(row[2] is None for row in rows)


def test_other_examples_have_another_digest() -> None:
    schema, rows = Schema.unnamed(4), given_rows(5)
    digests = {
        data_digest(rows, None, schema),
        data_digest(rows, [1] * 5, schema),
        data_digest(rows, [0] * 5, schema),
        data_digest(rows[::-1], None, schema),
    }
    assert len(digests) == 4


def picky(X: Any) -> Any:
    if (X[:, 0] > 1e38).any():
        raise ValueError("value too large")
    return sigmoid(X)


@given(st.sets(st.integers(0, 39), max_size=39), st.integers(0, 20), st.booleans())
def test_rows_that_the_original_refuses_are_left_out_and_counted(bad: set[int], drawn: int, calibrate: bool) -> None:
    rows, labels = given_rows(40), list(range(40))
    for i in bad:
        rows[i][0] = 1e39
    made = gather(Spoken(picky), rows, labels, total=0, drawn=drawn, seconds=0.0, calibrate=calibrate, loss=0.0, seed=0)
    good = [i for i in range(40) if i not in bad]
    kept = made.rows[: made.data.rows]
    assert sorted(kept) == sorted(rows[i] for i in good)
    assert (made.data.rows, made.data.drawn, made.data.refused) == (len(good), drawn, len(bad))
    assert made.labels == [rows.index(row) for row in kept[: made.data.judged]]
    assert made.data.digest == data_digest(rows, labels, Schema.unnamed(4))
    answered = ask(Spoken(picky), made.rows)
    assert made.original.labels == answered.labels
    assert np.array_equal(made.original.numbers, answered.numbers)


def test_where_the_original_answers_nothing_a_row_is_named() -> None:
    rows = [[1e39, 0.0, 0.0, 0.0]] * 300
    with pytest.raises(InvalidInput, match=r"answers none of the rows.*row 1: ValueError: value too large"):
        gather(Spoken(picky), rows, None, total=0, drawn=None, seconds=0.0, calibrate=False, loss=0.0, seed=0)
