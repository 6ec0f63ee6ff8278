"""Counts of a shadow: what they say of one batch, of many, and of several processes."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.serving.comparison import Shown, same

NUMBERS = st.floats(-1e300, 1e300)
PAIRS = st.lists(st.tuples(st.none() | NUMBERS, NUMBERS), max_size=40)


def shown(pairs: list[tuple[Any, Any]], task: Any = "regression", tolerance: float = 0.01) -> Shown:
    seen = Shown(version=3, task=task)
    seen.compare([mine for mine, _ in pairs], [theirs for _, theirs in pairs], tolerance)
    return seen


@given(PAIRS)
def test_numbers_agree_as_math_isclose_says(pairs: list[tuple[float | None, float]]) -> None:
    seen = shown(pairs)
    answered = [(mine, theirs) for mine, theirs in pairs if mine is not None]
    assert seen.answered == len(answered)
    close = [math.isclose(mine, theirs, rel_tol=0.01) for mine, theirs in answered]
    assert abs(seen.agreed - sum(close)) <= sum(
        abs(abs(mine - theirs) - 0.01 * max(abs(mine), abs(theirs))) <= 1e-9 * abs(mine) for mine, theirs in answered
    ), "but for what is on the edge"
    assert sum(seen.differences.values()) == len(answered)
    distances = sorted(abs(mine - theirs) for mine, theirs in answered)
    if distances:
        assert seen.largest == pytest.approx(distances[-1])
        median = distances[(len(distances) - 1) // 2]
        assert seen.median_difference == pytest.approx(median, rel=0.011, abs=1e-300)


@given(PAIRS, PAIRS)
def test_processes_add_up(first: list[tuple[Any, Any]], second: list[tuple[Any, Any]]) -> None:
    whole, one, other = shown(first + second), shown(first), shown(second)
    one.fail("raised", 2)
    other.fail("raised")
    other.fail("crash", 3)
    other.ran(4, 0.2)
    one.add(other)
    assert (one.answered, one.agreed, one.largest) == (whole.answered, whole.agreed, whole.largest)
    assert one.differences == whole.differences
    assert one.failed == {"raised": 3, "crash": 3}
    assert one.shown == one.answered + 6
    assert (one.batches, one.run_seconds) == (1, 0.2)
    assert one.row_latency(0.5) == pytest.approx(0.05, rel=0.02)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Shown) == one


def test_an_empty_one_takes_over_what_the_other_is() -> None:
    total = Shown()
    total.add(Shown(version=3, task="classification", state="running", reason="x", agreed=1, answered=2))
    assert (total.version, total.task, total.state, total.reason, total.agreement) == (
        3,
        "classification",
        "running",
        "x",
        0.5,
    )


@pytest.mark.parametrize(
    ("answer", "served", "agree"),
    [
        ("a", "a", True),
        ("a", "b", False),
        (1, 1, True),
        (1, True, False),
        (True, True, True),
        (1, "1", False),
        (2, 3, False),
    ],
)
def test_labels_are_the_same_or_not(answer: Any, served: Any, agree: bool) -> None:
    assert same(answer, served) is agree
    assert shown([(answer, served), (None, served)], "classification").agreed == agree


def test_a_difference_beyond_all_numbers_is_a_large_one() -> None:
    seen = shown([(1.7e308, -1.7e308)])
    assert seen.largest < math.inf
    assert (seen.answered, seen.agreed) == (1, 0)
