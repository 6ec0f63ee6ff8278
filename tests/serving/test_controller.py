"""The controller over real stores, with counted traffic and labels that a test decides: what it does, tells, and goes on with."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from everloop.core.clock import Clock, SystemClock
from everloop.core.errors import ModelFailed, StoreUnavailable
from everloop.core.events import Event, EventBus
from everloop.core.schema import Schema, Target, pack_rows
from everloop.core.types import Label, PredictionRecord, request_id
from everloop.policy.rollout import Plan, Rollout, Step
from everloop.registry.catalog import Registry
from everloop.registry.rollouts import Rollouts, plan_of
from everloop.runtime.artifact import Trust
from everloop.serving.comparison import Shown
from everloop.serving.controller import Controller
from everloop.serving.docket import Docket
from everloop.serving.evidences import Evidences
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import MemoryArtifacts
from everloop.stores.ports import Catalog, Journal, Manifest
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.testing import ManualClock

SCHEMA = Schema.unnamed(1)
TARGET = Target.infer("classification", 0)
MANIFEST = Manifest("linear", "classification", SCHEMA, TARGET, [0, 1])
CANARY = plan_of("canary", seconds=60, samples=100)
HALF = plan_of("canary", steps=[0.5], seconds=600, samples=100)


class Process:
    """One serving process: its evidence and its controller."""

    def __init__(self, stage: Stage, owner: str) -> None:
        self.stage = stage
        self.evidences = Evidences(stage.catalog, stage.clock)
        self.controller = Controller(
            stage.registry,
            stage.journal,
            self.evidences,
            stage.clock,
            owner=owner,
            shadows=stage.shadows,
            rng=random.Random(1),
        )

    def open(self, rollout: Rollout) -> None:
        self.evidences.open(rollout).open = True

    def traffic(self, champion: int, challenger: int, *, bad: int = 0, slow: float = 1.0, how: Any = "raised") -> None:
        """So many requests, `bad` of the challenger's failing where the champion then answers."""
        rollout = self.stage.rollouts.get("m")
        assert rollout is not None
        evidence = self.evidences.of("m", rollout.id)
        assert evidence is not None
        arms = evidence.arms(rollout.step)
        for arm, count, seconds in zip(arms, (champion, challenger), (0.01, 0.01 * slow), strict=True):
            for _ in range(count):
                arm.drawn()
                arm.settled(1, seconds * self.stage.rng.uniform(0.8, 1.2))
        for _ in range(bad):
            error = ModelFailed("no")
            error.how = how
            arms[1].failed(error)
            arms[1].decisive(error)


class Stage:
    """Two versions of one model, the first live, and as many processes as a test wants."""

    def __init__(self, catalog: Catalog, journal: Journal, clock: Clock) -> None:
        self.catalog, self.journal, self.clock = catalog, journal, clock
        self.rng = random.Random(7)
        self.told: list[Event] = []
        self.bus = EventBus()
        self.bus.subscribe(self.told.append)
        self.registry = Registry(catalog, MemoryArtifacts(), journal, self.bus, clock, Trust())
        self.rollouts = Rollouts(self.registry)
        self.shadows: Any = None
        self.registry.register("m", "linear", task="classification")
        self.registry.add_version("m", MANIFEST, b"one", live=True)
        self.registry.add_version("m", MANIFEST, b"two", live=False)
        self.processes: list[Process] = []
        self.numbers = 0

    def process(self, owner: str = "a") -> Process:
        process = Process(self, owner)
        self.processes.append(process)
        return process

    def start(self, plan: Plan = CANARY) -> Process:
        rollout = self.rollouts.start("m", 2, plan, by="test")
        process = self.process()
        process.open(rollout)
        return process

    def label(self, version: int, right: Sequence[bool], *, validation: bool = False) -> None:
        """Answers of a version, and their labels."""
        first, self.numbers = self.numbers, self.numbers + len(right)
        encoding, features = pack_rows([[0.5]] * len(right), SCHEMA)
        now = self.clock.now()
        self.journal.record(
            PredictionRecord("m", version, "lane", first, len(right), 1, now, encoding, features, [1] * len(right))
        )
        labels = [
            Label("m", int(good), now, request_id=request_id("lane", first + i), validation=validation)
            for i, good in enumerate(right)
        ]
        assert all(isinstance(made, int) for made in self.journal.append_now(labels).outcomes)

    def coins(self, count: int, chance: float) -> list[bool]:
        return [self.rng.random() < chance for _ in range(count)]

    @property
    def rollout(self) -> Rollout:
        found = self.rollouts.get("m")
        assert found is not None
        return found

    def docket(self) -> Docket:
        docket = Docket.load(self.catalog.findings("m", self.rollout.id))
        assert docket is not None
        return docket

    def kinds(self) -> list[str]:
        return [event.kind for event in self.registry.timeline("m", limit=1000)]


@pytest.fixture(params=["memory", "sqlite"])
def any_stage(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Stage]:
    if request.param == "memory":
        journal = MemoryJournal(clock=clock)
        stage = Stage(MemoryCatalog(journal), journal, clock)
    else:
        path = tmp_path / "everloop.db"
        stage = Stage(SqliteCatalog(path), SqliteJournal(path, clock=clock), clock)
    yield stage
    _close(stage)


@pytest.fixture
def stage(clock: ManualClock) -> Iterator[Stage]:
    journal = MemoryJournal(clock=clock)
    stage = Stage(MemoryCatalog(journal), journal, clock)
    yield stage
    _close(stage)


def _close(stage: Stage) -> None:
    for process in stage.processes:
        process.controller.stop()
    stage.catalog.close()
    stage.journal.close()


class TestWay:
    def test_a_good_canary_goes_all_the_way(self, any_stage: Stage, clock: ManualClock) -> None:
        stage, process = any_stage, any_stage.start()
        for share in (0.01, 0.05, 0.25):
            assert stage.rollout.share == share
            process.traffic(round(150 / share) - 150, 150)
            clock.advance(30)
            assert not process.controller.step()
            clock.advance(30)
            assert process.controller.step()
        assert (stage.rollout.state, stage.registry.get("m").live_version) == ("promoted", 2)
        told = [event.message for event in stage.registry.timeline("m")][-5:]
        assert told == [
            "version 2 goes out against version 1: canary 1 % → 5 % → 25 % → 100 %",
            "version 2 now answers 5 %: step 1 of 3 (1 %) is through: 150 requests in 1 min, and no gate found it worse",
            "version 2 now answers 25 %: step 2 of 3 (5 %) is through: 150 requests in 1 min, and no gate found it worse",
            "version 2 is promoted: step 3 of 3 (25 %) is through: 150 requests in 1 min, and no gate found it worse",
            "version 2 is live instead of 1",
        ]
        assert not process.controller.step()

    def test_it_waits_until_the_challenger_is_open(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start(plan_of("blue_green"))
        evidence = process.evidences.of("m", 1)
        assert evidence is not None
        evidence.open = False
        clock.advance(100)
        assert not process.controller.step()
        evidence.open = True
        assert process.controller.step()
        assert stage.rollout.share == 1.0

    def test_nothing_happens_without_traffic_and_then_it_ends_without_a_verdict(
        self, stage: Stage, clock: ManualClock
    ) -> None:
        process = stage.start(plan_of("canary", seconds=60, max_seconds=3600))
        clock.advance(3599)
        assert not process.controller.step()
        clock.advance(1)
        assert process.controller.step()
        assert stage.rollout.state == "inconclusive"
        assert "0 of 100 requests" in stage.rollout.reason
        assert stage.registry.get("m").allocation is None

    def test_paused(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start()
        stage.rollouts.pause("m")
        process.traffic(9900, 100)
        clock.advance(1000)
        assert not process.controller.step()
        process.traffic(0, 1, bad=1, how="crash")
        assert process.controller.step()
        assert stage.rollout.state == "rolled_back"

    def test_a_look_without_rollouts_is_one_poll(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        process = stage.process()
        process.controller.step()

        def never(*_: Any) -> Any:
            raise AssertionError("asked for without need")

        for name in ("active_rollouts", "reports", "findings", "list_models"):
            monkeypatch.setattr(stage.catalog, name, never)
        monkeypatch.setattr(stage.journal, "examples", never)
        monkeypatch.setattr(stage.journal, "acquire_lease", never)
        assert not process.controller.step()


class TestHarm:
    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ("not_finite", "NaN or infinite answer"),
            ("shape", "wrong shape"),
            ("timeout", "timeout"),
            ("crash", "crash"),
        ],
    )
    def test_guards_act_at_the_first_look(self, any_stage: Stage, how: str, words: str) -> None:
        process = any_stage.start()
        process.traffic(10, 1, bad=1, how=how)
        assert process.controller.step()
        assert any_stage.rollout.state == "rolled_back"
        assert any_stage.kinds()[-2:] == ["guard", "rollout_ended"]
        assert words in any_stage.told[-1].message

    def test_a_challenger_that_hangs(self, stage: Stage) -> None:
        process = stage.start()
        process.evidences.lose("m", 2, ModelFailed("it took longer than 5 s and was given up"))
        assert process.controller.step()
        assert stage.rollout.state == "rolled_back"

    def test_a_challenger_that_cannot_be_opened(self, stage: Stage) -> None:
        process = stage.start()
        evidence = process.evidences.of("m", 1)
        assert evidence is not None
        evidence.open, evidence.failure = False, "the file is not a model"
        assert process.controller.step()
        assert "cannot be opened: the file is not a model" in stage.rollout.reason
        assert stage.registry.version("m", 2).status == "rejected"

    def test_errors(self, any_stage: Stage, clock: ManualClock) -> None:
        stage, process = any_stage, any_stage.start(HALF)
        looks = 0
        while stage.rollout.active and looks < 200:
            process.traffic(10, 10, bad=3)
            clock.advance(1)
            process.controller.step()
            looks += 1
        assert stage.rollout.state == "rolled_back"
        assert stage.rollout.reason.startswith("errors: version 2 fails ")
        ended = [event for event in stage.told if event.kind == "rollout_ended"][-1]
        assert ended.data["cause"] == "gate"
        assert [gate["gate"] for gate in ended.data["gates"]] == ["errors", "latency", "quality"]
        assert ended.data["samples"] == 10 * looks

    def test_latency(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start(HALF)
        for _ in range(200):
            process.traffic(20, 20, slow=3.0)
            clock.advance(1)
            if process.controller.step():
                break
        assert stage.rollout.state == "rolled_back"
        assert stage.rollout.reason.startswith("latency")

    def test_a_broken_split(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start(HALF)
        process.traffic(100, 900)
        clock.advance(1)
        assert process.controller.step()
        assert stage.rollout.state == "inconclusive"
        assert stage.kinds()[-2:] == ["sample_ratio", "rollout_ended"]


class TestLabels:
    def test_wrong_answers_by_labels_that_come_late(self, any_stage: Stage, clock: ManualClock) -> None:
        stage, process = any_stage, any_stage.start(HALF)
        process.traffic(500, 500)
        process.controller.step()
        for _ in range(100):
            clock.advance(5)
            stage.label(1, stage.coins(20, 0.9))
            stage.label(2, stage.coins(20, 0.5))
            if process.controller.step():
                break
        assert stage.rollout.state == "rolled_back"
        assert stage.rollout.reason.startswith("quality")

    def test_what_is_better_is_promoted_early(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start(plan_of("canary", steps=[0.5, 0.7], seconds=30, samples=100))
        process.controller.step()
        for _ in range(20):
            process.traffic(10, 10)
            stage.label(1, stage.coins(20, 0.5))
            stage.label(2, stage.coins(20, 0.95))
            clock.advance(1)
            assert not process.controller.step()
        clock.advance(10)
        assert process.controller.step()
        assert (stage.rollout.state, stage.rollout.step) == ("promoted", 0)
        assert stage.rollout.reason.startswith("quality")

    def test_which_labels_count(self, stage: Stage, clock: ManualClock) -> None:
        stage.label(1, [True] * 5)  # from before
        process = stage.start(HALF)
        process.controller.step()
        stage.label(1, [True] * 30)
        stage.label(2, [False] * 4, validation=True)
        stage.journal.append_now([Label("m", 1, clock.now(), row=[0.1])])
        clock.advance(2)
        process.controller.step()
        docket = stage.docket()
        assert docket.labels == {}
        assert docket.held == [0.0] * 30
        stage.label(2, [False, True, True])
        clock.advance(2)
        process.controller.step()
        docket = stage.docket()
        assert docket.labels == {0: 3}
        assert docket.gates.quality is not None
        assert (docket.gates.quality.champion.n, docket.gates.quality.challenger.n) == (3, 3)
        assert docket.gates.quality.challenger.mean == pytest.approx(1 / 3)

    def test_a_step_may_wait_for_them(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start(plan_of("canary", steps=[0.5], seconds=1, samples=10, labels=5))
        process.traffic(50, 50)
        clock.advance(10)
        assert not process.controller.step()
        assert stage.docket().decision is not None
        assert stage.docket().seen.labels == 0
        stage.label(2, [True] * 5)
        assert process.controller.step()
        assert stage.rollout.state == "promoted"


class TestOthers:
    def test_several_processes_add_up_and_one_decides(self, any_stage: Stage, clock: ManualClock) -> None:
        stage, first = any_stage, any_stage.start()
        second = stage.process("b")
        second.open(stage.rollout)
        for process in (first, second):
            process.traffic(5940, 60)
        clock.advance(60)
        assert [first.controller.step(), second.controller.step(), first.controller.step()] == [False, False, True]
        assert stage.rollout.step == 1

    def test_a_guard_hit_in_another_process(self, stage: Stage) -> None:
        first = stage.start()
        second = stage.process("b")
        second.open(stage.rollout)
        first.controller.step()
        second.controller.step()
        second.traffic(1, 1, bad=1, how="not_finite")
        second.controller.step()
        assert first.controller.step()
        assert stage.rollout.state == "rolled_back"

    def test_a_restart_goes_on_in_mid_step(self, any_stage: Stage, clock: ManualClock) -> None:
        stage, first = any_stage, any_stage.start(HALF)
        first.traffic(60, 60, bad=2)
        first.controller.step()
        stage.label(1, [True] * 7)
        stage.label(2, [True, False])
        clock.advance(30)
        first.controller.step()
        before = stage.docket()
        first.controller.stop()
        second = stage.process("b")
        second.open(stage.rollout)
        second.controller.step()
        second.traffic(50, 50)
        clock.advance(570)
        assert second.controller.step()
        assert stage.rollout.state == "promoted"
        after = stage.docket()
        assert before.gates.errors is not None
        assert after.gates.errors is not None
        assert (before.gates.errors.n, after.gates.errors.n) == ((60, 60), (110, 110))
        assert after.labels == before.labels == {0: 2}
        assert "110 requests and 2 labels" in stage.rollout.reason

    def test_a_controller_that_dies_is_followed_by_another(self, stage: Stage, clock: ManualClock) -> None:
        first = stage.start()
        first.controller.step()
        second = stage.process("b")
        second.open(stage.rollout)
        second.traffic(9900, 100)
        assert not second.controller.step()
        clock.advance(61)  # the first one says no word any more
        assert second.controller.step()
        assert stage.rollout.step == 1

    def test_somebody_acts_in_between(self, stage: Stage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        process = stage.start()
        process.controller.step()
        process.traffic(9900, 100)
        clock.advance(60)
        put = stage.catalog.put_report

        def slow(*arguments: Any) -> None:
            put(*arguments)
            monkeypatch.undo()
            stage.rollouts.pause("m", note="wait")

        monkeypatch.setattr(stage.catalog, "put_report", slow)
        assert process.controller.step(), "what it was about to do is not done"
        assert (stage.rollout.state, stage.rollout.step, stage.rollout.reason) == ("paused", 0, "wait")

    def test_a_model_that_goes(self, any_stage: Stage) -> None:
        process = any_stage.start()
        process.controller.step()
        any_stage.registry.unregister("m")
        assert not process.controller.step()
        assert not process.controller.step()

    def test_a_store_that_fails(self, stage: Stage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        process = stage.start()

        def broken(*_: Any, **__: Any) -> Any:
            raise StoreUnavailable("the disk is full")

        monkeypatch.setattr(stage.catalog, "put_report", broken)
        assert not process.controller.step()
        assert "the disk is full" in process.controller.last_error
        monkeypatch.undo()
        process.traffic(9900, 100)
        clock.advance(60)
        assert process.controller.step()
        assert stage.rollout.step == 1

    def test_findings_of_another_release(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start()
        stage.catalog.put_findings("m", 1, b"who knows", step_revision=1)
        process.traffic(9900, 100)
        clock.advance(60)
        assert process.controller.step()
        assert stage.rollout.step == 1


class TestOtherStrategies:
    def test_blue_green_is_compared_with_what_was_before(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start(plan_of("blue_green"))
        process.traffic(400, 0)
        clock.advance(30)
        assert process.controller.step()
        for _ in range(40):
            process.traffic(0, 10, bad=3)
            clock.advance(1)
            if process.controller.step():
                break
        assert stage.rollout.state == "rolled_back"
        assert stage.rollout.reason.startswith("errors")
        assert stage.registry.get("m").live_version == 1

    def test_blue_green_that_goes_well(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start(plan_of("blue_green"))
        process.traffic(400, 0)
        clock.advance(30)
        assert process.controller.step()
        process.traffic(0, 1000, bad=1)
        clock.advance(600)
        assert process.controller.step()
        assert stage.rollout.state == "promoted"

    def test_a_split_ends_without_a_verdict_where_nothing_differs(self, stage: Stage, clock: ManualClock) -> None:
        process = stage.start(plan_of("ab", seconds=60, samples=100))
        process.traffic(100, 100)
        clock.advance(60)
        assert process.controller.step()
        assert stage.rollout.state == "inconclusive"
        assert stage.registry.version("m", 2).status == "staging"

    def test_a_shadow_is_compared_label_by_label(self, stage: Stage, clock: ManualClock) -> None:
        stage.shadows = shadows = FakeShadows()
        stage.rollouts.start("m", 2, Plan("shadow", (Step(0.0, 60.0, 100, 50),), at_end="hold"), by="test")
        process = stage.process()
        shadows.shown = Shown(2, "classification", "running", answered=500)
        process.controller.step()
        for _ in range(10):
            stage.label(1, stage.coins(20, 0.5))
            clock.advance(1)
            process.controller.step()
        assert stage.rollout.active
        assert stage.docket().labels == {0: 200}
        shadows.answer = 0  # right where the champion is wrong
        for _ in range(10):
            stage.label(1, [False] * 20)
            clock.advance(1)
            assert not process.controller.step()
        clock.advance(60)
        assert process.controller.step()
        assert stage.rollout.state == "promoted"
        assert "quality" in stage.rollout.reason

    def test_a_shadow_that_crashes(self, stage: Stage) -> None:
        stage.shadows = shadows = FakeShadows()
        stage.rollouts.start("m", 2, plan_of("shadow"), by="test")
        process = stage.process()
        shadows.shown = Shown(2, "classification", "waiting", crashes=1)
        assert process.controller.step()
        assert stage.rollout.state == "rolled_back"

    def test_labels_wait_for_a_shadow_that_does_not_answer(self, stage: Stage, clock: ManualClock) -> None:
        stage.shadows = shadows = FakeShadows()
        stage.rollouts.start("m", 2, plan_of("shadow"), by="test")
        process = stage.process()
        shadows.shown = Shown(2, "classification", "opening")
        process.controller.step()
        stage.label(1, [True] * 10)
        shadows.failing = True
        clock.advance(2)
        process.controller.step()
        assert stage.docket().labels == {}
        shadows.failing = False
        clock.advance(2)
        process.controller.step()
        assert stage.docket().labels == {0: 10}


class FakeShadows:
    """A process's shadows: one, which answers `answer` to everything."""

    def __init__(self) -> None:
        self.shown: Shown | None = None
        self.answer: Any = 1
        self.failing = False

    def observed(self, _model: str, _version: int) -> Shown | None:
        return self.shown

    def answers(self, _model: str, _version: int, rows: Sequence[Any], _time_limit: float) -> list[Any] | None:
        if self.failing:
            raise ModelFailed("it is down")
        return [self.answer] * len(rows)


class TestThread:
    def test_a_guard_wakes_it(self) -> None:
        clock = SystemClock()
        journal = MemoryJournal(clock=clock)
        stage = Stage(MemoryCatalog(journal), journal, clock)
        ended = threading.Event()
        stage.bus.subscribe(lambda event: ended.set() if event.kind == "rollout_ended" else None)
        process = stage.start()
        process.controller.start()
        process.controller.start()
        process.traffic(1, 1, bad=1, how="not_finite")
        assert ended.wait(10)
        assert process.controller.alive
        process.controller.stop()
        process.controller.stop()
        assert stage.rollout.state == "rolled_back"
        _close(stage)
