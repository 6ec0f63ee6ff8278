"""What is learned of batches: their cost by size, the size that keeps a target, and when a batch leaves."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.policy.batching import BatchRules, CostCurve
from everloop.policy.pacing import PLANNED, ROUNDS, Pace, fastest_size, hopeless, release, size_within

PRIOR = CostCurve((1, 8, 64), (0.001, 0.001, 0.001))


def cost(rows: int, *, call: float = 0.005, row: float = 0.0001) -> float:
    return call + row * rows


def taught(sizes: list[int], cost: object = cost, *, noise: float = 0.0, seed: int = 0) -> Pace:
    pace, rng = Pace(PRIOR), Random(seed)
    for size in sizes:
        pace.observe(size, cost(size) * (1.0 + noise * (2 * rng.random() - 1)))  # type: ignore[operator]
    return pace


def test_what_was_measured_holds_until_a_batch_shows_otherwise() -> None:
    pace = Pace(CostCurve((1, 8, 64), (0.001, 0.002, 0.004)))
    assert pace.sizes == (1, 8, 64)
    assert pace.seconds == pytest.approx((0.001, 0.002, 0.004))
    assert pace.estimate(36) == pytest.approx(0.003, rel=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_cost_of_every_size_that_runs_is_learned(noise: float) -> None:
    rng = Random(1)
    pace = taught([rng.randint(1, 256) for _ in range(4000)], noise=noise)
    for size in (1, 2, 5, 16, 31, 64, 100, 200, 256):
        assert pace.estimate(size) == pytest.approx(cost(size), rel=0.15 if noise else 0.03)
    assert pace.spread <= 0.2


def test_sizes_that_never_ran_follow_the_nearest_one_that_did() -> None:
    """The machine is eight times slower than when the model was measured: one size shows it for all."""
    pace = taught([4] * 60, lambda rows: 0.008)
    for size in (1, 4, 64, 1000):
        assert pace.estimate(size) == pytest.approx(0.008, rel=0.05)
    assert pace.sizes == (4,)


def test_a_change_is_followed_within_a_few_batches() -> None:
    pace = taught([32] * 50)
    for _ in range(20):
        pace.observe(32, 0.08)
    assert pace.estimate(32) == pytest.approx(0.08, rel=0.1)


def test_one_batch_that_was_preempted_moves_little() -> None:
    pace = taught([32] * 50)
    before = pace.estimate(32)
    pace.observe(32, 10.0)
    assert pace.estimate(32) < 2 * before


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-7, 100.0)), max_size=60), st.integers(1, 100_000))
def test_an_estimate_is_always_a_time(seen: list[tuple[int, float]], rows: int) -> None:
    pace = Pace(PRIOR)
    for size, seconds in seen:
        pace.observe(size, seconds)
    assert 0 < pace.estimate(rows) < float("inf")
    assert 0 <= pace.spread <= 3


@given(st.floats(0.0001, 0.1), st.floats(0, 0.001), st.floats(0.0001, 1.0), st.integers(1, 2000))
def test_two_runs_of_the_chosen_size_fit_into_the_target_and_of_no_larger_one(
    call: float, row: float, target: float, most: int
) -> None:
    pace = Pace(CostCurve((1, 64), (call + row, call + 64 * row)))
    size = size_within(target, pace, most)
    assert 1 <= size <= most
    if size > 1:
        assert ROUNDS * pace.likely(size) <= PLANNED * target
    if size < most:
        assert ROUNDS * pace.likely(size + 1) > PLANNED * target * 0.999


def test_runs_that_spread_leave_more_room_to_the_target() -> None:
    sizes = [1, 32, 256] * 100
    steady, wild = taught(sizes), taught(sizes, noise=0.5)
    assert size_within(0.05, wild, 4096) < size_within(0.05, steady, 4096)


def test_no_batch_is_larger_than_it_helps() -> None:
    """2 ms a call and 2 ms a row: 32 rows a batch are answered at 97 % of the rate of 256, and wait an eighth of the time."""
    linear = Pace(CostCurve((1, 256), (0.004, 0.514)))
    assert fastest_size(linear, 256) in (16, 32)


def test_the_fastest_size_is_the_largest_unless_large_batches_get_slow() -> None:
    assert fastest_size(Pace(CostCurve((1, 64), (0.005, 0.010))), 256) == 256
    thrashing = taught([1, 8, 64, 256] * 100, lambda rows: 0.001 * (1 + (rows / 32) ** 2))
    assert fastest_size(thrashing, 256) in (16, 32, 64)


RULES = BatchRules(window_seconds=0.05)


@pytest.mark.parametrize(
    ("rules", "run", "deadline", "expected"),
    [
        (BatchRules(), 0.01, None, (100.0, "idle")),
        (BatchRules(target_seconds=0.02), 0.01, None, (100.0, "idle")),
        (RULES, 0.01, None, (100.05, "window")),
        (RULES, 0.01, 100.05, (100.03, "deadline")),
        (RULES, 0.01, 100.2, (100.05, "window")),
        (BatchRules(window_seconds=0.05, target_seconds=0.05), 0.01, None, (100.03, "target")),
        (BatchRules(window_seconds=0.05, target_seconds=0.05), 0.01, 100.025, (100.01, "deadline")),
        (BatchRules(window_seconds=0.05, target_seconds=0.2), 0.01, None, (100.05, "window")),
    ],
)
def test_a_batch_leaves_at_the_first_reason(
    rules: BatchRules, run: float, deadline: float | None, expected: tuple[float, str]
) -> None:
    at, why = release(100.0, run, deadline, rules)
    assert (pytest.approx(at), why) == expected


def test_a_deadline_is_hopeless_once_not_even_one_row_can_keep_it() -> None:
    pace = taught([1] * 100, lambda rows: 0.005)
    assert not hopeless(10.01, 10.0, pace)
    assert hopeless(10.004, 10.0, pace)
