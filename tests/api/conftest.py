"""A small server without sockets: every real part over in-memory stores, wired as the app does it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator

import pytest

from everloop.api.http.app import create_app
from everloop.api.http.limits import Limits
from everloop.api.services import Services
from everloop.core.clock import SystemClock
from everloop.core.events import EventBus
from everloop.learning.config import LearningConfig
from everloop.learning.intake import Intake
from everloop.learning.loop import LearningLoop
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
from everloop.serving.predictor import Predictor
from everloop.serving.reconciler import Reconciler
from everloop.serving.recorder import Recorder
from everloop.serving.table import TableRef
from everloop.stores.memory.catalog import MemoryCatalog
from everloop.stores.memory.journal import MemoryJournal
from everloop.stores.objects import MemoryArtifacts

with (
    warnings.catch_warnings()
):  # Starlette would rather have httpx2, which is not more than httpx for what is done here
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

LIMITS = Limits(max_body=100_000, max_rows=50, max_features=20, max_page=20, max_streams=3, stream_queue=4)


class Bench:
    """The parts, and what tests do with them all the time."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.journal = journal = MemoryJournal(clock=clock)
        bus = EventBus()
        trust = Trust(pickle=True)
        registry = Registry(MemoryCatalog(), MemoryArtifacts(), journal, bus, clock, trust)
        table = TableRef()
        recorder = Recorder(journal, clock)
        config = LearningConfig(min_samples=20, interval_sec=3600)
        loop = LearningLoop(registry, journal, config, bus, clock, owner="test", trust=trust, rng=random.Random(1))
        self.services = Services(
            registry=registry,
            journal=journal,
            table=table,
            predictor=Predictor(table, registry),
            recorder=recorder,
            reconciler=Reconciler(registry, table, recorder, bus, clock),
            intake=Intake(registry, journal, config, clock, before_join=recorder.drain, backlog=loop.backlog),
            loop=loop,
            bus=bus,
            clock=clock,
            config=config,
            started_at=clock.now(),
            limits=LIMITS,
            trust=trust,
            learning=False,
        )
        self.services.recorder.start()
        self.services.reconciler.start()

    def close(self) -> None:
        services = self.services
        services.drain()
        services.loop.close()
        services.reconciler.stop()
        services.recorder.stop()
        services.journal.close()
        services.traffic.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def services(bench: Bench) -> Services:
    return bench.services


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def teach(client: TestClient) -> Callable[..., None]:
    """Gives labels that say y = factor * x + 0.5, and trains on them."""

    def slope(name: str, factor: float, count: int = 40) -> None:
        examples = [{"features": [float(x)], "label": factor * x + 0.5} for x in range(count)]
        answer = client.post(f"/v1/models/{name}/feedback", json={"examples": examples})
        assert answer.status_code == 202, answer.text
        answer = client.post(f"/v1/models/{name}/train")
        assert answer.status_code == 200, answer.text

    return slope


@pytest.fixture
def trained(client: TestClient, teach: Callable[..., None]) -> Callable[..., str]:
    """Creates and trains a linear model; returns its name."""

    def make(name: str = "m", factor: float = 2.0) -> str:
        answer = client.post("/v1/models", json={"name": name, "kind": "linear"})
        assert answer.status_code == 201, answer.text
        teach(name, factor)
        return name

    return make
