"""When rows run together, where, and whom to turn away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.policy.batching import (
    MEASURED_SIZES,
    STALLS_FORGIVEN,
    UNMEASURED,
    BatchRules,
    CostCurve,
    Stalls,
    admits,
    next_batch,
    retry_after,
    runs_on_thread,
    sampled,
    slices,
)

CURVE = CostCurve((1, 8, 64), (0.00001, 0.00002, 0.0001))
RULES = BatchRules(max_rows=64, queue_rows=256, inline_seconds=0.001)


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(1, 0.00001), (8, 0.00002), (36, 0.00006), (64, 0.0001), (120, 0.00018)],
)
def test_cost_follows_the_measured_sizes_and_goes_on_after_the_last(rows: int, seconds: float) -> None:
    assert CURVE.estimate(rows) == pytest.approx(seconds)


def test_a_model_that_was_never_measured_is_assumed_to_cost_each_row() -> None:
    assert UNMEASURED.estimate(100) == pytest.approx(100 * UNMEASURED.estimate(1))


def test_a_curve_that_falls_at_its_end_is_not_prolonged_below_it() -> None:
    assert CostCurve((1, 8), (0.002, 0.001)).estimate(1000) == 0.001


@given(st.integers(1, 5000), st.floats(1e-7, 10.0))
def test_observing_moves_the_estimate_towards_the_measurement_and_never_past_it(rows: int, seconds: float) -> None:
    before = CURVE.estimate(rows)
    after = CURVE.observed(rows, seconds).estimate(rows)
    assert min(before, seconds) * 0.999 <= after <= max(before, seconds) * 1.001


def test_repeated_measurements_are_believed() -> None:
    curve = CURVE
    for _ in range(60):
        curve = curve.observed(64, 0.005)
    assert curve.estimate(64) == pytest.approx(0.005, rel=0.05)
    assert curve.estimate(1) == pytest.approx(0.00001), "what was not measured again keeps its value"


def test_one_outlier_does_not_move_a_small_model_to_its_thread() -> None:
    assert not runs_on_thread(CURVE.observed(64, 1.0), 64, RULES)


def test_an_expensive_or_oversized_batch_runs_on_the_thread() -> None:
    assert not runs_on_thread(CURVE, 64, RULES)
    assert runs_on_thread(CURVE, 65, RULES)
    assert runs_on_thread(CostCurve((1,), (0.01,)), 1, RULES)


@pytest.mark.parametrize(
    ("waiting", "rows", "admitted"),
    [(0, 1, True), (255, 1, True), (256, 1, False), (200, 57, False), (0, 10_000, True), (1, 10_000, False)],
)
def test_the_queue_is_bounded_but_an_empty_one_takes_any_single_request(
    waiting: int, rows: int, admitted: bool
) -> None:
    assert admits(waiting, rows, RULES) is admitted


@given(st.integers(0, 100_000))
def test_who_is_turned_away_is_told_a_positive_time(waiting: int) -> None:
    assert retry_after(waiting, CURVE, RULES) >= 0.05


@given(st.lists(st.integers(1, 200), min_size=1, max_size=50))
def test_requests_leave_in_order_and_whole(counts: list[int]) -> None:
    left, batches = list(counts), []
    while left:
        taken = next_batch(left, RULES.max_rows)
        assert taken >= 1
        batches.append(left[:taken])
        left = left[taken:]
    assert [count for batch in batches for count in batch] == counts
    assert all(sum(batch) <= RULES.max_rows or len(batch) == 1 for batch in batches)


@given(st.integers(1, 2000))
def test_slices_cover_every_row_once(rows: int) -> None:
    covered = [i for start, stop in slices(rows, RULES) for i in range(start, stop)]
    assert covered == list(range(rows))
    assert all(stop - start <= RULES.max_rows for start, stop in slices(rows, RULES))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.5, 1.0])
def test_sampling_keeps_about_its_share_of_consecutive_numbers(share: float) -> None:
    kept = sum(sampled(number, share) for number in range(1, 20_001))
    assert kept == pytest.approx(20_000 * share, abs=40)


@pytest.mark.parametrize(
    ("field", "rules"),
    [
        ("max_rows", BatchRules(max_rows=0)),
        ("queue_rows", BatchRules(max_rows=10, queue_rows=9)),
        ("inline_seconds", BatchRules(inline_seconds=-1)),
    ],
)
def test_impossible_rules_are_refused_by_name(field: str, rules: BatchRules) -> None:
    with pytest.raises(InvalidInput) as caught:
        rules.validate()
    assert caught.value.field == field


def test_the_measured_sizes_ascend() -> None:
    assert list(MEASURED_SIZES) == sorted(set(MEASURED_SIZES))


def test_a_model_that_stalls_twice_is_sent_to_its_thread_until_it_has_been_short_for_long() -> None:
    stalls = Stalls()
    stalls.observe(0.2)
    assert not stalls.many, "it may have been preempted"
    stalls.observe(0.0001)
    stalls.observe(0.2)
    assert stalls.many
    for _ in range(STALLS_FORGIVEN - 1):
        stalls.observe(0.0001)
    assert stalls.many
    stalls.observe(0.0001)
    assert not stalls.many
    stalls.observe(0.2)
    assert not stalls.many
