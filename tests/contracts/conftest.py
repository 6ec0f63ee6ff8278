"""The backends that each contract suite runs over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import FolderArtifacts, MemoryArtifacts
from everloop.stores.ports import ArtifactStore, Catalog, Journal
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.testing import ManualClock


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Journal]:
    journal: Journal
    if request.param == "memory":
        journal = MemoryJournal(clock=clock)
    else:
        journal = SqliteJournal(tmp_path / "everloop.db", clock=clock)
    yield journal
    journal.close()


@pytest.fixture(params=["memory", "sqlite"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    catalog: Catalog = MemoryCatalog() if request.param == "memory" else SqliteCatalog(tmp_path / "everloop.db")
    yield catalog
    catalog.close()


@pytest.fixture(params=["memory", "folder"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    make: dict[str, Callable[[], ArtifactStore]] = {
        "memory": MemoryArtifacts,
        "folder": lambda: FolderArtifacts(tmp_path / "artifacts"),
    }
    return make[request.param]()
