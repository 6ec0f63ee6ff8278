"""What the evidence says to do, case by case, and that the table of transitions is all there is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import Conflict
from everloop.policy.rollout import (
    ENDED,
    TRANSITIONS,
    Action,
    Gates,
    Plan,
    Rollout,
    Seen,
    State,
    Step,
    after,
    decide,
)

STEPS = (Step(0.01, seconds=60, samples=100), Step(0.05, seconds=60, samples=200, labels=50), Step(0.25, seconds=120))
CANARY = Plan("canary", STEPS)


@dataclass
class Gate:
    """What `decide` reads of a `GateVerdict`."""

    verdict: str
    text: str = ""
    gate: str = "quality"


WORSE = Gate("roll_back", "errors rose from 1 % to 9 %", "errors")
BETTER = Gate("promote", "0.95 accurate, the champion 0.90")
QUIET = Gate("continue")


def rollout(**changes: Any) -> Rollout:
    fields: dict[str, Any] = {
        "model": "m",
        "id": 3,
        "plan": CANARY,
        "champion": 1,
        "challenger": 2,
        "state": "running",
        "step": 0,
        "started_at": 1000.0,
        "step_at": 1000.0,
    }
    return Rollout(**(fields | changes))


def decided(run: Rollout, seen: Seen | None = None, *gates: Gate, now: float = 1060.0) -> Any:
    return decide(run, seen or Seen(), gates, now)  # type: ignore[arg-type]


ENOUGH = Seen(samples=1000, labels=1000)


class TestSteps:
    def test_a_step_asks_for_its_time_and_its_requests(self) -> None:
        early = decided(rollout(), Seen(samples=99), QUIET, now=1030.0)
        assert (early.action, early.verdict) == (None, "continue")
        assert early.reason == "step 1 of 3 (1 %): 99 of 100 requests and 30 s of 1 min"
        assert decided(rollout(), Seen(samples=99), now=1060.0).action is None
        assert decided(rollout(), Seen(samples=100), now=1059.0).action is None
        through = decided(rollout(), Seen(samples=100), now=1060.0)
        assert (through.action, through.verdict, through.cause) == ("advance", "continue", "step")
        assert through.reason == "step 1 of 3 (1 %) is through: 100 requests in 1 min, and no gate found it worse"

    def test_a_step_asks_for_labels_where_the_plan_wants_them(self) -> None:
        run = rollout(step=1)
        assert decided(run, Seen(samples=500, labels=49)).reason == "step 2 of 3 (5 %): 49 of 50 labels"
        assert decided(run, Seen(samples=500, labels=50)).action == "advance"

    def test_nothing_moves_on_before_the_challenger_is_open(self) -> None:
        waiting = decided(rollout(), Seen(samples=1000, open=False))
        assert waiting.action is None
        assert "not open everywhere" in waiting.reason

    def test_a_canary_ends_promoted(self) -> None:
        last = decided(rollout(step=2, step_at=1000.0), Seen(), QUIET, now=1120.0)
        assert (last.action, last.verdict, last.cause) == ("promote", "promote", "end")

    @pytest.mark.parametrize(
        ("at_end", "gates", "action", "verdict"),
        [
            ("hold", [QUIET], "finish", "inconclusive"),
            ("roll_back", [QUIET], "roll_back", "roll_back"),
            ("hold", [BETTER], "promote", "promote"),
            ("roll_back", [BETTER], "promote", "promote"),
            ("hold", [BETTER, WORSE], "roll_back", "roll_back"),
        ],
    )
    def test_a_fixed_split_ends_with_the_verdict(
        self, at_end: Any, gates: list[Gate], action: str, verdict: str
    ) -> None:
        plan = Plan("ab", (Step(0.5, seconds=10),), at_end=at_end, promote_early=False)
        end = decided(rollout(plan=plan), ENOUGH, *gates)
        assert (end.action, end.verdict) == (action, verdict)

    def test_what_is_better_is_promoted_early_only_where_the_plan_says_so(self) -> None:
        assert decided(rollout(), ENOUGH, BETTER).action == "promote"
        patient = rollout(plan=msgspec.structs.replace(CANARY, promote_early=False))
        assert decided(patient, ENOUGH, BETTER).action == "advance"

    def test_what_is_better_still_has_to_get_through_its_step(self) -> None:
        assert decided(rollout(), ENOUGH, BETTER, now=1059.0).action is None
        assert decided(rollout(), Seen(samples=99), BETTER).action is None

    def test_without_an_end_it_is_inconclusive(self) -> None:
        plan = msgspec.structs.replace(CANARY, max_seconds=600.0)
        assert decided(rollout(plan=plan), now=1599.0).action is None
        end = decided(rollout(plan=plan), Seen(samples=3), now=1600.0)
        assert (end.action, end.verdict) == ("finish", "inconclusive")
        assert end.reason == "no end after 10 min: still in step 1 of 3 (1 %): 3 of 100 requests"
        assert decided(rollout(plan=plan, paused_seconds=60.0), now=1600.0).action is None
        assert decided(rollout(), now=1000.0 + 7 * 86_400).action == "finish"


class TestHarm:
    def test_a_gate_that_found_it_worse_decides_at_once(self) -> None:
        end = decided(rollout(), Seen(), QUIET, WORSE, now=1001.0)
        assert (end.action, end.verdict, end.reason) == ("roll_back", "roll_back", "errors rose from 1 % to 9 %")

    @pytest.mark.parametrize("how", ["not_finite", "shape", "timeout", "crash"])
    def test_guards_act_at_the_first(self, how: str) -> None:
        end = decided(rollout(), Seen(decisive={how: 1}), now=1001.0)
        assert (end.action, end.cause) == ("roll_back", "guard")
        assert "1 " in end.reason
        assert "version 2" in end.reason
        assert "version 1 could answer" in end.reason

    def test_a_guard_may_allow_some(self) -> None:
        lenient = rollout(plan=Plan("canary", STEPS, Gates(failures=3)))
        assert decided(lenient, Seen(decisive={"timeout": 1, "crash": 1})).action is None
        end = decided(lenient, Seen(decisive={"timeout": 2, "crash": 1}))
        assert end.action == "roll_back"
        assert end.reason == "1 crash and 2 timeouts of version 2 where version 1 could answer: 3 are too many"

    def test_exceptions_are_for_the_statistics(self) -> None:
        assert decided(rollout(), Seen(decisive={"raised": 50}), now=1001.0).action is None

    def test_what_cannot_be_opened_goes_back(self) -> None:
        end = decided(rollout(), Seen(open=False, open_failure="ArtifactCorrupt"), now=1001.0)
        assert (end.action, end.cause) == ("roll_back", "open")

    def test_a_broken_split_proves_nothing(self) -> None:
        end = decided(rollout(), Seen(samples=1000, broken_ratio="30 of 1000 where 10 were due"), WORSE)
        assert (end.action, end.verdict, end.cause) == ("finish", "inconclusive", "sample_ratio")

    def test_paused_only_guards_act(self) -> None:
        paused = rollout(state="paused", paused_at=1010.0)
        assert decided(paused, Seen(samples=1000, broken_ratio="broken"), WORSE, BETTER, now=9e9).action is None
        assert decided(paused, Seen(decisive={"crash": 1})).action == "roll_back"
        assert decided(paused, Seen(open_failure="gone")).action == "roll_back"

    @pytest.mark.parametrize("state", ENDED)
    def test_what_has_ended_stays(self, state: State) -> None:
        done = rollout(state=state, ended_at=1010.0)
        assert decided(done, Seen(decisive={"crash": 9}), WORSE).action is None


class TestTable:
    @pytest.mark.parametrize(("state", "action"), list(itertools.product(get_args(State), get_args(Action))))
    def test_what_the_table_does_not_know_is_a_conflict_in_words(self, state: State, action: Action) -> None:
        run = rollout(
            state=state,
            paused_at=1010.0 if state == "paused" else None,
            ended_at=1010.0 if state in ENDED else None,
            reason="because",
        )
        if (state, action) in TRANSITIONS:
            made = after(run, action, 1020.0, "why")
            assert made.state == TRANSITIONS[state, action]
            assert (made.revision, made.reason) == (run.revision + 1, "why")
            assert (made.ended_at is None) == made.active
        else:
            with pytest.raises(Conflict, match=r"rollout 3 of 'm' .*cannot be") as refused:
                after(run, action, 1020.0)
            assert ("because" in refused.value.message) == (state in ENDED)

    def test_beyond_the_last_step_there_is_none(self) -> None:
        with pytest.raises(Conflict, match="last step"):
            after(rollout(step=2), "advance", 1020.0)

    def test_pausing_moves_the_step(self) -> None:
        paused = after(rollout(), "pause", 1030.0, "lunch")
        assert (paused.step_at, paused.paused_at) == (1000.0, 1030.0)
        resumed = after(paused, "resume", 4630.0)
        assert (resumed.step_at, resumed.paused_at, resumed.paused_seconds) == (4600.0, None, 3600.0)
        assert decided(resumed, Seen(samples=100), now=4659.0).action is None
        assert decided(resumed, Seen(samples=100), now=4660.0).action == "advance"

    @given(st.lists(st.sampled_from(get_args(Action)), max_size=12))
    def test_any_sequence(self, actions: list[Action]) -> None:
        run, now = rollout(), 1000.0
        for action in actions:
            before, now = run, now + 7.0
            try:
                run = after(run, action, now)
            except Conflict:
                continue
            assert before.active
            assert run.revision == before.revision + 1
            assert 0 <= run.step < len(run.plan.steps)
            assert run.step >= before.step
            assert (run.paused_at is not None) == (run.state == "paused")
            assert (run.ended_at is not None) == (run.state in ENDED)
            assert run.share == (run.plan.steps[run.step].share if run.active else 0.0)
