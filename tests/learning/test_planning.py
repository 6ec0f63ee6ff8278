"""Which rows a fit trains on, which judge it, and where it runs."""

from __future__ import annotations

from typing import Any

import pytest

from everloop.core.errors import InvalidInput
from everloop.core.schema import Schema, Target
from everloop.core.types import Example
from everloop.learning.config import LearningConfig, effective
from everloop.learning.planning import Plan, plan_fit
from everloop.learning.window import Window

SCHEMA, TARGET = Schema.unnamed(2), Target("regression")


def window(first: int, last: int) -> Window:
    made = Window(SCHEMA, TARGET)
    made.extend([Example(i, "m", [float(i), 0.0], float(i), 0.0) for i in range(first, last + 1)], 100_000)
    return made


def plan(n: int = 1000, **given: Any) -> Plan | None:
    settings: dict[str, Any] = {
        "trained_until": None,
        "cut_id": 0,
        "config": LearningConfig(min_samples=100),
        "weight": "light",
        "rate": None,
        "width": 2,
    }
    return plan_fit(window(1, n), given.pop("validation", window(1, 0)), **(settings | given))


def test_the_first_fit_holds_the_newest_rows_back() -> None:
    made = plan(100)
    assert made is not None
    assert (len(made.train), len(made.held)) == (80, 20)
    assert made.train.ids[-1] + 1 == made.held.ids[0]
    assert made.lengths == [100]


@pytest.mark.parametrize(("unseen", "held"), [(9, None), (10, 5), (40, 20), (400, 200), (1000, 200)])
def test_the_champion_knows_none_of_the_judging_rows_and_the_challenger_gets_half_of_the_news(
    unseen: int, held: int | None
) -> None:
    made = plan(1000, trained_until=1000 - unseen)
    if held is None:
        assert made is None
        return
    assert made is not None
    assert len(made.held) == held
    assert made.held.ids[0] > 1000 - unseen
    assert not made.seen


def test_who_asks_for_a_fit_gets_one_and_is_told() -> None:
    made = plan(1000, trained_until=1000, force=True)
    assert made is not None
    assert made.seen


def test_after_a_change_the_rows_since_come_first() -> None:
    made = plan(1000, trained_until=900, cut_id=941)
    assert made is not None
    assert made.lengths == [60, 1000]
    assert (made.cut, len(made.held)) == (60, 12)


def test_validation_examples_are_of_the_time_of_the_window() -> None:
    made = plan(1000, trained_until=900, cut_id=941, validation=window(900, 990))
    assert made is not None
    assert (int(made.validation.ids[0]), len(made.validation)) == (941, 50)


@pytest.mark.parametrize(
    ("n", "weight", "rate", "heavy", "lengths"),
    [
        (1000, "light", 1.0, False, 5),
        (1000, "heavy", None, True, 1),
        (1000, "heavy", 0.001, True, 5),
        (1000, "heavy", 0.01, True, 1),
        (1000, "unknown", None, True, 1),
        (120, "unknown", None, False, 1),
        (1000, "unknown", 1e-7, False, 5),
        (1000, "unknown", 1e-4, True, 5),
    ],
)
def test_where_it_runs_and_how_many_windows_it_tries(
    n: int, weight: str, rate: float | None, heavy: bool, lengths: int
) -> None:
    made = plan(n, weight=weight, rate=rate)
    assert made is not None
    assert (made.heavy, len(made.lengths)) == (heavy, lengths)


def test_a_models_own_settings_win_and_wrong_ones_are_named() -> None:
    base = LearningConfig(min_samples=50)
    assert effective(base, {}) is base
    assert effective(base, {"interval_sec": 1}) == LearningConfig(min_samples=50, interval_sec=1)
    with pytest.raises(InvalidInput, match="did you mean 'min_samples'"):
        effective(base, {"min_sample": 1})
    base.min_samples = 0
    with pytest.raises(InvalidInput, match="at least 2"):
        effective(base, {})


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("min_samples", "100", "a whole number"),
        ("min_samples", 10.5, "a whole number"),
        ("max_queue_size", True, "a whole number"),
        ("interval_sec", None, "a number"),
        ("auto_swap", "no", "True or False"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(field: str, value: Any, expected: str) -> None:
    with pytest.raises(InvalidInput, match=f"{field}: expected {expected}"):
        LearningConfig(**{field: value}).validate()
