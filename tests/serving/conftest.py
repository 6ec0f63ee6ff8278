"""Sessions whose behaviour a test decides, and lanes and engines made of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from everloop.core.events import Event, EventBus
from everloop.core.schema import Schema, Target
from everloop.policy.batching import BatchRules
from everloop.registry.catalog import Registry
from everloop.registry.rollouts import Rollouts, plan_of
from everloop.runtime.artifact import Trust
from everloop.runtime.linear import LinearModel
from everloop.serving.evidence import Observed
from everloop.serving.lane import Lane, open_lane
from everloop.serving.predictor import Predictor
from everloop.serving.reconciler import Reconciler
from everloop.serving.recorder import Recorder
from everloop.serving.split import Arm
from everloop.serving.table import TableRef
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import MemoryArtifacts
from everloop.stores.ports import Manifest, ModelRecord, VersionRecord
from everloop.testing import ManualClock


class PlainSession:
    """Answers the sum of a row, or whatever `answers` says; counts its runs and remembers being closed."""

    classes: list[Any] | None = None

    def __init__(
        self,
        width: int = 2,
        answers: Callable[[Any], Any] | None = None,
        *,
        schema: Schema | None = None,
        target: Target | None = None,
        dtype: Any = np.float64,
    ) -> None:
        self.schema = schema or Schema.unnamed(width)
        self.target = target or Target("regression")
        self.dtype = dtype
        self.answers = answers or (lambda X: X.sum(axis=1))
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.closed = threading.Event()

    def run(self, X: Any) -> Any:
        self.batches.append(len(X))
        self.threads.add(threading.current_thread().name)
        return self.answers(X)

    def scores(self, X: Any) -> None:
        return None

    def close(self) -> None:
        self.closed.set()


class _OneSession:
    def __init__(self, session: Any) -> None:
        self._session = session

    def open_session(self, record: VersionRecord) -> Any:
        session, self._session = self._session, None
        return session


class Kit:
    """An engine of the rooms below, in memory, with a clock that stands still."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(clock=self.clock)
        self.bus = EventBus()
        self.events: list[Event] = []
        self.bus.subscribe(self.events.append)
        self.registry = Registry(
            MemoryCatalog(self.journal), MemoryArtifacts(), self.journal, self.bus, self.clock, Trust(pickle=True)
        )
        self.table = TableRef()
        self.recorder = Recorder(self.journal, self.clock)
        self.reconciler = Reconciler(self.registry, self.table, self.recorder, self.bus, self.clock)
        self.predictor = Predictor(self.table, self.registry, self.reconciler.refused)

    def lane(
        self,
        session: Any,
        *,
        version: int = 1,
        name: str = "m",
        record: float = 1.0,
        rules: BatchRules | None = None,
    ) -> Lane:
        manifest = Manifest("linear", session.target.task, session.schema, session.target)
        lane = open_lane(
            VersionRecord(name, version, f"{version:064x}", "live", 0.0, manifest),
            ModelRecord(name, "artifact", 0.0, record=record),
            _OneSession(session),  # type: ignore[arg-type]
            self.recorder,
            rules=rules or BatchRules(),
        )
        if isinstance(session, PlainSession):
            session.batches.clear()
            session.threads.clear()
        return lane

    def publish(self, name: str, weights: list[float], bias: float = 0.0, *, live: bool = True) -> VersionRecord:
        """A linear regression as the next version of `name`."""
        schema, target = Schema.unnamed(len(weights)), Target("regression")
        if name not in self.registry.names():
            self.registry.register(
                name, "linear", task="regression", parameters={}, learning={}, schema=schema, target=target
            )
        model = LinearModel(np.array([weights]), np.array([bias]), np.zeros(len(weights)))
        manifest = Manifest("linear", "regression", schema, target)
        return self.registry.add_version(name, manifest, model.pack(), live=live)

    def play(self, *, champion: Any = None, challenger: Any = None, share: float = 0.5, timeout: float = 60.0) -> Arm:
        """Version 1 live and version 2 the challenger of a canary, each answering by its session (1 * x and 2 * x, if none is
        given). Returns the challenger's arm."""
        sessions = {1: champion, 2: challenger}
        opened = self.registry.open_session
        self.publish("m", [1.0])
        self.publish("m", [2.0], live=False)
        self.registry.open_session = lambda record: sessions[record.version] or opened(record)  # type: ignore[method-assign]
        plan = plan_of("canary", steps=[share], seconds=3600, gates={"timeout": timeout})
        Rollouts(self.registry).start("m", 2, plan, by="test")
        self.reconciler.step()
        return self.arm(2)

    def arm(self, version: int, name: str = "m") -> Arm:
        """As requests without a unit draw it."""
        split = self.table.current.splits[name]
        return next(arm for arm in iter(split.route, None) if arm.lane.version == version)

    def seen(self, name: str = "m") -> Observed:
        (evidence,) = (found for found in self.reconciler.evidences.active() if found.model == name)
        return evidence.observed()

    def recorded(self, name: str = "m") -> dict[str, tuple[list[float], Any]]:
        """request id (and #index in requests of several rows) -> (features, prediction), as the journal has it."""
        from everloop.core.schema import unpack_rows
        from everloop.core.types import request_id

        self.recorder.drain()
        found: dict[str, tuple[list[float], Any]] = {}
        for _, record in self.journal.predictions(name, limit=100_000):
            rows = unpack_rows(record.encoding, record.features, record.count * record.rows)
            for i, (row, prediction) in enumerate(zip(rows, record.predictions, strict=True)):
                text = request_id(record.lane_key, record.first + i // record.rows)
                text += f"#{i % record.rows}" if record.rows > 1 else ""
                assert text not in found, "recorded twice"
                found[text] = (row, prediction)
        return found


@pytest.fixture
def kit() -> Iterator[Kit]:
    kit = Kit()
    yield kit
    kit.reconciler.stop()
    kit.recorder.stop()


@pytest.fixture
def plain_session() -> type[PlainSession]:
    return PlainSession
