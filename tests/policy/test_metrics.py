"""Streaming sums of answers against scikit-learn's functions, however the stream is cut and merged."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    mean_absolute_error,
    r2_score,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)

from everloop.policy.metrics import ClassSums, ErrorSums

NUMBERS = st.floats(-1e6, 1e6)
CUTS = st.lists(st.integers(0, 60), max_size=4)


def parts(count: int, cuts: list[int]) -> list[slice]:
    edges = sorted({0, count, *(cut for cut in cuts if cut < count)})
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=60), CUTS)
def test_errors(seen: list[tuple[float, float]], cuts: list[int]) -> None:
    labels, answers = np.array(seen).T
    whole = ErrorSums()
    for part in parts(len(seen), cuts):
        sums = ErrorSums()
        sums.add(labels[part], answers[part])
        whole.merge(ErrorSums.load(sums.dump()))
    figures = whole.figures()
    assert figures["mae"] == pytest.approx(mean_absolute_error(labels, answers))
    assert figures["rmse"] == pytest.approx(root_mean_squared_error(labels, answers))
    if labels.std() > 1:
        assert figures["r2"] == pytest.approx(r2_score(labels, answers), rel=1e-9, abs=1e-6)


def test_answers_that_are_no_numbers_count_in_no_mean() -> None:
    sums = ErrorSums()
    sums.add(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, math.nan, math.inf, 4.0]))
    sums.add(np.array([1.0]), np.array([math.nan]))
    assert (sums.n, sums.bad, sums.figures()["mae"]) == (2, 3, 0.5)
    assert ErrorSums().figures() == {}


def test_what_overflows_is_left_out() -> None:
    sums = ErrorSums()
    sums.add(np.array([1e200, -1e200]), np.array([0.0, 0.0]))
    assert sums.figures() == {"mae": 1e200}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 4)), min_size=1, max_size=60), CUTS)
def test_classes(seen: list[tuple[int, int]], cuts: list[int]) -> None:
    labels, answers = np.array(seen, np.int32).T
    whole = ClassSums()
    for part in parts(len(seen), cuts):
        sums = ClassSums()
        sums.add(labels[part], answers[part], labels[part] == answers[part])
        whole.merge(ClassSums.load(sums.dump()))
    figures = whole.figures()
    assert figures["accuracy"] == pytest.approx(accuracy_score(labels, answers))
    recalls = recall_score(labels, answers, labels=np.unique(labels), average="macro", zero_division=0)
    assert figures["balanced_accuracy"] == pytest.approx(recalls)
    if set(answers) <= set(labels) and len(set(labels)) > 1:
        assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, answers))
    if len(set(labels)) > 1:
        areas = [roc_auc_score(labels == k, answers == k) for k in np.unique(labels)]
        assert whole.auc() == pytest.approx(np.mean(areas))
    else:
        assert whole.auc() is None


def test_labels_without_a_code_leave_accuracy_right() -> None:
    sums = ClassSums()
    sums.add(np.array([0, -1, -1], np.int32), np.array([0, -1, 0], np.int32), np.array([True, True, False]))
    assert sums.figures() == {"accuracy": pytest.approx(2 / 3)}
    assert sums.auc() is None
