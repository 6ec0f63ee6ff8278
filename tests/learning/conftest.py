"""A whole learning room with everything under it, in simulated time: what these tests stand on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everloop.core.errors import EverloopError
from everloop.core.events import Event, EventBus
from everloop.core.schema import Schema, pack_rows
from everloop.core.types import PredictionRecord, request_id
from everloop.learning.config import LearningConfig
from everloop.learning.fitting import Fitter
from everloop.learning.intake import Feedback, Intake
from everloop.learning.learners.base import Learner
from everloop.learning.learners.make import describe, make_learner
from everloop.learning.loop import LearningLoop
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import MemoryArtifacts
from everloop.testing import ManualClock

TRUST = Trust(pickle=True)


class Room:
    """Registry, journal, intake and loop over one set of stores. `again` is the next process over the same stores."""

    def __init__(
        self, journal: Any, catalog: Any, artifacts: Any, clock: ManualClock, *, owner: str = "one", inline: bool = True
    ) -> None:
        self.journal, self.catalog, self.artifacts, self.clock = journal, catalog, artifacts, clock
        self.events: list[Event] = []
        self.bus = EventBus()
        self.bus.subscribe(self.events.append)
        self.registry = Registry(catalog, artifacts, journal, self.bus, clock, TRUST)
        self.config = LearningConfig(min_samples=30, interval_sec=3, rollout="immediate")
        self.fitter = Fitter(inline=inline, idle=0.0)
        self.loop = LearningLoop(
            self.registry,
            journal,
            self.config,
            self.bus,
            clock,
            owner=owner,
            trust=TRUST,
            rng=random.Random(1),
            fitter=self.fitter,
            cpu=lambda: 0.0,
        )
        self.intake = Intake(self.registry, journal, self.config, clock, backlog=self.loop.backlog, wake=self.loop.wake)
        self._numbers = 0

    def again(self, *, owner: str = "two") -> Room:
        return Room(self.journal, self.catalog, self.artifacts, self.clock, owner=owner)

    def register(self, name: str, model: Any, parameters: Any = None, **more: Any) -> Learner:
        learner = make_learner(model, parameters, trust=TRUST)
        kind, described, template = describe(learner)
        self.registry.register(name, kind, task=learner.task, parameters=described, template=template, **more)
        return learner

    def feed(self, name: str, rows: Any, labels: Any, *, validation: bool = False) -> list[int | EverloopError]:
        items = [Feedback(y, features=list(x), validation=validation) for x, y in zip(rows, labels, strict=True)]
        return self.intake.accept_now(name, items).outcomes

    def predict(self, name: str, rows: list[list[float]], version: int | None = None) -> list[str]:
        """What serving does: answer, and record what was answered."""
        record = self.registry.get(name)
        live = self.registry.version(name, version or record.live_version or 0)
        session = self.registry.open_session(live)
        answers = session.run(np.array(rows, session.dtype)).tolist()
        schema = record.schema
        assert schema is not None
        encoding, features = pack_rows(rows, schema)
        first, self._numbers = self._numbers, self._numbers + len(rows)
        self.journal.record(
            PredictionRecord(
                name, live.version, "lane", first, len(rows), 1, self.clock.now(), encoding, features, answers
            )
        )
        return [request_id("lane", first + i) for i in range(len(rows))]

    def label(self, name: str, ids: list[str], labels: Any) -> list[int | EverloopError]:
        items = [Feedback(y, request_id=i) for i, y in zip(ids, labels, strict=True)]
        return self.intake.accept_now(name, items).outcomes

    def settle(self, seconds: float = 0.0) -> None:
        """Let the learners do all they can now, and at each second of the next `seconds`."""
        self.loop.settle()
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            self.loop.settle()

    def told(self, kind: str, model: str | None = None) -> list[Event]:
        return [e for e in self.events if e.kind == kind and (model is None or e.model == model)]

    def live(self, name: str) -> int | None:
        return self.registry.get(name).live_version

    def answer(self, name: str, row: list[Any]) -> Any:
        live = self.registry.live(name)
        assert live is not None
        session = self.registry.open_session(live)
        schema: Schema = session.schema
        return session.run(schema.matrix([row], session.dtype if schema.numeric else None)).tolist()[0]

    def close(self) -> None:
        self.loop.close()
        self.journal.close()


def memory_room(*, inline: bool = True) -> Room:
    clock = ManualClock()
    journal = MemoryJournal(clock=clock)
    return Room(journal, MemoryCatalog(journal), MemoryArtifacts(), clock, inline=inline)


def sqlite_room(folder: Path) -> Room:
    from everloop.stores.objects import FolderArtifacts
    from everloop.stores.sqlite import SqliteCatalog, SqliteJournal

    clock = ManualClock()
    path = folder / "everloop.db"
    return Room(SqliteJournal(path, clock=clock), SqliteCatalog(path), FolderArtifacts(folder / "artifacts"), clock)


@pytest.fixture
def room() -> Iterator[Room]:
    room = memory_room()
    yield room
    room.close()


@pytest.fixture(params=["memory", "sqlite"])
def any_room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    room = memory_room() if request.param == "memory" else sqlite_room(tmp_path)
    yield room
    room.close()
    room.catalog.close()


@pytest.fixture
def lines() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """`lines(n, slope, seed=0, noise=0.1)`: one feature in 0..10 and a label on a line through the origin."""

    def make(n: int, slope: float, seed: int = 0, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        X = rng.uniform(0, 10, (n, 1))
        return X, slope * X[:, 0] + rng.normal(0, noise, n)

    return make
