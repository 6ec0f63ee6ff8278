"""The reconciler with several versions: what is opened, in which order, what a failing challenger leaves alone, what is counted."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from typing import Any

import msgspec
import pytest

from everloop.core.errors import ArtifactCorrupt, Conflict, ModelFailed, StoreUnavailable, VersionNotFound
from everloop.registry.deployment import desired
from everloop.registry.rollouts import Rollouts, plan_of
from everloop.serving import evidences
from everloop.serving.evidences import DEATHS, Evidences
from everloop.serving.reconciler import Reconciler
from everloop.stores.ports import Report


def open_versions(kit: Any, name: str = "m") -> set[int]:
    return set(kit.table.current.versions(name))


def start(kit: Any, version: int = 2, strategy: str = "canary", **options: Any) -> Rollouts:
    rollouts = Rollouts(kit.registry)
    rollouts.start("m", version, plan_of(strategy, **options), by="test")
    return rollouts


@pytest.fixture
def two(kit: Any) -> Any:
    """Version 1 is live, version 2 waits."""
    kit.publish("m", [1.0])
    kit.publish("m", [2.0], live=False)
    kit.reconciler.step()
    return kit


def corrupt(kit: Any, monkeypatch: pytest.MonkeyPatch, version: int, error: Exception | None = None) -> list[int]:
    opened, attempts = kit.registry.open_session, []

    def open_session(record: Any) -> Any:
        if record.version == version:
            attempts.append(version)
            raise error or ArtifactCorrupt("the bytes are damaged")
        return opened(record)

    monkeypatch.setattr(kit.registry, "open_session", open_session)
    return attempts


def test_what_is_desired_of_a_model(two: Any) -> None:
    alone = desired(two.registry)["m"]
    assert (alone.champion.version, alone.others, alone.allocation, alone.challenger) == (1, (), None, None)
    start(two, steps=[0.25, 0.5], seconds=60)
    found = desired(two.registry)["m"]
    assert (found.champion.version, [v.version for v in found.others], found.challenger) == (1, [2], 2)
    assert found.allocation is not None
    assert found.allocation.weights() == {1: 0.75, 2: 0.25}


def test_a_rollout_opens_its_challenger_and_its_end_closes_it(two: Any) -> None:
    rollouts = start(two, steps=[0.25, 0.5], seconds=60)
    champion = two.table.current.lanes["m"]
    assert two.reconciler.step()
    assert two.table.current.lanes["m"] is champion
    assert two.table.current.splits["m"].weights == {1: 0.75, 2: 0.25}
    lane = two.table.current.splits["m"].by_version[2]
    rollouts.advance("m")
    two.reconciler.step()
    assert two.table.current.splits["m"].weights == {1: 0.5, 2: 0.5}
    assert two.table.current.splits["m"].by_version[2] is lane, "new weights open nothing"
    rollouts.roll_back("m")
    two.reconciler.step()
    assert open_versions(two) == {1}
    assert lane.closed
    assert two.table.current.answers["m"] is champion.answer, "a model without a split pays nothing for it"


def test_nothing_is_published_that_did_not_change(two: Any) -> None:
    start(two, steps=[0.25], seconds=60)
    assert two.reconciler.step()
    table = two.table.current
    for _ in range(3):
        assert not two.reconciler.step()
    assert two.table.current is table


def test_a_promoted_challenger_goes_on_in_its_lane(two: Any) -> None:
    rollouts = start(two, steps=[0.25], seconds=60)
    two.reconciler.step()
    old, lane = two.table.current.lanes["m"], two.table.current.splits["m"].by_version[2]
    rollouts.promote("m")
    two.reconciler.step()
    assert two.table.current.lanes["m"] is lane
    assert lane.runner.guard is None
    assert open_versions(two) == {2}
    assert old.closed
    (*_, event) = (e for e in two.events if e.kind == "swapped")
    assert event.data["from"] == 1
    assert "it was open already" in event.message


def test_blue_and_green_are_open_before_and_after_the_switch(two: Any) -> None:
    rollouts = start(two, strategy="blue_green", seconds=60)
    two.reconciler.step()
    blue, green = two.table.current.lanes["m"], two.table.current.splits["m"].by_version[2]
    assert two.table.current.splits["m"].weights == {1: 1.0}
    rollouts.advance("m")
    two.reconciler.step()
    split = two.table.current.splits["m"]
    assert split.weights == {2: 1.0}
    assert split.champion is blue
    assert not blue.retired
    rollouts.promote("m")
    two.reconciler.step()
    assert two.table.current.lanes["m"] is green
    assert open_versions(two) == {2}


def test_the_lanes_of_a_split_are_freed_without_the_garbage_collector(two: Any) -> None:
    rollouts = start(two, steps=[0.5], seconds=60)
    two.reconciler.step()
    gc.disable()
    try:
        lanes = [weakref.ref(lane.runner) for lane in two.table.current.all_lanes]
        for i in range(50):
            two.predictor.predict("m", [1.0], str(i))
        rollouts.promote("m")
        two.reconciler.step()
        assert lanes[0]() is None
        two.registry.unregister("m")
        two.reconciler.step()
        assert lanes[1]() is None
    finally:
        gc.enable()


def test_a_challenger_that_cannot_be_opened_disturbs_nobody(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = corrupt(two, monkeypatch, 2)
    rollouts = start(two, steps=[0.9], seconds=60)
    for _ in range(4):
        two.reconciler.step()
    assert attempts == [2], "not again before its pause is over"
    assert {two.predictor.predict("m", [1.0], str(i)).model_version for i in range(100)} == {1}
    assert two.reconciler.failures == {}, "the champion is well"
    assert two.reconciler.challenger_failures["m", 2].attempts == 1
    assert not two.reconciler.wait_open("m", 2, timeout=60), "known to fail: does not wait"
    (event,) = (e for e in two.events if e.kind == "open_failed")
    assert event.version == 2
    assert "version 1 answers in its place" in event.message
    seen = two.seen()
    assert "damaged" in seen.failure
    assert not seen.open
    assert seen.champion.requests == 0, "half a split is no evidence"
    with pytest.raises(ArtifactCorrupt, match="version 2 of model 'm' cannot be opened"):
        two.predictor.lane_of("m", 2)
    two.clock.advance(400)
    monkeypatch.undo()
    two.reconciler.step()
    assert open_versions(two) == {1, 2}
    assert two.reconciler.challenger_failures == {}
    assert two.seen().open
    assert two.seen().failure == ""
    rollouts.roll_back("m")
    two.reconciler.step()
    assert two.reconciler.evidences.active() == []


def test_a_champion_that_cannot_be_opened_leaves_the_old_one_and_the_challenger(
    two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.registry.set_traffic("m", {1: 0.5, 2: 0.5})
    two.reconciler.step()
    corrupt(two, monkeypatch, 3)
    two.publish("m", [3.0])
    two.reconciler.step()
    assert two.table.current.lanes["m"].version == 1
    assert two.reconciler.failures["m"].version == 3
    assert two.reconciler.challenger_failures == {}


def test_versions_that_are_asked_for_by_number(two: Any) -> None:
    with pytest.raises(Conflict, match="version 2 of model 'm' is not live"):
        two.predictor.lane_of("m", 2)
    with pytest.raises(VersionNotFound):
        two.predictor.lane_of("m", 9)
    two.registry.set_traffic("m", {1: 0.5, 2: 0.5})
    with pytest.raises(StoreUnavailable, match="being opened"):
        two.predictor.lane_of("m", 2)
    two.reconciler.step()
    assert two.predictor.lane_of("m", 2).version == 2
    assert two.predictor.lane_of("m", 1) is two.predictor.lane("m")


def test_a_trial_comes_before_a_challenger_and_never_before_a_champion(kit: Any) -> None:
    tried: list[int] = []
    let, over = threading.Event(), threading.Semaphore(0)

    class Crashes:
        def __call__(self, record: Any, rows: Any) -> None:
            assert let.wait(60)
            tried.append(record.version)
            if record.version == 3:
                error = ModelFailed("it crashed")
                error.how = "crash"
                raise error

        def end(self) -> None:
            let.set()

    reconciler = Reconciler(kit.registry, kit.table, kit.recorder, kit.bus, kit.clock, trial=Crashes())
    assert reconciler._trials is not None
    reconciler._trials._on_done = over.release
    for version in (1, 2, 3):
        kit.publish("m", [float(version)], live=version == 1)
    # As if they were of a runtime that somebody else wrote.
    version_of = kit.registry.version
    kit.registry.version = lambda name, number: msgspec.structs.replace(
        version_of(name, number), manifest=msgspec.structs.replace(version_of(name, number).manifest, runtime="onnx")
    )
    opened = kit.registry.open_session
    kit.registry.open_session = lambda record: opened(version_of(record.model, record.version))
    reconciler.step()
    assert tried == []
    kit.registry.set_traffic("m", {1: 0.5, 2: 0.25, 3: 0.25})
    reconciler.step()
    assert open_versions(kit) == {1}, "the champion answers meanwhile"
    let.set()
    assert over.acquire(timeout=60)
    assert over.acquire(timeout=60)
    reconciler.step()
    assert tried == [2, 3]
    assert open_versions(kit) == {1, 2}
    kit.clock.advance(10_000)
    reconciler.step()
    assert tried == [2, 3], "what crashed once is not tried again"
    reconciler.stop()


def test_evidence_is_counted_by_step_and_outlives_the_splits(two: Any) -> None:
    rollouts = start(two, steps=[0.5, 0.9], seconds=60)
    two.reconciler.step()
    for _ in range(300):
        two.predictor.predict("m", [1.0])
    first = two.seen()
    rollouts.advance("m")
    two.reconciler.step()
    for i in range(200):
        two.predictor.predict("m", [1.0], f"user-{i % 20}")
    seen = two.seen()
    assert seen.champion.settled[0] + seen.challenger.settled[0] == 300
    assert seen.champion.settled[0] == first.champion.settled[0]
    assert seen.champion.settled.get(1, 0) + seen.challenger.settled[1] == 200
    assert seen.champion.units.get(1, 0) + seen.challenger.units[1] == 20
    assert seen.challenger.draws(1) == seen.challenger.units[1]
    assert seen.champion.requests + seen.challenger.requests == 500
    assert sum(seen.champion.latencies.values()) + sum(seen.challenger.latencies.values()) == 500


def test_processes_that_died_with_a_challenger_open_keep_the_next_from_opening_it(
    two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = start(two, steps=[0.5], seconds=60)
    rollout = rollouts.get("m")
    assert rollout is not None
    gone: set[str] = set()
    monkeypatch.setattr(evidences, "_dead", gone.__contains__)
    for life in range(DEATHS):
        assert not Evidences(two.registry.catalog, two.clock).deaths(rollout)
        dying = Evidences(two.registry.catalog, two.clock)
        dying.source = f"host/1/{life}"
        evidence = dying.open(rollout)
        dying.report(evidence)
        gone.add(dying.source)
        assert not dying.deaths(rollout), "killed before it was open: none of its doing"
        evidence.open = True
        dying.report(evidence)
    well = Evidences(two.registry.catalog, two.clock)
    well.source = "well"
    well.open(rollout)
    well.close()
    gone.add(well.source)
    two.reconciler.step()
    assert open_versions(two) == {1}
    failure = two.reconciler.challenger_failures["m", 2]
    assert failure.error.how == "crash"
    assert f"{DEATHS} processes died" in two.seen().failure


def test_reports_of_this_process_begin_before_and_end_after_the_challenger(two: Any) -> None:
    rollouts = start(two, steps=[0.5], seconds=60)
    rollout = rollouts.get("m")
    assert rollout is not None
    two.reconciler.step()
    (report,) = two.registry.catalog.reports("m", rollout.id)
    assert report.source == two.reconciler.evidences.source
    assert not msgspec.msgpack.decode(report.payload)["observed"]["ended"]
    two.reconciler.stop()
    (report,) = two.registry.catalog.reports("m", rollout.id)
    assert msgspec.msgpack.decode(report.payload)["observed"]["ended"]


def test_who_is_dead_is_told_by_the_machine_it_ran_on(kit: Any) -> None:
    own = kit.reconciler.evidences.source
    host, pid, began, rest = own.split("/")
    assert pid == str(os.getpid())
    assert not evidences._dead(own)
    assert evidences._dead(f"{host}/{pid}/{int(began) - 1}/{rest}"), "another process had the number"
    assert evidences._dead(f"{host}/4194999/1/{rest}")
    assert not evidences._dead(f"elsewhere/{pid}/1/{rest}")
    assert not evidences._dead("somebody")
    assert isinstance(Report(own, 0.0, b""), Report)
