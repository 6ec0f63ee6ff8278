"""The background optimiser, step by step: when it makes an attempt, what it publishes, and what it never does twice.

What happens in an attempt's process is `test_job`'s business: here its outcome is written by the test.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from everloop.core.errors import InvalidInput, ModelNotFound
from everloop.core.events import Event, EventBus
from everloop.core.schema import Field, Schema, Target, pack_rows
from everloop.core.types import PredictionRecord
from everloop.optimization import succession
from everloop.optimization.background import LEASE, BackgroundOptimizer
from everloop.optimization.config import Mode, OptimizeConfig
from everloop.optimization.job import Job, Outcome
from everloop.optimization.succession import Way
from everloop.registry.catalog import Registry
from everloop.registry.plans import plan_of
from everloop.runtime.artifact import Trust
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import MemoryArtifacts
from everloop.stores.ports import Manifest, ModelRecord
from everloop.testing import ManualClock

SCHEMA = Schema((Field("a", "number"), Field("b", "number")))
BOOKS = {"first_id": 3, "last_id": 90, "count": 80, "cut_id": 7, "verdict": "better", "seconds": 1.0}
MANIFEST = Manifest(
    "sklearn",
    "regression",
    SCHEMA,
    Target("regression", "number"),
    metrics={"mae": 0.5},
    lineage={**BOOKS, "parent": 0},
)
FASTER = Outcome(
    manifest=msgspec.structs.replace(MANIFEST, runtime="onnx", lineage={"optimization": {"chosen": "onnx"}}),
    payload=b"faster",
    why="onnx is 9 times as fast",
    told={"chosen": "onnx"},
)
KEPT = Outcome(why="nothing is faster", told={"chosen": "original"})


class Attempt:
    """One that is over when the test says so."""

    def __init__(self, outcome: Outcome | None) -> None:
        self.told = outcome
        self.killed = False
        self.polls = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def poll(self) -> bool:
        self.polls += 1
        self.meanwhile()
        return self.told is not None

    def outcome(self) -> Outcome:
        assert self.told is not None
        return self.told

    def kill(self) -> None:
        self.killed = True


class Process:
    """One process of a deployment, and what it would be told by attempts."""

    def __init__(self, stores: tuple[Any, Any, Any], clock: ManualClock, owner: str, **config: Any) -> None:
        catalog, journal, artifacts = self.stores = stores
        self.events: list[Event] = []
        bus = EventBus()
        bus.subscribe(self.events.append)
        self.clock = clock
        self.journal = journal
        self.registry = Registry(catalog, artifacts, journal, bus, clock, Trust())
        self.choice: Mode = "float"
        self.goes = Way(live=True)
        self.jobs: list[Job] = []
        self.attempts: list[Attempt] = []
        self.outcomes: list[Outcome | None] = []
        self.meanwhile: Callable[[], None] = lambda: None
        config = {"on_publish": True, "min_examples": 20, "settle_sec": 0.0} | config
        self.optimizer = BackgroundOptimizer(
            self.registry, journal, OptimizeConfig(**config), clock, owner=owner, ports=self, begin=self._begin
        )

    def mode(self, model: ModelRecord) -> Mode:
        return self.choice

    def way(self, model: ModelRecord) -> Way:
        return self.goes

    def sizes(self, model: str) -> dict[int, int]:
        return {1: 100, 32: 10, 1024: 0}

    def _begin(self, job: Job, on_end: Callable[[], None]) -> Any:
        self.jobs.append(job)
        attempt = Attempt(self.outcomes.pop(0) if self.outcomes else None)
        attempt.meanwhile = self.meanwhile
        self.attempts.append(attempt)
        return attempt

    def step(self) -> bool:
        """When whoever waited has waited."""
        self.clock.advance(120.0)
        return self.optimizer.step()

    def told(self, *kinds: str) -> list[Event]:
        return [event for event in self.registry.timeline("m", limit=1000) if event.kind in kinds]

    def register(self, manifest: Manifest = MANIFEST, payload: bytes = b"original", **more: Any) -> None:
        self.registry.register(
            "m", "artifact", task=manifest.task, schema=manifest.schema, target=manifest.target, **more
        )
        self.registry.add_version("m", manifest, payload, live=True)

    def ask(self, rows: list[list[float]]) -> None:
        """What serving records."""
        encoding, packed = pack_rows(rows, SCHEMA)
        made = PredictionRecord("m", 1, "k", 0, len(rows), 1, self.clock.now(), encoding, packed, [0.0] * len(rows))
        self.journal.record(made)
        self.journal.flush()


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests publish is no model; what is one is opened in `test_job`."""
    monkeypatch.setattr(succession, "load_session", lambda *_, trust: io.BytesIO())


@pytest.fixture
def process(clock: ManualClock, opens: None) -> Process:
    return Process(stores(clock), clock, "one")


def stores(clock: ManualClock) -> tuple[Any, Any, Any]:
    journal = MemoryJournal(clock=clock)
    return MemoryCatalog(journal), journal, MemoryArtifacts()


def different(count: int, start: int = 0) -> list[list[float]]:
    return [[float(i), 1.0] for i in range(start, start + count)]


def ready(process: Process, *outcomes: Outcome | None) -> Process:
    process.register()
    process.ask(different(60))
    process.outcomes = list(outcomes)
    return process


def test_a_faster_form_is_the_next_version_and_goes_live_with_the_learners_books(process: Process) -> None:
    ready(process, FASTER)
    assert process.step()
    first, second = process.registry.versions("m")
    assert (first.status, second.status) == ("retired", "live")
    assert process.registry.payload(second) == b"faster"
    assert second.manifest.runtime == "onnx"
    assert second.manifest.metrics == {"mae": 0.5}
    lineage = second.manifest.lineage
    assert {key: lineage.get(key) for key in ("first_id", "last_id", "count", "cut_id")} == {
        key: BOOKS[key] for key in ("first_id", "last_id", "count", "cut_id")
    }
    assert (lineage["parent"], lineage["variant_of"], lineage["reason"]) == (1, 1, "optimized")
    assert lineage["optimization"]["chosen"] == "onnx"
    assert lineage["optimization"]["recorded"]["kind"] == "predictions"
    assert "verdict" not in lineage
    (told,) = process.told("optimized")
    assert (told.version, told.data["of"], told.data["by"]) == (2, 1, "optimizer")
    assert "9 times as fast" in told.message
    assert [event.kind for event in process.told("optimize_started", "published", "optimized")] == [
        "published",
        "optimize_started",
        "published",
        "optimized",
    ]
    status = process.optimizer.status("m")
    assert (status.state, status.result) == ("done", {"chosen": "onnx"})


def test_a_form_of_a_version_is_not_optimised_again(process: Process) -> None:
    ready(process, FASTER, FASTER)
    process.step()
    assert not process.step()
    assert "faster form of version 1" in process.optimizer.status("m").reason
    assert not Process(process.stores, process.clock, "two").step(), "nor by the next process"


def test_one_that_is_asked_for_again_still_names_the_version_that_was_trained(process: Process) -> None:
    ready(process, FASTER, msgspec.structs.replace(FASTER, payload=b"faster still"))
    process.step()
    process.optimizer.ask("m")
    assert process.step()
    third = process.registry.versions("m")[2]
    assert (third.manifest.lineage["parent"], third.manifest.lineage["variant_of"]) == (2, 1)


def test_the_job_is_what_serves_and_what_was_recorded(process: Process) -> None:
    process.choice = "int8"
    ready(process, KEPT)
    process.step()
    (job,) = process.jobs
    assert (job.payload, job.manifest.runtime, job.int8, job.labels) == (b"original", "sklearn", True, None)
    assert sorted(job.rows) == different(60)
    assert job.sizes == [1, 32]


def test_what_stays_as_it_is_is_told_once_for_all_processes(process: Process) -> None:
    ready(process, KEPT, FASTER)
    assert process.step()
    (told,) = process.told("not_optimized")
    assert (told.version, told.data["state"]) == (1, "kept")
    assert "nothing is faster" in told.message
    assert not process.step()
    later = Process(process.stores, process.clock, "two")
    assert not later.step()
    assert "nothing is faster" in later.optimizer.status("m").reason
    assert len(process.registry.versions("m")) == 1


def test_somebody_may_ask_for_another_attempt(process: Process) -> None:
    ready(process, KEPT, FASTER)
    process.choice = "off"
    process.step()
    assert process.optimizer.status("m").state == "off"
    process.optimizer.ask("m", "int8")
    assert process.step()
    assert process.jobs[-1].int8
    process.optimizer.ask("m")
    assert process.step()
    assert len(process.registry.versions("m")) == 2


def test_equal_inputs_prove_nothing(process: Process) -> None:
    process.register()
    process.ask([[1.0, 2.0]] * 500)
    assert not process.step()
    assert process.optimizer.status("m").reason == "1 of 20 different inputs are recorded"
    with pytest.raises(InvalidInput, match="1 different inputs"):
        process.optimizer.ask("m")
    process.ask(different(20))
    process.outcomes = [FASTER]
    assert process.step()


def test_a_version_has_to_have_been_live_for_a_while(clock: ManualClock, opens: None) -> None:
    process = ready(Process(stores(clock), clock, "one", settle_sec=3600.0), FASTER)
    assert not process.step()
    assert "until it has been live" in process.optimizer.status("m").reason
    clock.advance(3600.0)
    assert process.step()


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (msgspec.structs.replace(MANIFEST, runtime="linear"), "compiled already"),
        (msgspec.structs.replace(MANIFEST, task="tensors", target=Target("tensors", "number")), "takes tensors"),
    ],
)
def test_what_cannot_become_faster_is_left_alone(process: Process, manifest: Manifest, reason: str) -> None:
    process.register(manifest)
    process.ask(different(60))
    assert not process.step()
    assert reason in process.optimizer.status("m").reason
    assert process.told("optimize_started", "not_optimized") == []
    with pytest.raises(InvalidInput, match=reason):
        process.optimizer.ask("m")


def test_a_model_without_a_version_or_unknown(process: Process) -> None:
    process.registry.register("m", "linear", task="regression")
    assert not process.step()
    with pytest.raises(InvalidInput, match="no version yet"):
        process.optimizer.ask("m")
    with pytest.raises(ModelNotFound):
        process.optimizer.ask("nobody")
    assert process.optimizer.status("nobody").state == "off"


def test_how_it_is_served_decides_and_may_change(process: Process) -> None:
    ready(process, FASTER)
    process.choice = "off"
    assert not process.step()
    process.choice = "float"
    process.registry.configure("m", {"optimize": "float"})
    assert process.step()


def test_it_waits_for_a_rollout_and_for_traffic_that_is_split_by_hand(process: Process) -> None:
    ready(process, FASTER)
    process.registry.add_version("m", MANIFEST, b"other", live=False, plan=plan_of("canary"))
    assert not process.step()
    assert "being rolled out" in process.optimizer.status("m").reason
    process.registry.rollback("m")
    process.registry.set_traffic("m", {1: 0.5, 2: 0.5})
    assert not process.step()
    assert "by hand" in process.optimizer.status("m").reason
    process.registry.promote("m", 1)
    assert process.step()


@pytest.mark.parametrize(("way", "status"), [(Way(plan=plan_of("canary")), "staging"), (Way(), "staging")])
def test_it_goes_out_as_any_version_does(process: Process, way: Way, status: str) -> None:
    ready(process, FASTER)
    process.goes = way
    process.step()
    first, second = process.registry.versions("m")
    assert (first.status, second.status) == ("live", status)
    rollout = process.registry.catalog.rollout("m")
    assert (rollout is not None and rollout.by == "optimizer") == (way.plan is not None)
    assert not process.step(), "neither while it is out, nor while it waits"


def test_a_version_that_is_replaced_meanwhile_ends_the_attempt(process: Process) -> None:
    ready(process, None, FASTER)

    def replace() -> None:
        process.registry.add_version("m", MANIFEST, b"newer", live=True)

    process.meanwhile = replace
    assert process.step()
    assert process.attempts[0].killed
    (told,) = process.told("not_optimized")
    assert (told.version, told.data["state"]) == (1, "stopped")
    assert "version 2 has taken its place" in told.message
    process.meanwhile = lambda: None
    assert process.step(), "its successor gets an attempt of its own"
    assert process.registry.versions("m")[-1].manifest.lineage["variant_of"] == 2


def test_nothing_takes_the_place_of_a_version_that_it_was_not_compared_with(process: Process) -> None:
    ready(process, FASTER)

    def outcome() -> Outcome:
        process.registry.add_version("m", MANIFEST, b"newer", live=True)
        return FASTER

    attempt = Attempt(FASTER)
    attempt.outcome = outcome  # type: ignore[method-assign]
    process.optimizer._begin = lambda job, on_end: attempt  # type: ignore[assignment,return-value]
    assert process.step()
    assert [version.status for version in process.registry.versions("m")] == ["retired", "live"]
    assert process.told("not_optimized")[0].data["state"] == "stopped"


def test_a_model_that_is_unregistered_meanwhile_ends_the_attempt_without_a_word(process: Process) -> None:
    ready(process, None)
    process.meanwhile = lambda: process.registry.unregister("m")
    assert process.step()
    assert process.attempts[0].killed
    assert process.told("not_optimized", "optimized") == []
    process.meanwhile = lambda: None
    process.register()
    assert not process.optimizer.step(), "another one of that name begins with nothing recorded"


def test_what_fails_is_told_and_not_tried_again(process: Process) -> None:
    ready(process, Outcome(error="its process was killed by signal 11"), FASTER)
    process.step()
    (told,) = process.told("not_optimized")
    assert told.data["state"] == "failed"
    assert "signal 11" in told.message
    assert not process.step()


def test_what_comes_back_decides_only_how_it_is_run(process: Process) -> None:
    forged = msgspec.structs.replace(
        FASTER.manifest,  # type: ignore[type-var]
        schema=Schema((Field("x", "text"),)),
        task="classification",
        metrics={"mae": 0.0},
        lineage={"variant_of": 40, "last_id": 10**9, "optimization": {}},
    )
    ready(process, msgspec.structs.replace(FASTER, manifest=forged))
    process.step()
    made = process.registry.versions("m")[1].manifest
    assert (made.schema, made.task, made.metrics) == (SCHEMA, "regression", {"mae": 0.5})
    assert (made.lineage["variant_of"], made.lineage["last_id"]) == (1, 90)


def test_what_cannot_be_opened_here_takes_nobodys_place(clock: ManualClock) -> None:
    process = ready(Process(stores(clock), clock, "one"), FASTER)
    assert process.step()
    (told,) = process.told("not_optimized")
    assert told.data["state"] == "failed"
    assert len(process.registry.versions("m")) == 1


def test_there_is_one_attempt_at_a_time_in_the_deployment(process: Process) -> None:
    ready(process, FASTER)
    assert process.journal.acquire_lease(LEASE, "another", now=process.clock.now(), ttl=1e6)
    assert not process.step()
    assert "another one" in process.optimizer.status("m").reason
    process.journal.release_lease(LEASE, "another")
    assert process.step()


def test_two_processes_make_one_attempt_between_them(process: Process) -> None:
    ready(process, FASTER)
    other = Process(process.stores, process.clock, "two")
    other.outcomes = [FASTER]

    def meanwhile() -> None:
        other.optimizer.step()

    process.meanwhile = meanwhile
    process.step()
    other.step()
    process.step()
    assert len(process.attempts) + len(other.attempts) == 1
    assert len(process.registry.versions("m")) == 2


def test_an_attempt_whose_lease_was_lost_is_ended(process: Process) -> None:
    ready(process, None)

    def stall() -> None:
        process.clock.advance(100.0)
        process.journal.acquire_lease(LEASE, "another", now=process.clock.now(), ttl=1e6)

    process.meanwhile = stall
    assert process.step()
    assert process.attempts[0].killed
    assert process.told("not_optimized")[0].data["state"] == "stopped"


def test_a_process_that_was_killed_leaves_no_verdict_and_two_of_them_do(process: Process) -> None:
    """An attempt that takes its server along must not do so for ever."""

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    def killed(owner: str) -> Process:
        found = Process(process.stores, process.clock, owner)
        found.outcomes, found.meanwhile = [None], die
        with pytest.raises(Killed):
            found.step()
        return found

    ready(process)
    killed("one")
    killed("two")
    third = Process(process.stores, process.clock, "three")
    third.outcomes = [FASTER]
    assert third.step()
    assert third.attempts == []
    (told,) = process.told("not_optimized")
    assert told.data["state"] == "failed"
    assert "not survived" in told.message
    third.optimizer.ask("m")
    assert third.step(), "who asks may try again"
    assert len(process.registry.versions("m")) == 2


def test_a_server_that_stops_makes_its_attempt_later(process: Process) -> None:
    ready(process, None)
    begun = threading.Event()
    process.meanwhile = begun.set
    process.clock.advance(1.0)
    process.optimizer._clock = _Waits(process.clock)
    process.optimizer.start()
    assert begun.wait(10.0)
    assert process.optimizer.alive
    assert list(process.optimizer.running()) == ["m"]
    process.optimizer.stop()
    process.optimizer.stop()
    assert process.attempts[0].killed
    assert process.told("not_optimized")[0].data["state"] == "stopped"
    later = Process(process.stores, process.clock, "two")
    later.outcomes = [FASTER]
    assert later.step()


class _Waits(ManualClock):
    """Stands still, but waits for events as a thread must."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._of = clock

    def now(self) -> float:
        return self._of.now()

    def monotonic(self) -> float:
        return self._of.monotonic()

    def wait(self, event: threading.Event, timeout: float) -> bool:
        return event.wait(0.01)


def test_stores_that_are_away_do_not_end_the_thread(process: Process) -> None:
    failed = threading.Event()

    def fail() -> Any:
        failed.set()
        raise OSError("the disk is away")

    process.registry.list = fail  # type: ignore[method-assign]
    process.optimizer._clock = _Waits(process.clock)
    process.optimizer.start()
    assert failed.wait(10.0)
    process.optimizer.stop()
    assert "the disk is away" in process.optimizer.last_error
