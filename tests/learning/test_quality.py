"""Live quality against the textbook formulas."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.learning.quality import WINDOW, Quality

NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(1, 3)), min_size=2, max_size=60))
def test_regression(seen: list[tuple[float, float, int]]) -> None:
    quality = Quality("regression")
    for label, answer, version in seen:
        quality.update(label, answer, version)
    labels, answers = np.array([s[0] for s in seen]), np.array([s[1] for s in seen])
    report = quality.report()
    errors = labels - answers
    assert report["n"] == len(seen) == report["window"]["n"]
    assert report["mae"] == pytest.approx(np.abs(errors).mean())
    assert report["rmse"] == pytest.approx(math.sqrt((errors**2).mean()))
    assert report["baseline_mae"] == pytest.approx(np.abs(np.diff(labels)).mean())
    if labels.std() > 1:
        assert report["r2"] == pytest.approx(
            1 - (errors**2).sum() / ((labels - labels.mean()) ** 2).sum(), rel=1e-9, abs=1e-6
        )
    assert sum(v["n"] for v in report["versions"].values()) == len(seen)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=60))
def test_classification(seen: list[tuple[str, str]]) -> None:
    quality = Quality("classification")
    for label, answer in seen:
        quality.update(label, answer, 1)
    report = quality.report()
    right = sum(label == answer for label, answer in seen)
    assert (report["correct"], report["accuracy"]) == (right, pytest.approx(right / len(seen)))
    same = sum(a[0] == b[0] for a, b in itertools.pairwise(seen)) / (len(seen) - 1)
    assert report["baseline_accuracy"] == pytest.approx(same)


def test_the_window_forgets_and_the_whole_does_not() -> None:
    quality = Quality("classification")
    for _ in range(WINDOW):
        quality.update(1, 0, 1)
    for _ in range(WINDOW):
        quality.update(1, 1, 2)
    report = quality.report()
    assert (report["accuracy"], report["window"]["accuracy"]) == (0.5, 1.0)
    assert report["versions"]["1"]["accuracy"] == 0.0


@given(
    st.lists(st.tuples(NUMBERS, st.one_of(NUMBERS, st.just(math.nan), st.none())), max_size=30),
    st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30),
)
def test_what_is_loaded_goes_on_as_what_was_dumped(
    before: list[tuple[float, float]], after: list[tuple[float, float]]
) -> None:
    quality = Quality("regression")
    for label, answer in before:
        quality.update(label, answer, 1)
    other = Quality.load(json.loads(json.dumps(quality.dump())))
    for label, answer in after:
        quality.update(label, answer, 2)
        other.update(label, answer, 2)
    assert other.report() == quality.report()
    bad = sum(answer is None or answer != answer for _, answer in before)
    assert quality.report().get("unusable", 0) == bad
