"""May the challenger serve?"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.policy.promotion import judge, mean_interval


def test_a_clearly_better_challenger_passes_on_five_rows() -> None:
    verdict = judge([5.0, 3.1, 7.2, 0.9, 2.2], [0.1, 0.05, 0.2, 0.1, 0.02])
    assert verdict.promote
    assert verdict.reason == "better: mean absolute error 0.094 against 3.68 on 5 rows"
    assert verdict.difference == pytest.approx(3.586)
    assert verdict.interval is not None
    assert verdict.interval[0] > 0


def test_four_rows_are_too_few_whatever_they_say() -> None:
    verdict = judge([5.0] * 4, [0.1] * 4)
    assert not verdict.promote
    assert "at least 5" in verdict.reason


def test_one_wild_row_does_not_decide() -> None:
    champion = np.array([1e9, 1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0])
    challenger = np.array([0.0, 1.1, 1.0, 1.0, 0.9, 1.0, 1.1, 1.2])
    assert not judge(champion, challenger).promote
    assert not judge(np.r_[champion, np.tile(champion[1:], 4)], np.r_[challenger, np.tile(challenger[1:], 4)]).promote


@pytest.mark.parametrize(
    ("rule", "new", "promote", "why"),
    [
        ("better", 1.0, False, "not shown"),
        ("better", 1.04, False, "worse"),
        ("fresh", 1.0, True, "fresher"),
        ("fresh", 1.04, True, "fresher"),
        ("fresh", 1.06, False, "worse"),
        ("fresh", 0.5, True, "better"),
    ],
)
def test_the_rules(rule: str, new: float, promote: bool, why: str) -> None:
    champion = np.ones(40)
    verdict = judge(champion, champion * new, rule=rule, threshold=0.05)
    assert verdict.promote is promote
    assert verdict.reason.startswith(why)


def test_a_classifier_needs_more_than_a_lucky_row() -> None:
    champion = np.r_[np.ones(3), np.zeros(17)]
    assert not judge(champion, np.r_[0.0, np.ones(2), np.zeros(17)], task="classification").promote
    assert judge(np.r_[np.ones(10), np.zeros(10)], np.zeros(20), task="classification").promote


def test_after_an_alarm_less_evidence_will_do() -> None:
    champion, challenger = np.r_[np.ones(6), np.zeros(4)], np.r_[np.ones(3), np.zeros(7)]
    assert not judge(champion, challenger, task="classification").promote
    assert judge(champion, challenger, task="classification", recovering=True).promote
    assert not judge(challenger, champion, task="classification", recovering=True).promote


def test_a_first_model_passes_unless_it_is_unusable() -> None:
    worse = judge(None, [3.0, 4.0], baseline=[1.0, 1.0])
    assert worse.promote
    assert "does not beat" in worse.reason
    assert judge(None, []).promote
    broken = judge(None, [1.0, math.nan])
    assert not broken.promote
    assert "unusable answers on 1 of 2" in broken.reason


def test_a_champion_that_answers_nonsense_is_replaced() -> None:
    verdict = judge([math.nan, 1.0], [1.0, 1.0])
    assert verdict.promote
    assert verdict.champion is None


def test_rounding_errors_are_no_reason_to_swap() -> None:
    exact, exacter = np.full(30, 2e-16), np.full(30, 1e-16)
    assert judge(exact, exacter).promote
    assert not judge(exact, exacter, floor=1e-6).promote
    assert judge(exacter, exact, rule="fresh", floor=1e-6).promote


def test_losses_of_different_rows_are_refused() -> None:
    with pytest.raises(InvalidInput, match="expected 2 losses"):
        judge([1.0], [1.0, 2.0])
    with pytest.raises(InvalidInput, match="shape"):
        judge(None, np.ones((2, 2)))  # type: ignore[arg-type]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_interval_holds_the_mean_and_mirrors(values: list[float]) -> None:
    differences = np.array(values)
    low, high = mean_interval(differences)
    slack = 1e-9 * (1 + np.abs(differences).max())
    assert low - slack <= differences.mean() <= high + slack
    mirrored = mean_interval(-differences)
    assert mirrored == pytest.approx((-high, -low), abs=slack, rel=1e-6)


def test_the_small_sample_interval_is_the_sign_flip_test() -> None:
    """Oracle: all 2**n ways to flip signs. The lower end is above 0 exactly if at most 5 % of them sum to as much."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        d = rng.standard_cauchy(7) + 1
        flipped = [np.dot(signs, d) for signs in itertools.product((1, -1), repeat=7)]
        p = np.mean([total >= d.sum() - 1e-9 for total in flipped])
        assert (mean_interval(d)[0] > 0) == (p <= 0.05)


@pytest.mark.parametrize("n", [5, 8, 12, 13, 30, 200])
@pytest.mark.parametrize("law", ["normal", "cauchy", "coins"])
def test_an_equal_challenger_seldom_passes(n: int, law: str) -> None:
    rng = np.random.default_rng(n)
    draw = {
        "normal": lambda: np.abs(rng.normal(size=n)),
        "cauchy": lambda: np.abs(rng.standard_cauchy(n)),
        "coins": lambda: (rng.random(n) < 0.3).astype(float),
    }[law]
    passed = sum(judge(draw(), draw()).promote for _ in range(400))
    assert passed <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_while_recovering_a_gain_has_to_matter_or_be_certain() -> None:
    rng = np.random.default_rng(0)
    old = np.abs(rng.normal(0, 1, 40))

    def promoted(share: float, jitter: float) -> bool:
        noise = rng.permutation(np.linspace(-1, 1, 40)) * jitter  # of mean zero
        return judge(old, old * (1 - share) + noise, recovering=True).promote

    assert not promoted(0.03, 0.3)  # likely, and of no account
    assert promoted(0.3, 0.3)  # likely, and it matters
    assert promoted(0.03, 0.0)  # small and certain


def test_while_recovering_a_point_of_the_error_rate_matters() -> None:
    champion = np.array([1.0] * 60 + [0.0] * 140)
    challenger = champion.copy()
    challenger[:3] = 0.0
    assert judge(champion, challenger, task="classification", recovering=True).promote
    assert not judge(champion, challenger, task="regression", recovering=True).promote
    assert not judge(champion, challenger, task="classification").promote
