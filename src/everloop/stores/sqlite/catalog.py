"""The durable catalog: the journal's file, each change one transaction that has the file to itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from everloop.core.errors import Closed, StoreUnavailable
from everloop.stores.sql_catalog import SqlCatalog
from everloop.stores.sqlite.file import connect, prepare, unavailable

if TYPE_CHECKING:
    from sqlalchemy import Connection


class SqliteCatalog(SqlCatalog):
    """The `Catalog` port in a file that other processes may share."""

    def __init__(self, path: Path, *, busy_timeout: float = 5.0, read_only: bool = False) -> None:
        """`read_only`: the file must be there and is never changed. Raises StoreUnavailable for a file that is foreign, damaged or
        from the future."""
        import sqlalchemy as sa

        super().__init__()
        self._path = Path(path)
        prepare(self._path, busy_timeout=busy_timeout, read_only=read_only)
        self._sa = sa
        self._engine = sa.create_engine(
            "sqlite://",
            creator=lambda: connect(self._path, busy_timeout=busy_timeout, read_only=read_only),
            poolclass=sa.pool.QueuePool,
            pool_size=2,
            max_overflow=8,
        )
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._engine.dispose()

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction("BEGIN", "read")

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._transaction("BEGIN IMMEDIATE", "write")

    @contextlib.contextmanager
    def _transaction(self, begin: str, doing: str) -> Iterator[Connection]:
        if self._closed:
            raise Closed("the catalog is closed")
        try:
            with self._engine.connect() as connection:
                # The driver is in autocommit mode, so transactions are ours to begin and end.
                connection.exec_driver_sql(begin)
                try:
                    yield connection
                    connection.exec_driver_sql("COMMIT")
                except BaseException:
                    # A disk that is full or fails has ended the transaction already.
                    if connection.connection.in_transaction:
                        connection.exec_driver_sql("ROLLBACK")
                    raise
        except self._sa.exc.DBAPIError as error:
            raise unavailable(self._path, doing, error.orig or error) from error
        except self._sa.exc.TimeoutError as error:
            raise StoreUnavailable(f"cannot {doing} {self._path}: too many at once: {error}") from error
