"""The ranges of what flows: by extremes, by percentiles, by what keeps the most information."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.optimization.calibration import BINS, least_divergence, middle

RNG = np.random.default_rng(3)


def counted(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    low, high = float(values.min()), float(values.max())
    return np.histogram(values, BINS, (low, high))[0], low, high


def test_entropy_cuts_an_outlier_off_and_keeps_what_is_usual() -> None:
    values = np.append(RNG.normal(size=20_000), 60.0)
    low, high = least_divergence(*counted(values))
    assert 2.5 < high < 15
    assert low == values.min()


def test_entropy_does_not_let_the_zeros_of_a_relu_decide() -> None:
    values = np.maximum(RNG.normal(size=20_000), 0)
    low, high = least_divergence(*counted(values))
    assert low == 0
    assert high > 0.8 * values.max()


@pytest.mark.parametrize("value", [0.0, 4.0, -2.0])
def test_what_never_changes_keeps_its_range(value: float) -> None:
    counts = np.zeros(BINS, np.int64)
    counts[BINS // 2] = 10
    assert least_divergence(counts, value, value) == (value, value)
    assert middle(counts, value, value, 99.0) == (value, value)


def test_percentiles_leave_as_much_on_either_side() -> None:
    counts = np.ones(1000, np.int64)
    low, high = middle(counts, 0.0, 1000.0, 90.0)
    assert (low, high) == pytest.approx((50, 950), abs=1.01)


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=60), st.sampled_from([60.0, 90.0, 99.0, 99.99, 100.0])
)
def test_no_range_goes_beyond_what_was_seen_and_a_larger_percentile_cuts_off_less(
    listed: list[float], percentile: float
) -> None:
    values = np.array(listed)
    if values.min() == values.max():
        return
    counts, low, high = counted(values)
    found = middle(counts, low, high, percentile)
    assert low <= found[0] <= found[1] <= high
    inside = ((values >= found[0]) & (values <= found[1])).mean()
    assert inside >= percentile / 100 - 2 / len(values) - 1e-9
    wider = middle(counts, low, high, 100.0)
    assert wider[0] <= found[0]
    assert wider[1] >= found[1]
    cut = least_divergence(counts, low, high)
    assert low <= cut[0] <= cut[1] <= high
