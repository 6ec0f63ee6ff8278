"""The guarantee itself, by exact enumeration of small blocks; and that what is computed is what the formula says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, logsumexp

from everloop.policy.sequential import DELTAS, EQUAL, Odds, block_closes, bounds, log_e, log_fewer, log_more

RATES = (0.0, 0.001, 0.05, 0.2, 0.5, 0.8, 0.99, 1.0)
SIZES = ((1, 1), (1, 4), (5, 1), (3, 3), (7, 2))


def outcomes(n: int, rate: float) -> Iterator[tuple[int, float]]:
    """(events, their probability)."""
    for events in range(n + 1):
        yield events, comb(n, events) * rate**events * (1 - rate) ** (n - events)


def expected(n_a: int, n_b: int, rate_a: float, rate_b: float) -> np.ndarray:
    """E[e] of one block for each of `DELTAS`."""
    mean = np.zeros(len(DELTAS))
    for (in_a, p_a), (in_b, p_b) in product(outcomes(n_a, rate_a), outcomes(n_b, rate_b)):
        mean += p_a * p_b * np.exp(log_e(n_a, n_b, in_a + in_b, in_b)[0])
    return mean


@pytest.mark.parametrize(("n_a", "n_b"), SIZES)
@pytest.mark.parametrize("rate", RATES)
def test_mean_is_one_where_the_arms_are_equal(n_a: int, n_b: int, rate: float) -> None:
    assert expected(n_a, n_b, rate, rate) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("n_a", "n_b"), SIZES)
@pytest.mark.parametrize(("rate_a", "rate_b"), [(a, b) for a in RATES for b in RATES if b < a])
def test_mean_is_at_most_one_where_the_challenger_has_fewer(n_a: int, n_b: int, rate_a: float, rate_b: float) -> None:
    assert (expected(n_a, n_b, rate_a, rate_b)[EQUAL:] <= 1 + 1e-9).all(), "bets on more"
    assert (expected(n_b, n_a, rate_b, rate_a)[: EQUAL + 1] <= 1 + 1e-9).all(), "bets on fewer"


def test_mean_is_at_most_one_where_units_differ_and_arms_are_drawn() -> None:
    """No distribution at all: five units whose outcomes are what they are, two of them given to arm b at random."""
    units = [1, 0, 1, 1, 0]
    draws = [(i, j) for i in range(5) for j in range(i)]
    mean = sum(np.exp(log_e(3, 2, sum(units), units[i] + units[j])[0]) for i, j in draws) / len(draws)
    assert mean == pytest.approx(1, abs=1e-12)


def test_a_test_over_several_blocks_that_stops_as_it_likes_keeps_its_level() -> None:
    """All paths of six samples, looked at after every one: what is not yet in a closed block is as if it had not come."""
    for rate in (0.05, 0.3, 0.5):
        stopped = 0.0
        for path in product((0, 1), repeat=6):
            odds, chance, best = Odds.begin(), 1.0, 0.0
            for i, event in enumerate(path):
                chance *= rate if event else 1 - rate
                arm = i % 2
                odds.add(1 - arm, [event * (1 - arm)], arm, [event * arm])
                best = max(best, odds.log_more())
            stopped += chance * (best >= math.log(1.5))
        assert stopped <= 1 / 1.5 + 1e-12


def test_mixtures_are_e_values() -> None:
    flat = np.zeros(len(DELTAS))
    assert log_more(flat) == pytest.approx(0, abs=1e-12)
    assert log_fewer(flat) == pytest.approx(0, abs=1e-12)


def by_definition(n_a: int, n_b: int, events: int, events_b: int) -> np.ndarray:
    s = np.arange(max(0, events - n_a), min(n_b, events) + 1.0)
    weights = -(gammaln(s + 1) + gammaln(events - s + 1) + gammaln(n_b - s + 1) + gammaln(n_a - events + s + 1))
    norms = logsumexp(weights + DELTAS[:, None] * s, axis=1) - logsumexp(weights)
    return DELTAS * events_b - norms


counts = st.integers(1, 30_000) | st.integers(1, 200)


@settings(max_examples=200, deadline=None)
@given(n_a=counts, n_b=counts, share=st.floats(0, 1) | st.floats(0, 1e-3), place=st.floats(0, 1))
def test_log_e_is_the_conditional_likelihood_ratio(n_a: int, n_b: int, share: float, place: float) -> None:
    events = round(share * (n_a + n_b))
    low, high = max(0, events - n_a), min(n_b, events)
    events_b = low + round(place * (high - low))
    assert log_e(n_a, n_b, events, events_b)[0] == pytest.approx(by_definition(n_a, n_b, events, events_b), abs=1e-7)


def test_many_blocks_at_once_are_the_same_as_one_by_one() -> None:
    rows = np.array([[1, 1, 1, 1], [500, 400, 100, 60], [7, 3, 0, 0], [10**6, 10**6, 10**5, 50_300], [50, 1, 51, 1]])
    together = log_e(*rows.T)
    for row, values in zip(rows, together, strict=True):
        assert log_e(*row)[0] == pytest.approx(values, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(n_a=st.integers(1, 10**7), n_b=st.integers(1, 10**7), share=st.floats(0, 1))
def test_huge_counts_give_numbers(n_a: int, n_b: int, share: float) -> None:
    events_b = round(share * n_b)
    values = log_e(n_a, n_b, events_b + round((1 - share) * n_a), events_b)
    assert np.isfinite(values).all()
    assert np.isfinite([log_more(values), log_fewer(values)]).all()


@settings(max_examples=60, deadline=None)
@given(n_a=st.integers(1, 300), n_b=st.integers(1, 300), events=st.integers(0, 600))
def test_more_events_of_the_challenger_are_more_evidence(n_a: int, n_b: int, events: int) -> None:
    events = min(events, n_a + n_b)
    all_of_them = np.arange(max(0, events - n_a), min(n_b, events) + 1)
    values = log_e(n_a, n_b, events, all_of_them)
    assert (np.diff(log_more(values)) > 0).all()
    assert (np.diff(log_fewer(values)) < 0).all()


def test_a_block_waits_for_both_arms_and_its_size_follows_from_sizes_alone() -> None:
    odds = Odds.begin()
    assert not odds.add(10_000, [0], 0, [0])
    assert odds.closed == (0, 0)
    assert odds.add(0, [0], 1, [1])
    assert odds.closed == (10_000, 1)
    assert not block_closes(50, 5, 100)
    assert block_closes(50, 6, 100)


deltas = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1), st.floats(0, 1)), max_size=12)


@settings(max_examples=100, deadline=None)
@given(deltas)
def test_only_block_boundaries_matter(parts: list[tuple[int, int, float, float]]) -> None:
    """The sum of what came between two closings is one block, in whatever pieces it came."""
    odds, whole, pending = Odds.begin(), np.zeros(len(DELTAS)), np.zeros(4, int)
    for n_a, n_b, share_a, share_b in parts:
        in_a, in_b = round(share_a * n_a), round(share_b * n_b)
        pending += (n_a, in_a, n_b, in_b)
        if odds.add(n_a, [in_a], n_b, [in_b]):
            whole += log_e(pending[0], pending[2], pending[1] + pending[3], pending[3])[0]
            pending[:] = 0
    assert odds.log_e[0] == pytest.approx(whole)


def test_pairs_are_fair_coins_where_neither_is_worse() -> None:
    mean = np.zeros(len(DELTAS))
    for wins in range(6):
        odds = Odds.begin()
        odds.add_pairs(5 - wins, wins)
        mean += comb(5, wins) / 32 * np.exp(odds.log_e[0])
    assert mean == pytest.approx(1)


def test_pairs_are_blocks_of_one_and_one() -> None:
    odds = Odds.begin()
    odds.add_pairs(1, 2)
    assert odds.log_e[0] == pytest.approx(log_e(1, 1, 1, 0)[0] + 2 * log_e(1, 1, 1, 1)[0])


def test_bounds_agree_with_the_test() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        n, level = int(rng.integers(20, 2000)), 0.05
        in_a, in_b = rng.binomial(n, 0.1), rng.binomial(n, rng.choice([0.02, 0.1, 0.2]))
        values = log_e(n, n, in_a + in_b, in_b)[0]
        lower, upper = bounds(values, level)
        assert (lower >= 0) == (log_more(values) >= math.log(1 / level))
        assert (upper <= 0) == (log_fewer(values) >= math.log(1 / level))
        assert lower < upper


def test_bounds_cover_the_odds_ratio_at_all_times() -> None:
    """200 streams of 40 blocks: the bounds leave out the true one on at most 5 % of the streams, each end."""
    rng = np.random.default_rng(6)
    truth = math.log(0.1 / 0.9) - math.log(0.06 / 0.94)
    missed = np.zeros(2)
    for _ in range(200):
        in_a, in_b = rng.binomial(60, 0.06, 40), rng.binomial(60, 0.1, 40)
        paths = np.cumsum(log_e(60, 60, in_a + in_b, in_b), axis=0)
        ends = np.array([bounds(values, 0.05) for values in paths])
        missed += (ends[:, 0] > truth).any(), (ends[:, 1] < truth).any()
    assert (missed <= 10).all()


def test_nothing_is_known_of_nothing() -> None:
    assert bounds(np.zeros(len(DELTAS)), 0.05) == (-math.inf, math.inf)
