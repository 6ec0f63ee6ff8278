"""A faster form of the champion takes its place: the learner's books go on as if nothing had happened."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from everloop.core.errors import Conflict
from everloop.learning.going_out import next_plan, ran_dry
from everloop.optimization.succession import Way, succeed
from everloop.policy.rollout import Rollout
from everloop.registry.plans import plan_of
from everloop.stores.ports import VersionRecord


def take_over(room: Any, name: str, *, way: Way = Way(live=True)) -> VersionRecord:
    """As the optimiser does, with the very same arithmetic under a new number."""
    live = room.registry.live(name)
    made: VersionRecord = succeed(
        room.registry,
        room.registry.get(name),
        live,
        msgspec.structs.replace(live.manifest, lineage={}),
        room.registry.payload(live),
        source={},
        way=way,
        note="a faster form",
        told={},
    )
    return made


def test_drift_goes_on_being_watched_and_is_noticed_as_soon(room: Any, lines: Any) -> None:
    room.register("m", "linear", learning={"interval_sec": 10_000})
    room.feed("m", *lines(300, 1.0, seed=1))
    room.settle(4)
    before = room.loop.status("m").drift
    made = take_over(room, "m")
    room.settle(2)
    after = room.loop.status("m").drift
    assert after["version"] == made.version
    assert after["examples"] == before["examples"] > 0, "what was seen of the one holds for the other"
    room.feed("m", *lines(60, -1.0, seed=2))
    room.settle(4)
    (alarm,) = room.told("drift")
    assert alarm.version == made.version
    assert alarm.data["since"] == pytest.approx(60, abs=3)
    assert room.answer("m", [10.0]) == pytest.approx(-10, abs=0.5)


def test_the_next_fit_is_judged_on_what_the_original_has_not_seen(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(300, 1.0, seed=1))
    room.settle(4)
    original = room.registry.live("m").manifest.lineage
    made = take_over(room, "m")
    assert made.manifest.lineage["last_id"] == original["last_id"]
    room.settle(20)
    assert room.live("m") == made.version, "nothing new has come: nothing is fitted"
    room.feed("m", *lines(300, 1.5, seed=2))
    room.settle(20)
    newest = room.registry.live("m")
    assert newest.version > made.version
    assert newest.manifest.lineage["parent"] >= made.version
    assert "variant_of" not in newest.manifest.lineage


def test_back_to_the_original_is_no_new_world_either(room: Any, lines: Any) -> None:
    room.register("m", "linear", learning={"interval_sec": 10_000})
    room.feed("m", *lines(300, 1.0, seed=1))
    room.settle(4)
    take_over(room, "m")
    room.settle(2)
    before = room.loop.status("m").drift["examples"]
    room.registry.rollback("m")
    room.settle(2)
    assert room.loop.status("m").drift["examples"] == before


def test_after_a_restart_the_form_is_known_as_one(room: Any, lines: Any) -> None:
    room.register("m", "linear", learning={"interval_sec": 10_000})
    room.feed("m", *lines(300, 1.0, seed=1))
    room.settle(4)
    before = room.loop.status("m").drift["examples"]
    room.loop.close()
    take_over(room, "m")
    later = room.again()
    later.settle(2)
    assert later.loop.status("m").drift["examples"] == before
    later.loop.close()


def test_the_duel_of_an_incremental_learner_goes_on(room: Any, lines: Any) -> None:
    from river import linear_model, preprocessing

    room.register(
        "m", preprocessing.StandardScaler() | linear_model.LinearRegression(), learning={"interval_sec": 10_000}
    )
    room.feed("m", *lines(200, 1.0, seed=1))
    room.settle(4)
    room.feed("m", *lines(40, 1.0, seed=2))
    room.settle(2)
    memory = room.loop._seats["m"].trainer.memory
    before = len(memory.apprentice.duel()[0])
    take_over(room, "m")
    room.settle(2)
    assert len(memory.apprentice.duel()[0]) == before > 0


def test_a_fit_in_flight_is_still_of_use(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(300, 1.0, seed=1))
    room.settle(4)
    room.feed("m", *lines(300, 1.5, seed=2))
    seat = room.loop._seats["m"]
    room.clock.advance(5.0)
    for _ in range(50):  # taken in slices, until the fit has been started, which ends at once but is not collected yet
        room.loop.wake()
        room.loop.step()
        if seat.busy:
            break
    assert seat.busy
    made = take_over(room, "m")
    room.settle(1)
    assert len(room.told("fit_started")) == len(room.told("fitted"))
    assert room.live("m") > made.version


def test_it_goes_out_as_the_model_says_and_not_while_another_one_does(room: Any, lines: Any) -> None:
    room.register("m", "linear", rollout={"strategy": "canary", "steps": "10,50"})
    room.feed("m", *lines(300, 1.0, seed=1))
    room.settle(4)
    record = room.registry.get("m")
    plan = next_plan(room.journal, room.clock, record, "auto", recovering=False)
    assert plan is not None
    assert [step.share for step in plan.steps][:2] == [0.1, 0.5]
    made = take_over(room, "m", way=Way(plan=plan))
    assert (made.status, room.live("m")) == ("staging", 1)
    with pytest.raises(Conflict, match="being rolled out"):
        take_over(room, "m", way=Way(plan=plan))
    room.settle(2)
    assert room.live("m") == 1


def test_a_form_that_nobody_asks_any_more_goes_live(room: Any) -> None:
    out = Rollout("m", 1, plan_of("canary"), 1, 2, "inconclusive", 0, 0.0, 0.0, by="optimizer", cause="time")
    assert ran_dry(out)
    assert not ran_dry(msgspec.structs.replace(out, by="http"))
