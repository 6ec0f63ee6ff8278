"""How what the loop has learned goes out: at once or by a rollout, what waits meanwhile, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.learning.config import LearningConfig, effective
from everloop.learning.going_out import plan_for, traffic
from everloop.policy.rollout import Rollout
from everloop.registry.plans import Policy, plan_of
from everloop.registry.rollouts import Rollouts

from .conftest import Room

Lines = Callable[..., tuple[np.ndarray, np.ndarray]]
AUTO = Policy("auto")


def shares(rate: float, **more: Any) -> list[float] | None:
    plan = plan_for(AUTO, rate, **({"recovering": False} | more))
    return None if plan is None else [step.share for step in plan.steps]


class TestPlan:
    def test_by_traffic(self) -> None:
        assert shares(0.0) is None
        assert shares(1.9) is None
        assert shares(2.0) == [0.1, 0.5]
        assert shares(20.0) == [0.1, 0.5]
        assert shares(21.0) == [0.01, 0.05, 0.25]

    def test_a_recovery_is_quick(self) -> None:
        assert shares(1.0, recovering=True) is None
        assert shares(2.0, recovering=True) == [0.5]
        plan = plan_for(AUTO, 100.0, recovering=True)
        assert plan is not None
        assert (plan.steps[0].seconds, plan.steps[0].samples, plan.promote_early) == (2.0, 50, True)

    def test_what_is_asked_for_is_done(self) -> None:
        assert plan_for(Policy("immediate"), 1000.0, recovering=False) is None
        assert plan_for(Policy("shadow"), 0.0, recovering=True) == plan_of("shadow")
        strict = plan_for(Policy("auto", {"gates": {"level": 0.01}}), 100.0, recovering=False)
        assert strict is not None
        assert strict.gates.level == 0.01

    @given(st.floats(0, 1e6), st.booleans())
    def test_every_plan_can_be_carried_out_in_its_time(self, rate: float, recovering: bool) -> None:
        plan = plan_for(AUTO, rate, recovering=recovering)
        if plan is not None:
            assert plan.max_seconds is not None
            assert sum(max(step.seconds, step.samples / step.share / rate) for step in plan.steps) <= plan.max_seconds

    def test_the_option(self) -> None:
        for name in ("auto", "immediate", "canary", "shadow", "ab", "blue_green"):
            effective(LearningConfig(), {"rollout": name})
        with pytest.raises(InvalidInput, match="expected one of auto"):
            LearningConfig(rollout="later").validate()


class Out:
    """A room whose models go out as `policy` says, with a first version live."""

    def __init__(self, room: Room, lines: Lines, policy: str) -> None:
        self.room, self.lines = room, lines
        room.config.rollout = policy  # type: ignore[assignment]
        room.config.rule = "fresh"
        self.rollouts = Rollouts(room.registry)
        room.register("m", "linear")
        self.feed(1.0)
        assert room.live("m") == 1
        self.seed = 1

    def feed(self, slope: float, count: int = 40, seed: int = 0) -> None:
        self.room.feed("m", *self.lines(count, slope, seed))
        self.room.settle(4)

    def more(self, slope: float = 1.0, count: int = 40) -> None:
        self.seed += 1
        self.feed(slope, count, self.seed)

    @property
    def rollout(self) -> Rollout:
        found = self.rollouts.get("m")
        assert found is not None
        return found

    @property
    def versions(self) -> list[int]:
        return [record.version for record in self.room.registry.versions("m")]

    @property
    def verdict(self) -> str:
        told: str = self.room.loop.status("m").last_verdict
        return told


@pytest.fixture
def out(room: Room, lines: Lines) -> Out:
    return Out(room, lines, "canary")


class TestGoingOut:
    def test_the_first_version_goes_live_and_the_next_goes_out(self, out: Out) -> None:
        assert out.rollouts.get("m") is None
        out.more()
        assert (out.rollout.challenger, out.rollout.champion, out.rollout.by) == (2, 1, "learning")
        assert out.room.live("m") == 1
        assert out.room.told("published")[-1].message.startswith("version 2 goes out")

    def test_others_wait_until_it_has_ended(self, out: Out) -> None:
        out.more()
        out.more()
        assert out.versions == [1, 2]
        out.rollouts.promote("m")
        out.room.settle(4)
        out.more()
        assert out.room.live("m") == 2
        assert out.rollout.challenger == 3

    def test_the_champion_is_adopted_with_what_was_known_of_it(self, out: Out) -> None:
        out.more()
        out.rollouts.promote("m")
        out.room.settle()
        drift = out.room.loop.status("m").drift
        assert drift["version"] == 2
        assert out.verdict == ""

    def test_what_was_rolled_back_is_remembered(self, out: Out) -> None:
        out.more()
        out.rollouts.roll_back("m", note="errors rose")
        out.room.settle()
        assert out.verdict == "version 2 was rolled back: errors rose"
        rejected = out.room.registry.version("m", 2)
        assert rejected.status == "rejected"
        assert rejected.manifest.lineage["rollout"]["state"] == "rolled_back"
        out.more()
        assert out.rollout.challenger == 3

    def test_a_fit_that_was_under_way_when_somebody_started_a_rollout_waits_too(self, out: Out) -> None:
        out.more()
        out.rollouts.finish("m")
        assert out.versions == [1, 2]
        out.room.feed("m", *out.lines(40, 1.0, 7))
        fits = len(out.room.told("fit_started"))
        for _ in range(50):  # until the fit has been started, which ends at once but is not collected yet
            out.room.clock.advance(1.0)
            out.room.loop.wake()
            out.room.loop.step()
            if len(out.room.told("fit_started")) > fits:
                break
        assert len(out.room.told("fit_started")) == fits + 1
        out.rollouts.start("m", 2, plan_of("canary"), by="anna")
        out.room.settle(4)
        assert (out.rollout.challenger, out.rollout.state, out.rollout.by) == (2, "running", "anna")
        out.rollouts.roll_back("m", note="errors rose")
        out.room.settle(4)
        assert (out.rollout.challenger, out.rollout.by) == (3, "learning"), "begun again once it has ended"

    def test_a_recovery_takes_the_place_of_what_is_out(self, out: Out) -> None:
        out.more()
        assert out.rollout.id == 1
        for _ in range(4):
            out.more(slope=-3.0, count=100)
        assert out.room.told("drift") != []
        first = out.rollouts.history("m")[0]
        assert (first.state, first.reason) == ("inconclusive", "a newer version took its place")
        assert out.rollout.id == 2, "of the same recovery one is out at a time"
        assert out.room.live("m") == 1

    def test_what_a_person_asks_for_goes_live(self, out: Out) -> None:
        out.more()
        made = out.room.loop.train_now("m")
        assert out.room.live("m") == made.version == 3
        assert out.rollout.state == "inconclusive"

    def test_traffic_that_is_split_by_hand_stays_so(self, out: Out) -> None:
        out.more()
        out.rollouts.finish("m")
        out.room.registry.set_traffic("m", {1: 0.5, 2: 0.5})
        out.room.settle()
        out.more()
        assert out.room.registry.get("m").allocation is not None
        assert out.verdict == "version 3 waits: the traffic is split by hand"

    def test_a_restart_finds_what_is_out(self, out: Out) -> None:
        out.more()
        out.room.loop.stop()
        again = out.room.again()
        again.config.rollout, again.config.rule = "canary", "fresh"
        again.feed("m", *out.lines(40, 1.0, 9))
        again.settle(4)
        assert out.versions == [1, 2], "others wait"
        out.rollouts.roll_back("m", note="errors rose")
        again.settle(1)
        assert out.rollout.challenger == 3, "and go out once it has ended"
        again.loop.close()

    def test_a_model_may_have_a_policy_of_its_own(self, room: Room, lines: Lines) -> None:
        room.register("m", "linear", rollout={"strategy": "shadow", "seconds": 5, "samples": 7})
        room.feed("m", *lines(40, 1.0))
        room.settle(4)
        room.config.rule = "fresh"
        room.feed("m", *lines(40, 1.0, 2))
        room.settle(4)
        found = Rollouts(room.registry).get("m")
        assert found is not None
        assert found.plan == plan_of("shadow", seconds=5, samples=7)


class TestAuto:
    def ask(self, room: Room, many: int) -> None:
        for _ in range(60):
            room.predict("m", [[1.0]] * (many // 60))
            room.clock.advance(1.0)

    def test_without_traffic_at_once(self, room: Room, lines: Lines) -> None:
        out = Out(room, lines, "auto")
        out.more()
        assert room.live("m") == 2
        assert out.rollouts.get("m") is None

    def test_with_traffic_by_a_canary(self, room: Room, lines: Lines) -> None:
        out = Out(room, lines, "auto")
        self.ask(room, 6000)
        out.more()
        assert [step.share for step in out.rollout.plan.steps] == [0.01, 0.05, 0.25]

    def test_where_traffic_stops_it_goes_live(self, room: Room, lines: Lines) -> None:
        out = Out(room, lines, "auto")
        self.ask(room, 6000)
        out.more()
        out.rollouts.act("m", "finish", reason="no end after 30 min", cause="time")
        room.settle(2)
        assert room.live("m") == 2
        assert room.told("promoted")[-1].data["by"] == "learning"

    def test_but_not_where_a_person_has_ended_it(self, room: Room, lines: Lines) -> None:
        out = Out(room, lines, "auto")
        self.ask(room, 6000)
        out.more()
        out.rollouts.finish("m", note="not now")
        room.settle(2)
        assert room.live("m") == 1
        assert out.verdict == "version 2 left: not now"

    def test_what_counts_as_traffic(self, room: Room, lines: Lines) -> None:
        Out(room, lines, "auto")
        record = room.registry.get("m")
        assert traffic(room.journal, record, room.clock) == 0.0
        self.ask(room, 600)
        assert traffic(room.journal, record, room.clock) == pytest.approx(10.0, rel=0.05)
        room.clock.advance(61)
        assert traffic(room.journal, record, room.clock) == 0.0
