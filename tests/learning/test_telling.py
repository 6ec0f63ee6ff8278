"""Events of live quality: once known, and at a rollout's end."""

from __future__ import annotations

from typing import Any

import pytest

from everloop.learning.quality import KNOWN
from everloop.policy.rollout import Plan, Step
from everloop.registry.rollouts import Rollouts

from .conftest import Room


@pytest.mark.parametrize(
    ("action", "words"), [("promote", "promoted"), ("roll_back", "rolled back"), ("finish", "ended")]
)
def test_a_verdict_comes_with_what_labels_say_of_both(room: Room, lines: Any, action: str, words: str) -> None:
    room.register("m", "linear", learning={"auto_swap": False, "interval_sec": 1e6})
    room.feed("m", *lines(60, 1.0))
    room.settle(4)
    first = room.registry.live("m")
    assert first is not None
    payload = room.registry.payload(first)
    second = room.registry.add_version("m", first.manifest, payload, live=False).version
    rollouts = Rollouts(room.registry)
    rollouts.start("m", second, Plan("canary", (Step(0.5),)), by="test")
    room.settle()
    X, y = lines(KNOWN + 10, 1.0, seed=2)
    room.label("m", room.predict("m", X.tolist()), y)
    room.label("m", room.predict("m", X[:20].tolist(), second), y[:20])
    room.settle()
    assert [event.version for event in room.told("quality")] == [1]
    rollouts.act("m", action, reason="the test says so")  # type: ignore[arg-type]
    room.settle()
    told = room.told("quality")[1:]
    assert [event.version for event in told] == [second]
    assert words in told[0].message
    assert (told[0].data["challenger"]["n"], told[0].data["champion"]["n"]) == (20, KNOWN + 10)
    room.registry.set_alias("m", "best", 1)
    room.settle()
    assert len(room.told("quality")) == 2, "once"


def test_a_verdict_without_labels_has_no_figures(room: Room, lines: Any) -> None:
    room.register("m", "linear", learning={"auto_swap": False, "interval_sec": 1e6})
    room.feed("m", *lines(60, 1.0))
    room.settle(4)
    first = room.registry.live("m")
    assert first is not None
    second = room.registry.add_version("m", first.manifest, room.registry.payload(first), live=False).version
    Rollouts(room.registry).start("m", second, Plan("canary", (Step(0.5),)), by="test")
    room.settle()
    Rollouts(room.registry).promote("m")
    room.settle()
    assert room.told("quality") == []
