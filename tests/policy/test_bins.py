from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from everloop.policy.bins import (
    LATENCY_BINS,
    WORST,
    added,
    bin_from,
    exceeding,
    latency_bin,
    latency_edge,
    latency_middle,
    loss_bins,
    quantile_bins,
    total,
)


@given(st.floats(1e-6, 9e5))
def test_a_latency_lies_in_its_bin(seconds: float) -> None:
    number = latency_bin(seconds)
    assert latency_edge(number) <= seconds * (1 + 1e-9)
    assert seconds <= latency_edge(number + 1) * (1 + 1e-9)
    assert latency_middle(number) / seconds < 1.011


def test_latencies_beyond_reason_have_bins_too() -> None:
    assert [latency_bin(x) for x in (-1.0, 0.0, 1e-9)] == [0, 0, 0]
    assert {latency_bin(x) for x in (1e6, 1e300, math.inf, math.nan)} == {LATENCY_BINS - 1}
    assert bin_from(0.0) == 0
    assert bin_from(1e300) == LATENCY_BINS


@given(st.integers(1, LATENCY_BINS - 1))
def test_the_bin_from_an_edge_is_the_bin_of_that_edge(number: int) -> None:
    assert bin_from(latency_edge(number)) == number


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_bins_of_losses_keep_their_order(pair: list[float]) -> None:
    small, large = (next(iter(loss_bins(np.array([x])))) for x in sorted(pair))
    assert small <= large < WORST


def test_losses_that_are_no_number_are_beyond_all() -> None:
    assert loss_bins(np.array([1.0, math.nan, math.inf, -math.inf])) == {loss_bins_of(1.0): 1, WORST: 3}


def loss_bins_of(value: float) -> int:
    return next(iter(loss_bins(np.array([value]))))


@given(st.dictionaries(st.integers(-5, 5), st.integers(1, 9), min_size=1), st.floats(0.01, 0.99))
def test_quantiles_are_those_of_the_sorted_values(histogram: dict[int, int], share: float) -> None:
    values = sorted(number for number, count in histogram.items() for _ in range(count))
    place = max(1, math.ceil(share * len(values) - 1e-9))
    assert quantile_bins(histogram, [share]) == [values[place - 1]]
    assert exceeding(histogram, values[place - 1]) >= len(values) - place + 1


def test_histograms_add_up() -> None:
    assert added({1: 2, 3: 1}, {3: 4, 5: 1}) == {1: 2, 3: 5, 5: 1}
    assert total({1: 2, 3: 5}) == 7
