"""Where things are remembered, by one word: a folder, a PostgreSQL URL, or nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from everloop.core.clock import Clock
from everloop.core.errors import InvalidInput, StoreUnavailable
from everloop.stores.ports import ArtifactStore, Catalog, Journal

URLS = ("postgresql://", "postgres://")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How a URL begins; a drive of Windows has one letter only."""


class Stores(NamedTuple):
    journal: Journal
    catalog: Catalog
    artifacts: ArtifactStore

    def close(self) -> None:
        """Commit what is queued, then close. Safe to call twice."""
        self.journal.close()
        self.catalog.close()


def is_url(place: str | Path) -> bool:
    return isinstance(place, str) and place.startswith(URLS)


def open_stores(place: str | Path | None, *, clock: Clock) -> Stores:
    """`place`: a folder, which is made if it is not there; a `postgresql://` URL; None: in memory, gone with the process.

    Raises StoreUnavailable, and for a URL InvalidInput (also for one that is none of PostgreSQL's) and MissingExtra."""
    if place is None:
        from everloop.stores.memory import MemoryCatalog, MemoryJournal
        from everloop.stores.objects import MemoryArtifacts

        journal = MemoryJournal(clock=clock)
        return Stores(journal, MemoryCatalog(journal), MemoryArtifacts())
    if is_url(place):
        from everloop.stores.postgres import Database, PostgresArtifacts, PostgresCatalog, PostgresJournal

        database = Database(str(place))
        shared = PostgresJournal(database, clock=clock)
        try:
            return Stores(shared, PostgresCatalog(database), PostgresArtifacts(database))
        except BaseException:  # the server went away in between: nobody else would end the journal's thread
            shared.close()
            raise
    from everloop.stores.objects import FolderArtifacts
    from everloop.stores.sqlite import SqliteCatalog, SqliteJournal

    folder = Path(place)
    if _SCHEME.match(str(place)):  # not told: it may hold a password, and must not become a folder's name
        raise InvalidInput(
            "the data folder is given as a URL; the only one that everloop knows is that of a database, postgresql://USER@HOST/NAME",
            field="data_dir",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"data folder {str(folder)!r}: cannot be made: {error.strerror}") from error
    file = folder / "everloop.db"
    return Stores(SqliteJournal(file, clock=clock), SqliteCatalog(file), FolderArtifacts(folder / "artifacts"))
