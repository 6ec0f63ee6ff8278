"""How much of the past a fit sees."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from everloop.policy.windows import candidate_windows, choose, holdout_rows


@given(st.integers(0, 100_000), st.floats(0.01, 0.99))
def test_held_out_rows_leave_something_to_train_on(n: int, holdout: float) -> None:
    held = holdout_rows(n, holdout)
    assert 0 <= held <= min(n // 2, 2_000)
    assert held >= 1 or n < 2
    assert held >= 5 or n < 10


def test_held_out_rows_are_the_share_asked_for() -> None:
    assert holdout_rows(1_000, 0.2) == 200
    assert holdout_rows(20, 0.2) == 5
    assert holdout_rows(100_000, 0.2) == 2_000


@given(st.integers(0, 50_000), st.integers(2, 5_000), st.one_of(st.none(), st.integers(0, 60_000)))
def test_candidates_lie_within_the_history(n: int, min_samples: int, cut: int | None) -> None:
    lengths = candidate_windows(n, min_samples, cut)
    assert bool(lengths) == (n > 0)
    assert len(lengths) == len(set(lengths)) <= 5
    assert all(0 < length <= n for length in lengths)
    assert n in lengths or not n
    for length in lengths[1:]:
        assert length >= min_samples or length == n


def test_the_rows_since_a_change_come_first() -> None:
    assert candidate_windows(1_000, 100, 40) == [40, 1_000]
    assert candidate_windows(1_000, 100, 4) == candidate_windows(1_000, 100)
    assert candidate_windows(30, 100, 30) == [30]


def test_without_an_alarm_half_the_history_is_among_the_candidates() -> None:
    assert candidate_windows(100, 30) == [100, 71, 50, 35]


def test_a_shorter_window_wins_only_on_evidence() -> None:
    rng = np.random.default_rng(0)
    same = {100: np.abs(rng.normal(size=20)), 50: np.abs(rng.normal(size=20)) * 0.95}
    assert choose(same) == 100
    assert choose({100: same[100] + 5, 50: same[50]}) == 50


def test_a_candidate_that_answers_nonsense_loses() -> None:
    assert choose({100: [math.nan, 1.0], 50: [9.0, 9.0]}) == 50
    assert choose({100: [math.nan], 50: [math.inf]}) == 100
