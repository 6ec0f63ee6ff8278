"""A process may end at any moment: the next one goes on as if nothing had happened. No example is lost or learned twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.learning.conftest import Room, memory_room, sqlite_room

from everloop.stores.ports import Checkpoint

PHASES = [(50, 1.0), (40, 1.0), (30, 3.0), (60, 3.0), (40, 3.0)]


def kinds() -> dict[str, Any]:
    from river import compose, linear_model, preprocessing

    return {
        "linear": lambda: "linear",
        "river": lambda: compose.Pipeline(preprocessing.StandardScaler(), linear_model.LinearRegression()),
    }


def run(kind: str, crashes: set[tuple[int, int]]) -> tuple[Room, dict[str, Any]]:
    """Feed all phases; at each crash (phase, steps done in it) the process is gone, unsaved, and another takes over."""
    room = memory_room()
    learner = room.register("m", kinds()[kind]())
    room.loop.attach("m", learner)
    rng = np.random.default_rng(3)
    for phase, (count, slope) in enumerate(PHASES):
        X = rng.uniform(0, 10, (count, 1))
        room.feed("m", X, slope * X[:, 0] + rng.normal(0, 0.1, count))
        steps = 0
        while True:
            if (phase, steps) in crashes:
                room = room.again(owner="one")
                room.loop.attach("m", learner)
            room.loop.wake()
            steps += 1
            if not room.loop.step() and steps > 6:
                break
        room.clock.advance(4.0)
        room.settle()
    status = room.loop.status("m")
    figures = {
        "learned": status.examples_learned,
        "tested": status.quality["n"],
        "mae": status.quality["mae"],
        "backlog": status.backlog,
        "answer": room.answer("m", [10.0]),
        "total": room.journal.examples_total("m"),
    }
    return room, figures


@pytest.fixture(scope="module", params=["linear", "river"])
def uninterrupted(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    room, figures = run(request.param, set())
    room.close()
    assert figures["learned"] == 220
    assert figures["backlog"] == 0
    return request.param, figures


@settings(max_examples=25)
@given(crashes=st.sets(st.tuples(st.integers(0, len(PHASES) - 1), st.integers(0, 5)), min_size=1, max_size=4))
def test_crashes_change_nothing(uninterrupted: tuple[str, dict[str, Any]], crashes: set[tuple[int, int]]) -> None:
    kind, expected = uninterrupted
    room, figures = run(kind, crashes)
    room.close()
    assert figures["learned"] == expected["learned"]
    assert figures["tested"] == expected["tested"]
    assert figures["backlog"] == 0
    assert figures["mae"] == pytest.approx(expected["mae"])
    assert figures["answer"] == pytest.approx(expected["answer"], abs=1e-6)


def test_a_data_folder_carries_everything_over(tmp_path: Path, lines: Any) -> None:
    room = sqlite_room(tmp_path)
    room.register("m", "linear")
    room.feed("m", *lines(100, 1.0, seed=1))
    room.settle()
    room.feed("m", *lines(20, 1.0, seed=2))
    room.close()
    room.catalog.close()

    room = sqlite_room(tmp_path)
    assert room.live("m") == 1
    assert room.loop.backlog("m") == 0, "nobody has looked yet"
    room.settle()
    assert room.loop.status("m").examples_learned == 120
    assert room.loop.status("m").quality["n"] == 20
    room.feed("m", *lines(60, 2.0, seed=3))
    room.settle(4)
    assert room.answer("m", [10.0]) == pytest.approx(20, abs=0.5)
    room.close()
    room.catalog.close()


@pytest.mark.parametrize("state", [b"", b"\xff\x00garbage", b"\x80"])
def test_a_checkpoint_that_cannot_be_read_costs_a_replay(room: Room, lines: Any, state: bytes) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(100, 1.0, seed=1))
    room.settle(2)
    room.journal.save_checkpoint("m", Checkpoint(100, state, room.clock.now()))
    after = room.again(owner="one")
    after.feed("m", *lines(20, 1.0, seed=2))
    after.settle(2)
    (event,) = after.told("learner_failed")
    assert "learning anew from the retained examples" in event.message
    status = after.loop.status("m")
    assert status.examples_learned == 120
    assert status.quality["n"] == 20, "what the champion was trained on is no test of it"
    assert status.backlog == 0
    assert after.live("m") == 1
    after.loop.close()


def test_a_checkpoint_of_another_learner_costs_a_replay(room: Room, lines: Any) -> None:
    learner = room.register("m", "linear")
    room.feed("m", *lines(60, 1.0))
    room.settle(2)
    after = room.again(owner="one")
    other = learner.clone()
    other.kind = "ridge"
    after.loop.attach("m", other)
    after.settle()
    assert "'linear' learner" in after.told("learner_failed")[0].message
    assert after.loop.status("m").examples_learned == 60
    after.loop.close()


def test_a_fit_in_flight_is_started_again(room: Room, lines: Any) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0))
    room.loop.step()  # takes the examples and fits; nobody collects the result
    assert room.told("fit_started")
    assert room.live("m") is None
    room.loop.stop()
    after = room.again()
    after.settle()
    assert after.live("m") == 1
    assert after.loop.status("m").examples_learned == 60
    after.loop.close()
