"""Intervals of paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.policy.paired import mean_difference, share_difference


def test_bounds_are_where_the_score_statistic_is_just_refused() -> None:
    """Tango's statistic, computed again with its restricted likelihood maximised by search."""
    low, high = share_difference(1, 6, 50)
    for bound, sign in ((low, 1), (high, -1)):
        assert _statistic(1, 6, 50, bound) * sign == pytest.approx(1.959964, abs=1e-4)


def _statistic(lost: int, won: int, n: int, difference: float) -> float:
    """Tango's, with the restricted likelihood maximised by search."""
    shares = np.linspace(max(0.0, -difference) + 1e-9, (1 - difference) / 2 - 1e-9, 400_001)
    cells = ((won, shares + difference), (lost, shares), (n - won - lost, 1 - 2 * shares - difference))
    likely = sum(count * np.log(share) for count, share in cells if count)
    share = shares[int(np.argmax(likely))]
    return float((won - lost - n * difference) / np.sqrt(n * (2 * share + difference - difference**2)))


def test_no_difference_seen_is_no_certainty() -> None:
    low, high = share_difference(0, 0, 500)
    assert (low, high) == (pytest.approx(-0.00762, abs=1e-4), pytest.approx(0.00762, abs=1e-4))
    assert share_difference(0, 0, 0) == (-1.0, 1.0)


@given(st.integers(1, 500), st.data())
def test_bounds_hold_the_estimate_and_mirror_each_other(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    low, high = share_difference(lost, won, n)
    assert -1 <= low <= (won - lost) / n <= high <= 1
    mirrored = share_difference(won, lost, n)
    assert (low, high) == (pytest.approx(-mirrored[1], abs=1e-9), pytest.approx(-mirrored[0], abs=1e-9))


def test_coverage() -> None:
    """Of 95 % intervals, over many draws of 300 pairs."""
    rng = np.random.default_rng(5)
    draws = rng.multinomial(300, [0.02, 0.01, 0.97], 2_000)
    held = sum(
        low <= 0.01 <= high for won, lost, _ in draws.tolist() for low, high in [share_difference(lost, won, 300)]
    )
    assert held / len(draws) > 0.93


def test_the_mean_of_differences() -> None:
    rng = np.random.default_rng(1)
    differences = rng.normal(0.5, 1.0, 400)
    low, high = mean_difference(differences, np.random.default_rng(2))
    assert low < differences.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert mean_difference(differences, np.random.default_rng(2)) == (low, high)
    assert mean_difference(np.empty(0), rng) == (-np.inf, np.inf)
