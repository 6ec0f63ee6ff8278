"""Plans as people write them: what is filled in, what is read how, and what is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from everloop.core.errors import InvalidInput
from everloop.policy.rollout import Gates, Plan, Step, most_seconds
from everloop.registry.plans import Policy, check, plan_of, policy_of, summary


def shares(plan: Plan) -> list[float]:
    return [step.share for step in plan.steps]


class TestDefaults:
    def test_a_canary_grows_and_is_promoted(self) -> None:
        plan = plan_of("canary")
        assert plan.steps == tuple(Step(share, seconds=300.0, samples=100) for share in (0.01, 0.05, 0.25))
        assert (plan.at_end, plan.promote_early, plan.max_seconds) == ("promote", True, None)
        assert most_seconds(plan) == 7 * 86_400
        assert summary(plan) == "canary 1 % → 5 % → 25 % → 100 %"

    def test_the_others(self) -> None:
        assert plan_of("immediate") == Plan("immediate")
        assert plan_of("ab") == Plan(
            "ab", (Step(0.5, seconds=86_400.0, samples=1000),), at_end="hold", promote_early=False
        )
        assert plan_of("shadow").steps == (Step(0.0, seconds=3600.0, samples=1000),)
        assert (plan_of("shadow").at_end, plan_of("shadow").promote_early) == ("hold", False)
        assert plan_of("blue_green").steps == (Step(0.0, seconds=30.0), Step(1.0, seconds=600.0))
        assert plan_of("blue_green").at_end == "promote"

    def test_a_long_test_has_time_to_end(self) -> None:
        assert most_seconds(plan_of("ab", seconds=30 * 86_400)) == 60 * 86_400


class TestSteps:
    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("1,5,25,100", [0.01, 0.05, 0.25]),
            ("1 → 5 → 25 → 100", [0.01, 0.05, 0.25]),
            ("0.5%, 5%", [0.005, 0.05]),
            ("0.5,5", [0.005, 0.05]),
            ([1, 5, 25, 100], [0.01, 0.05, 0.25]),
            ([0.01, 0.05, 1.0], [0.01, 0.05]),
            ([0.1], [0.1]),
            (0.1, [0.1]),
            (20, [0.2]),
            (["1%", "5%"], [0.01, 0.05]),
            ([Step(0.1), {"share": 0.2}, 50], [0.1, 0.2, 0.5]),
        ],
    )
    def test_shares_and_percents(self, written: Any, read: list[float]) -> None:
        assert shares(plan_of("canary", steps=written)) == pytest.approx(read)

    def test_minima_of_each_step(self) -> None:
        plan = plan_of("canary", steps=[{"share": 0.1, "labels": 9}, 0.5], seconds=7, samples=3, labels=2)
        assert plan.steps == (Step(0.1, 7.0, 3, 9), Step(0.5, 7.0, 3, 2))

    def test_everybody_may_be_watched_before_the_promotion(self) -> None:
        plan = plan_of("canary", steps=[0.1, {"share": 1.0, "seconds": 900}])
        assert shares(plan) == [0.1, 1.0]
        assert summary(plan) == "canary 10 % → 100 %"

    def test_the_share_of_a_test(self) -> None:
        assert shares(plan_of("ab", share=0.2)) == [0.2]
        assert shares(plan_of("ab", share="20%")) == [0.2]
        assert shares(plan_of("ab", steps=[30])) == [0.3]

    def test_gates_as_a_mapping(self) -> None:
        assert plan_of("canary", gates={"failures": 3, "latency": False}).gates == Gates(failures=3, latency=False)
        assert plan_of("canary", gates=Gates(level=0.01)).gates.level == 0.01


@pytest.mark.parametrize(
    ("strategy", "options", "field"),
    [
        ("cannary", {}, "strategy"),
        ("canary", {"steps": "1"}, "steps"),
        ("canary", {"steps": "0.01,0.05"}, "steps"),
        ("canary", {"steps": [1]}, "steps"),
        ("canary", {"steps": []}, "steps"),
        ("canary", {"steps": {"share": 0.1}}, "steps"),
        ("canary", {"steps": "5,1"}, "steps[1].share"),
        ("canary", {"steps": [0.1, 0.2, 0.2]}, "steps[2].share"),
        ("canary", {"steps": [5, 250]}, "steps[1].share"),
        ("canary", {"steps": [-5, 25]}, "steps[0].share"),
        ("canary", {"steps": [math.nan]}, "steps[0].share"),
        ("canary", {"steps": [0.00001, 0.5]}, "steps[0].share"),
        ("canary", {"steps": "5,many"}, "steps[1]"),
        ("canary", {"steps": [True]}, "steps[0]"),
        ("canary", {"steps": [{"share": 0.1, "secs": 4}]}, "steps[0].secs"),
        ("canary", {"steps": [{"seconds": 4}]}, "steps[0].share"),
        ("canary", {"steps": [{"share": 0.1, "samples": "many"}]}, "steps[0].samples"),
        ("canary", {"steps": [Step(0.1, seconds=-1)]}, "steps[0].seconds"),
        ("canary", {"seconds": -1}, "seconds"),
        ("canary", {"seconds": True}, "seconds"),
        ("canary", {"samples": 1.5}, "samples"),
        ("canary", {"labels": -1}, "labels"),
        ("canary", {"at_end": "cheer"}, "at_end"),
        ("canary", {"promote_early": 1}, "promote_early"),
        ("canary", {"max_seconds": 60}, "max_seconds"),
        ("canary", {"share": 0.1}, "share"),
        ("ab", {"share": 0.1, "steps": [0.1]}, "share"),
        ("ab", {"share": 1.0}, "steps"),
        ("ab", {"steps": [0.1, 0.2]}, "steps"),
        ("shadow", {"steps": [0.1]}, "steps"),
        ("blue_green", {"steps": [0.1]}, "steps"),
        ("immediate", {"steps": [0.1]}, "steps"),
        ("canary", {"gates": {"level": 0}}, "gates.level"),
        ("canary", {"gates": {"failures": 0}}, "gates.failures"),
        ("canary", {"gates": {"failures": 1.5}}, "gates.failures"),
        ("canary", {"gates": {"timeout": 0}}, "gates.timeout"),
        ("canary", {"gates": {"latency_slack": -1}}, "gates.latency_slack"),
        ("canary", {"gates": {"quallity": False}}, "gates.quallity"),
        ("canary", {"gates": 5}, "gates"),
    ],
)
def test_what_is_refused(strategy: str, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        plan_of(strategy, **options)
    assert refused.value.field == field
    assert refused.value.message.startswith(field.partition(".")[0])


def test_plans_made_by_hand_are_checked_too() -> None:
    with pytest.raises(InvalidInput, match="two steps"):
        check(Plan("blue_green", (Step(1.0),)))
    with pytest.raises(InvalidInput, match="no steps"):
        check(Plan("immediate", (Step(1.0),)))


class TestPolicies:
    def test_what_a_model_says_counts(self) -> None:
        assert policy_of("auto", {}) == Policy("auto")
        assert policy_of("auto", {"strategy": "immediate"}).plan() == plan_of("immediate")
        assert policy_of("canary", {"steps": [0.5], "labels": 9}).plan() == plan_of("canary", steps=[0.5], labels=9)
        assert policy_of("auto", {"gates": {"level": 0.01}}).options == {"gates": {"level": 0.01}}

    @pytest.mark.parametrize(
        ("default", "overrides", "field"),
        [
            ("auto", {"strategy": "autoo"}, "rollout.strategy"),
            ("auto", {"strategy": 5}, "rollout.strategy"),
            ("auto", {"steps": [0.5]}, "rollout.steps"),
            ("auto", {"gates": {"level": 7}}, "rollout.gates.level"),
            ("canary", {"stepps": [0.5]}, "rollout.stepps"),
            ("canary", {"steps": [0.5, 0.4]}, "rollout.steps[1].share"),
        ],
    )
    def test_what_is_refused(self, default: str, overrides: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidInput) as refused:
            policy_of(default, overrides)
        assert refused.value.field == field
