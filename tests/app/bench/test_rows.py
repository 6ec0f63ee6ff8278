from __future__ import annotations

import json

import pytest

from everloop.app.bench.rows import against, counted, machine, ratio_in_turns, skipped, spread


@pytest.mark.parametrize(
    ("value", "sense", "bar", "passed"),
    [
        (60.0, "at least", 60, True),
        (59.9, "at least", 60, False),
        (3.0, "at most", 3, True),
        (3.01, "at most", 3, False),
    ],
)
def test_a_row_judges_itself(value: float, sense: str, bar: float, passed: bool) -> None:
    assert against("s", "w", value, sense, bar).passed is passed  # type: ignore[arg-type]


def test_errors_on_the_way_fail_the_best_number() -> None:
    assert against("s", "w", 1000.0, "at least", 1, ok=False).passed is False


def test_a_nan_passes_nothing() -> None:
    assert against("s", "w", float("nan"), "at least", 1).passed is False
    assert against("s", "w", float("nan"), "at most", 1).passed is False


def test_a_ratio_is_taken_round_by_round() -> None:
    """The machine halves its speed after two rounds: the ratio does not notice."""
    assert ratio_in_turns([20, 20, 10, 10], [10, 10, 5, 5]) == 2.0


def test_a_ratio_needs_both_sides_of_every_round() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio_in_turns([1.0, 2.0], [1.0])


def test_spread_shows_median_and_range() -> None:
    assert spread([1.0, 3.0, 2.0], " µs") == "2 µs (1–3)"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    row = skipped("http", "wrk is not installed")
    assert row.passed is None
    assert row.detail == "wrk is not installed"
    assert counted("s", "w", "none", "0", passed=True).passed is True


def test_the_machine_can_be_kept_as_json() -> None:
    told = machine()
    assert json.loads(json.dumps(told)) == told
    assert told["cores"] >= 1
    assert told["libraries"]["numpy"]
