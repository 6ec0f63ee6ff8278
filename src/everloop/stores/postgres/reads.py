"""Reading the journal, beside the writer: a few pooled connections, each used for one statement at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from everloop.core.errors import Closed, StoreUnavailable
from everloop.core.events import Event
from everloop.core.types import Example, PredictionRecord
from everloop.stores.ports import Checkpoint
from everloop.stores.postgres.database import Database
from everloop.stores.rows import EVENT_COLUMNS, EXAMPLE_READ, PREDICTION_COLUMNS, event_of, example_of, record_of

if TYPE_CHECKING:
    import psycopg

KEPT_CONNECTIONS = 2
MOST_CONNECTIONS = 4
"""At once; those beyond the kept ones are closed after use."""
WAIT_SECONDS = 10.0
"""Most seconds of waiting for one of them."""

_PAGE = "SELECT id, {columns} FROM {table} WHERE {model}id > %(after)s ORDER BY id {order} LIMIT %(limit)s"


class PostgresReader:
    """The journal's `Reader`, and its leases."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._free = threading.Semaphore(MOST_CONNECTIONS)
        self._idle: list[psycopg.Connection[Any]] = []
        self._closed = False

    def examples(self, model: str, *, after: int, limit: int, latest: bool) -> list[Example]:
        columns = EXAMPLE_READ.partition(", ")[2]
        return [
            example_of(model, row)
            for row in self._page("examples", columns, model, after=after, limit=limit, latest=latest)
        ]

    def count_examples(self, model: str, *, after: int) -> int:
        return self._number("SELECT count(*) FROM examples WHERE model = %s AND id > %s", (model, after))

    def tally(self, what: str, model: str = "") -> int:
        return self._number("SELECT coalesce((SELECT n FROM tallies WHERE what = %s AND model = %s), 0)", (what, model))

    def bytes(self) -> int:
        return self.tally("bytes")

    def predictions(self, model: str, *, after: int, limit: int, latest: bool) -> list[tuple[int, PredictionRecord]]:
        return [
            record_of(row)
            for row in self._page("predictions", PREDICTION_COLUMNS, model, after=after, limit=limit, latest=latest)
        ]

    def events(self, model: str | None, *, after: int, limit: int, latest: bool) -> list[Event]:
        return [
            event_of(row) for row in self._page("events", EVENT_COLUMNS, model, after=after, limit=limit, latest=latest)
        ]

    def checkpoint(self, model: str) -> Checkpoint | None:
        rows = self.rows("read", "SELECT cursor, state, at FROM checkpoints WHERE model = %s", (model,))
        return Checkpoint(*rows[0]) if rows else None

    def _page(
        self, table: str, columns: str, model: str | None, *, after: int, limit: int, latest: bool
    ) -> list[tuple[Any, ...]]:
        """By ascending id."""
        statement = _PAGE.format(
            columns=columns,
            table=table,
            model="" if model is None else "model = %(model)s AND ",
            order="DESC" if latest else "ASC",
        )
        rows = self.rows("read", statement, {"model": model, "after": after, "limit": max(limit, 0)})
        return rows[::-1] if latest else rows

    def _number(self, query: str, parameters: tuple[Any, ...]) -> int:
        return int(self.rows("read", query, parameters)[0][0])

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._drop_idle()

    def rows(self, doing: str, statement: str, parameters: Any) -> list[tuple[Any, ...]]:
        """What one statement gives, which is a transaction of its own and may be done twice. Raises StoreUnavailable, Closed."""
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise StoreUnavailable(
                f"cannot {doing} {self._database.name}: {MOST_CONNECTIONS} others wait for its answer"
            )
        try:
            with self._database.errors(doing):
                kept = self._take()
                if kept is not None:
                    try:
                        return self._ask(kept, statement, parameters)
                    except self._database.driver.OperationalError:
                        if not kept.closed:
                            raise
                        self._drop_idle()  # the server was restarted, say: once more, over a new one
                return self._ask(self._database.connect(autocommit=True), statement, parameters)
        finally:
            self._free.release()

    def _ask(self, connection: psycopg.Connection[Any], statement: str, parameters: Any) -> list[tuple[Any, ...]]:
        try:
            return connection.cursor(binary=True).execute(statement, parameters).fetchall()
        finally:
            with self._lock:
                keep = not (connection.closed or self._closed) and len(self._idle) < KEPT_CONNECTIONS
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _take(self) -> psycopg.Connection[Any] | None:
        with self._lock:
            if self._closed:
                raise Closed("the journal is closed")
            return self._idle.pop() if self._idle else None

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
