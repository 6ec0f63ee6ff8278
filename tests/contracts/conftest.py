"""The backends that each contract suite runs over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import FolderArtifacts, MemoryArtifacts
from everloop.stores.ports import ArtifactStore, Catalog, Journal
from everloop.stores.postgres import PostgresArtifacts, PostgresCatalog, PostgresJournal
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.testing import ManualClock


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Journal]:
    journal: Journal
    if request.param == "memory":
        journal = MemoryJournal(clock=clock)
    elif request.param == "sqlite":
        journal = SqliteJournal(tmp_path / "everloop.db", clock=clock)
    else:
        journal = PostgresJournal(request.getfixturevalue("postgres"), clock=clock)
    yield journal
    journal.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def catalog_and_journal(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> Iterator[tuple[Catalog, Journal]]:
    """A catalog, and the journal that its events go to."""
    catalog: Catalog
    journal: Journal
    if request.param == "memory":
        journal = memory = MemoryJournal(clock=clock)
        catalog = MemoryCatalog(memory)
    elif request.param == "sqlite":
        journal = SqliteJournal(tmp_path / "everloop.db", clock=clock)
        catalog = SqliteCatalog(tmp_path / "everloop.db")
    else:
        url = request.getfixturevalue("postgres")
        journal = PostgresJournal(url, clock=clock)
        catalog = PostgresCatalog(url)
    yield catalog, journal
    catalog.close()
    journal.close()


@pytest.fixture
def catalog(catalog_and_journal: tuple[Catalog, Journal]) -> Catalog:
    return catalog_and_journal[0]


@pytest.fixture
def timeline(catalog_and_journal: tuple[Catalog, Journal]) -> Journal:
    """Where the catalog's events are read."""
    return catalog_and_journal[1]


@pytest.fixture(params=["memory", "folder", "postgres"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    make: dict[str, Callable[[], ArtifactStore]] = {
        "memory": MemoryArtifacts,
        "folder": lambda: FolderArtifacts(tmp_path / "artifacts"),
        "postgres": lambda: PostgresArtifacts(request.getfixturevalue("postgres")),
    }
    return make[request.param]()


class Shared:
    """One store, opened as often as a deployment has processes."""

    def __init__(self, journal: Callable[[], Journal], catalog: Callable[[], Catalog]) -> None:
        self._journal, self._catalog = journal, catalog
        self.opened: list[Journal | Catalog] = []

    def journal(self) -> Journal:
        journal = self._journal()
        self.opened.append(journal)
        return journal

    def catalog(self) -> Catalog:
        catalog = self._catalog()
        self.opened.append(catalog)
        return catalog


@pytest.fixture(params=["sqlite", "postgres"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Shared]:
    if request.param == "sqlite":
        path = tmp_path / "everloop.db"
        shared = Shared(lambda: SqliteJournal(path, clock=clock), lambda: SqliteCatalog(path))
    else:
        url = request.getfixturevalue("postgres")
        shared = Shared(lambda: PostgresJournal(url, clock=clock), lambda: PostgresCatalog(url))
    yield shared
    for each in shared.opened:
        each.close()
