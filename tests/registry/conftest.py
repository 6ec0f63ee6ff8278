"""A registry and what stands around it, once in memory and once on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.core.events import Event, EventBus
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import FolderArtifacts, MemoryArtifacts
from everloop.stores.ports import ArtifactStore, Catalog, Journal
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.testing import ManualClock


class House:
    """A registry and what stands around it."""

    def __init__(self, catalog: Catalog, artifacts: ArtifactStore, journal: Journal, clock: ManualClock) -> None:
        self.catalog, self.artifacts, self.journal, self.clock = catalog, artifacts, journal, clock
        self.told: list[Event] = []
        bus = EventBus()
        bus.subscribe(self.told.append)
        self.registry = Registry(catalog, artifacts, journal, bus, clock, Trust())

    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]


@pytest.fixture(params=["memory", "sqlite"])
def house(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[House]:
    if request.param == "memory":
        journal = MemoryJournal(clock=clock)
        built = House(MemoryCatalog(journal), MemoryArtifacts(), journal, clock)
    else:
        path = tmp_path / "everloop.db"
        artifacts = FolderArtifacts(tmp_path / "artifacts")
        built = House(SqliteCatalog(path), artifacts, SqliteJournal(path, clock=clock), clock)
    yield built
    built.journal.close()
    built.catalog.close()


@pytest.fixture
def registry(house: House) -> Registry:
    return house.registry
