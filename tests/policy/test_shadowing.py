"""What a shadow may spend, and how large its batches are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.policy.shadowing import ShadowRules, filled, full, next_rows, spent, wait

RULES = ShadowRules(cpu_share=0.25, rows_per_second=100.0, batch_rows=64, batch_seconds=0.02)


def test_a_purse_holds_a_second_and_fills_by_its_share() -> None:
    purse = full(10.0, RULES)
    assert (purse.seconds, purse.rows) == (0.25, 100.0)
    assert filled(purse, 1e6, RULES)[1:] == purse[1:]
    empty = spent(purse, 0.25, 100)
    assert filled(empty, 10.5, RULES)[1:] == (0.125, 50.0)
    assert filled(empty, 9.0, RULES)[1:] == (0.0, 0.0), "time never goes back"


def test_who_is_in_debt_waits_it_out() -> None:
    purse = spent(full(0.0, RULES), 1.25, 0)
    assert wait(purse, 1, RULES) == 4.0
    assert wait(filled(purse, 4.0, RULES), 1, RULES) == 0.0


def test_it_waits_for_the_rows_of_a_whole_batch_and_no_more_than_the_purse_can_hold() -> None:
    purse = spent(full(0.0, RULES), 0.0, 90)
    assert wait(purse, 10, RULES) == 0.0
    assert wait(purse, 60, RULES) == 0.5
    slow = replace(RULES, rows_per_second=0.5)
    assert wait(full(0.0, slow), 64, slow) == 0.0
    assert wait(spent(full(0.0, slow), 0.0, 1), 64, slow) == 2.0


@pytest.mark.parametrize(
    ("rows", "seconds", "expected"),
    [(1, 0.001, 4), (4, 0.001, 16), (16, 0.02, 16), (16, 0.2, 1), (64, 0.0, 64), (1, 9.0, 1)],
)
def test_a_batch_is_what_should_take_its_time(rows: int, seconds: float, expected: int) -> None:
    assert next_rows(rows, seconds, RULES) == expected


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 3), st.integers(1, 64)), max_size=100))
def test_over_any_time_no_more_is_spent_than_the_share_a_purse_and_one_batch(
    runs: list[tuple[float, float, int]],
) -> None:
    """Who waits as `wait` says, whatever the runs cost (known only afterwards) and however long nothing comes."""
    now, purse, seconds, rows = 0.0, full(0.0, RULES), 0.0, 0
    for idle, cost, wanted in runs:
        now += idle
        purse = filled(purse, now, RULES)
        now += wait(purse, wanted, RULES) + 1e-9
        purse = filled(purse, now, RULES)
        assert seconds <= RULES.cpu_share * (now + 1.0) + 1e-6, "all that went before is paid for"
        assert rows + wanted <= RULES.rows_per_second * (now + 1.0) + 1e-6
        purse = spent(purse, cost, wanted)
        seconds, rows = seconds + cost, rows + wanted
