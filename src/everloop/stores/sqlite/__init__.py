"""What an engine with a data folder remembers: journal and catalog in one SQLite file, safe against `kill -9`."""

from everloop.stores.sqlite.catalog import SqliteCatalog
from everloop.stores.sqlite.journal import SqliteJournal

__all__ = ["SqliteCatalog", "SqliteJournal"]
