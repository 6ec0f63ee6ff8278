"""Inputs that have changed are noticed without labels, and looking often rings no false bell."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.policy.drift.inputs import (
    InputDriftMonitor,
    chi_square_test,
    fisher_test,
    gamma_tail,
    holm,
    ks_test,
)


def test_a_shifted_feature_is_named() -> None:
    rng = np.random.default_rng(0)
    monitor = InputDriftMonitor(rng.normal(size=(1_000, 3)), ["age", "income", "height"])
    rows = rng.normal(size=(500, 3))
    rows[:, 1] += 0.5
    monitor.observe(rows)
    report = monitor.test()
    assert report.drifted
    assert [feature.name for feature in report.features if feature.drifted] == ["income"]
    assert (report.reference_rows, report.current_rows, report.looks) == (1_000, 500, 1)


def test_looking_a_hundred_times_rings_no_false_bell() -> None:
    false = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        monitor = InputDriftMonitor(rng.normal(size=(500, 5)), list("abcde"), window=100)
        for _ in range(100):
            monitor.observe(rng.normal(size=(100, 5)))
            false += monitor.test().drifted
    assert false == 0


def test_drift_is_still_found_at_the_thousandth_look() -> None:
    rng = np.random.default_rng(1)
    monitor = InputDriftMonitor(rng.normal(size=(1_000, 2)), ["a", "b"], window=200)
    for _ in range(1_000):
        monitor.observe(rng.normal(size=(200, 2)))
        assert not monitor.test().drifted
    monitor.observe(rng.normal(0.7, 1, size=(200, 2)))
    assert monitor.test().drifted


def test_a_look_needs_a_window_of_new_rows() -> None:
    rng = np.random.default_rng(2)
    monitor = InputDriftMonitor(rng.normal(size=(100, 1)), ["a"], window=50)
    assert not monitor.test().features
    monitor.observe(rng.normal(5, 1, size=(49, 1)))
    assert not monitor.due
    assert monitor.test().looks == 0
    monitor.observe(rng.normal(5, 1, size=(1, 1)))
    report = monitor.test()
    assert report.drifted
    assert monitor.test() is report


def test_only_the_newest_window_is_kept() -> None:
    rng = np.random.default_rng(3)
    monitor = InputDriftMonitor(rng.normal(size=(100, 1)), ["a"], window=50)
    for _ in range(100):
        monitor.observe(rng.normal(9, 1, size=(7, 1)))
    monitor.observe(rng.normal(size=(50, 1)))
    report = monitor.test()
    assert report.current_rows == 50
    assert not report.drifted


def test_trifles_are_not_drift() -> None:
    rng = np.random.default_rng(4)
    monitor = InputDriftMonitor(rng.normal(size=(2_000, 1)), ["a"], window=50_000)
    monitor.observe(rng.normal(0.1, 1, size=(50_000, 1)))
    report = monitor.test()
    assert report.features[0].statistic < 0.1
    assert not report.drifted


def test_text_and_missing_values() -> None:
    rng = np.random.default_rng(5)

    def rows(n: int, red: float, missing: float) -> np.ndarray:
        out = np.empty((n, 3), object)
        out[:, 0] = rng.choice(["red", "blue"], n, p=[red, 1 - red])
        out[:, 1] = [None if rng.random() < missing else float(x) for x in rng.normal(size=n)]
        out[:, 2] = [f"customer {i}" for i in rng.integers(0, 10**9, n)]
        return out

    names = ["colour", "amount", "id"]
    monitor = InputDriftMonitor(rows(1_000, 0.5, 0.02), names)
    monitor.observe(rows(500, 0.5, 0.02))
    assert not monitor.test().drifted
    monitor.observe(rows(500, 0.8, 0.02))
    assert [f.name for f in monitor.test().features if f.drifted] == ["colour"]
    monitor.observe(rows(500, 0.5, 0.5))
    assert [f.name for f in monitor.test().features if f.drifted] == ["amount"]


def test_constant_infinite_and_empty_columns() -> None:
    reference = np.column_stack([np.ones(50), np.full(50, np.nan), np.full(50, np.inf)])
    monitor = InputDriftMonitor(reference, ["one", "never", "huge"], window=50)
    monitor.observe(reference)
    assert not monitor.test().drifted
    monitor.observe(np.column_stack([np.full(50, 2.0), np.ones(50), np.ones(50)]))
    assert all(feature.drifted for feature in monitor.test().features)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((np.ones((50, 2)), ["a"]), "reference"),
        ((np.ones((5, 1)), ["a"]), "reference"),
        ((np.ones(50), ["a"]), "reference"),
    ],
)
def test_a_wrong_reference_is_refused(arguments: tuple[np.ndarray, list[str]], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        InputDriftMonitor(*arguments)
    assert caught.value.field == field


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"expected shape \(n, 1\)"):
        InputDriftMonitor(np.ones((50, 1)), ["a"]).observe(np.ones((3, 2)))
    with pytest.raises(InvalidInput, match="alpha"):
        InputDriftMonitor(np.ones((50, 1)), ["a"], alpha=0)
    with pytest.raises(InvalidInput, match="window"):
        InputDriftMonitor(np.ones((50, 1)), ["a"], window=1)


# -- the distributions, against SciPy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(50, 50), (2_000, 500), (100, 400)])
@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 1.0])
def test_ks_agrees_with_scipy(n: int, m: int, shift: float) -> None:
    from scipy import stats

    rng = np.random.default_rng(6)
    a, b = np.sort(rng.normal(size=n)), np.sort(rng.normal(shift, 1, m))
    distance, p = ks_test(a, b)
    exact = stats.ks_2samp(a, b, method="exact")
    assert distance == pytest.approx(exact.statistic)
    assert math.log(p) == pytest.approx(math.log(exact.pvalue), rel=0.1, abs=0.1)


@given(st.floats(0.5, 30), st.floats(0, 200))
def test_gamma_tail_agrees_with_scipy(a: float, x: float) -> None:
    from scipy.special import gammaincc

    assert gamma_tail(a, x) == pytest.approx(float(gammaincc(a, x)), rel=1e-9, abs=1e-14)


@given(st.tuples(*[st.integers(0, 60)] * 4))
def test_fisher_agrees_with_scipy(table: tuple[int, int, int, int]) -> None:
    from scipy.stats import hypergeom

    a, b, c, d = table
    expected = 1.0
    if min(a + b, c + d, a + c, b + d) > 0:
        law = hypergeom(a + b + c + d, a + b, a + c)
        expected = min(1.0, 2 * min(law.cdf(a), law.sf(a - 1)))
    assert fisher_test(a, b, c, d) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_chi_square_agrees_with_scipy() -> None:
    from scipy.stats import chi2_contingency

    table = np.array([[120, 80, 60, 40], [40, 50, 30, 30]])
    names = list("abcd")
    effect, p = chi_square_test(
        Counter(dict(zip(names, table[0].tolist(), strict=True))),
        Counter(dict(zip(names, table[1].tolist(), strict=True))),
    )
    expected = chi2_contingency(table, correction=False)
    assert p == pytest.approx(expected.pvalue)
    assert effect == pytest.approx(math.sqrt(expected.statistic / table.sum()))


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
