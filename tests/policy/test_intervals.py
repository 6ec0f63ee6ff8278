"""Intervals that hold at all times: by simulation of whole paths, and where there is little to go on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.policy.bins import latency_bin, latency_edge
from everloop.policy.intervals import difference_bounds, latency_bounds, mean_bounds, rate_bounds


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5])
def test_a_rate_is_inside_at_all_times(rate: float) -> None:
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(200):
        events = np.cumsum(rng.random(400) < rate)
        bounds = (rate_bounds(int(events[n - 1]), n, 0.1) for n in range(5, 401, 5))
        missed += any(not low <= rate <= high for low, high in bounds)
    assert missed <= 20


def test_rates_at_their_ends() -> None:
    assert rate_bounds(0, 0, 0.05) == (0, 1)
    low, high = rate_bounds(0, 1000, 0.05)
    assert low == 0
    assert 0.003 < high < 0.02
    low, high = rate_bounds(1000, 1000, 0.05)
    assert 0.98 < low < high == 1


@settings(max_examples=100)
@given(
    n=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_nothing_known_of_the_odds_leaves_the_observed_difference_inside(
    n: tuple[int, int], shares: tuple[float, float]
) -> None:
    events = round(n[0] * shares[0]), round(n[1] * shares[1])
    low, high = difference_bounds(n, events, (-math.inf, math.inf))
    assert -1 <= low <= high <= 1
    assert low - 1e-9 <= events[1] / n[1] - events[0] / n[0] <= high + 1e-9


def test_the_sign_of_a_difference_is_that_of_the_odds() -> None:
    low, high = difference_bounds((1000, 1000), (50, 100), (0.1, 1.3))
    assert 0 < low < 0.05 < high
    low, high = difference_bounds((1000, 1000), (100, 50), (-1.3, 0.0))
    assert low < -0.05 < high == 0


def test_a_mean_is_inside_at_all_times() -> None:
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(300):
        values = rng.exponential(size=1000)
        for n in range(100, 1001, 20):
            low, high = mean_bounds(float(values[:n].mean()), float(values[:n].var()), n, 0.05)
            if not low <= 1 <= high:
                missed += 1
                break
    assert missed <= 30, "each end at 5 %"


def test_a_mean_of_nothing_is_anywhere() -> None:
    assert mean_bounds(0.0, 0.0, 1, 0.05) == (-math.inf, math.inf)
    assert mean_bounds(0.0, math.inf, 100, 0.05) == (-math.inf, math.inf)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_quantile_is_inside_at_all_times(share: float) -> None:
    rng = np.random.default_rng(3)
    truth, missed = -math.log(1 - share), 0
    for _ in range(100):
        histogram: dict[int, int] = {}
        out = False
        for i, value in enumerate(rng.exponential(size=600)):
            number = latency_bin(float(value))
            histogram[number] = histogram.get(number, 0) + 1
            if i % 15 == 14:
                low, high = latency_bounds(histogram, share, 0.1)
                out = out or not low <= truth <= high
        missed += out
    assert missed <= 10


def test_a_high_quantile_of_few_values_has_no_upper_end() -> None:
    assert latency_bounds({}, 0.99, 0.05) == (0.0, math.inf)
    low, high = latency_bounds({500: 30}, 0.99, 0.05)
    assert high == math.inf
    low, high = latency_bounds({500: 100_000}, 0.99, 0.05)
    assert (low, high) == (latency_edge(500), latency_edge(501))
