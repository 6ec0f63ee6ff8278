"""The writer's session: transactions that take turns, over a connection that is replaced when it is lost.

    begin ─ lock the turn, learn the transaction's number ─ work ─ commit
      └──── lost in here: nothing was committed ────┘         └─ lost in here: ask the server by the number whether it was

Work that was lost before its commit is done once more over a new connection, since nobody can have seen it; so a server that was
restarted while the writer slept costs nobody an error. Only where the server cannot be asked (it is still away) does it stay
open whether the last group was committed: labels are then safe to send again, but its predictions and events may be there twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from everloop.core.errors import StoreUnavailable
from everloop.stores.group import Group
from everloop.stores.ports import Appended
from everloop.stores.postgres.database import Database
from everloop.stores.postgres.group import write
from everloop.stores.retention import Cursor

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

_TURN = "SELECT pg_current_xact_id()::text FROM journal_state FOR UPDATE"
"""One writer at a time: see `tables`."""


class Session:
    """One connection at a time. Used by the writer's thread only."""

    def __init__(self, database: Database) -> None:
        """Raises psycopg.Error."""
        self._database = database
        self._connection: psycopg.Connection[Any] | None = database.connect()

    def run(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """`work` as one transaction that no other writer takes part in. Raises psycopg.Error."""
        try:
            return self._attempt(work)
        except _Lost:
            try:
                return self._attempt(work)
            except _Lost as lost:
                raise lost.error from None

    def execute(self, statement: str, parameters: Sequence[Any] = (), /) -> Cursor:
        """A statement of the transaction at hand, its parameters marked with `?`."""
        return self._connected().execute(statement.replace("?", "%s"), parameters)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _attempt(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Raises _Lost where nothing was committed, psycopg.Error where the work failed, or nobody can tell."""
        connection = self._connected()
        number = ""
        try:
            with connection.transaction():
                turn = connection.execute(_TURN).fetchone()
                assert turn is not None
                result = work(connection)
                number = turn[0]
        except self._database.driver.OperationalError as error:
            if not connection.closed:
                raise
            self.close()
            if number and self._committed(number):
                return result
            raise _Lost(error) from error
        return result

    def _committed(self, number: str) -> bool:
        connection = self._connected()
        with connection.transaction():
            connection.execute(_TURN)  # granted only after that transaction has come to its end
            status = connection.execute("SELECT pg_xact_status(%s::xid8)", (number,)).fetchone()
        return status == ("committed",)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = self._database.connect()
        return self._connection


class _Lost(Exception):
    """The connection broke, and nothing of what it was to do has happened."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class PostgresBackend:
    """The writer's `Backend` for a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name = database.name

    def connect(self) -> Session:
        return Session(self._database)

    def disconnect(self, connection: Session) -> None:
        with contextlib.suppress(self._database.driver.Error):
            connection.close()

    def commit(self, connection: Session, group: Group) -> list[Appended]:
        return connection.run(lambda c: write(c, group))

    def run(self, connection: Session, work: Callable[[Session], T]) -> T:
        return connection.run(lambda _: work(connection))

    def passing(self, error: Exception) -> bool:
        """Lost connections, overload, locks, a standby that will be the primary; not what the rows themselves are to blame for."""
        driver = self._database.driver
        return isinstance(error, (driver.OperationalError, driver.InterfaceError, driver.InternalError))

    def broken(self, error: Exception) -> bool:  # noqa: ARG002 - what PostgreSQL reports as damage is `passing`
        return False

    def unavailable(self, error: Exception) -> StoreUnavailable:
        return self._database.unavailable("write", error)
