"""The catalog that several machines share: each change one transaction, serialised with every other by the row of the revision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from everloop.core.errors import Closed, StoreUnavailable
from everloop.stores.postgres.database import Database
from everloop.stores.postgres.reads import KEPT_CONNECTIONS, MOST_CONNECTIONS, WAIT_SECONDS
from everloop.stores.postgres.tables import prepare
from everloop.stores.sql_catalog import SqlCatalog

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


class PostgresCatalog(SqlCatalog):
    """The `Catalog` port in a database."""

    def __init__(self, url: str | Database) -> None:
        """Raises StoreUnavailable for a database that cannot be reached, or is from the future; InvalidInput, MissingExtra."""
        import sqlalchemy as sa

        super().__init__()
        self._database = url if isinstance(url, Database) else Database(url)
        prepare(self._database)
        self._sa = sa
        self._writers = sa.create_engine(
            "postgresql+psycopg://",
            creator=self._database.connect,
            pool_size=KEPT_CONNECTIONS,
            max_overflow=MOST_CONNECTIONS - KEPT_CONNECTIONS,
            pool_timeout=WAIT_SECONDS,
            pool_pre_ping=True,  # a connection that died while nobody used it is replaced, not handed out
            use_native_hstore=False,
        )
        # Not for writers: after waiting for its turn, a change must see what was committed meanwhile.
        self._readers = self._writers.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._writers.dispose()

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction(self._readers, "read")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._transaction(self._writers, "write") as connection:
            connection.execute(self._sa.select(self._tables.revision.c.revision).with_for_update())
            yield connection

    @contextlib.contextmanager
    def _transaction(self, engine: Engine, doing: str) -> Iterator[Connection]:
        if self._closed:
            raise Closed("the catalog is closed")
        try:
            with engine.begin() as connection:
                yield connection
        except self._sa.exc.DBAPIError as error:
            raise self._database.unavailable(doing, error.orig or error) from error
        except self._sa.exc.TimeoutError as error:
            raise StoreUnavailable(f"cannot {doing} {self._database.name}: too many at once") from error
