"""Reading the journal, beside the writer: connections of their own, which SQLite's write-ahead log never blocks.

What the learner reads in thousands comes as one row of JSON (see `group` for why); what people read, row by row.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from everloop.core.errors import Closed
from everloop.core.events import Event
from everloop.core.schema import Encoding
from everloop.core.types import Example, PredictionRecord
from everloop.stores.ports import Checkpoint
from everloop.stores.rows import EVENT_COLUMNS, PREDICTION_COLUMNS, event_of, example_of, record_of
from everloop.stores.sqlite.file import connect, store_errors
from everloop.stores.sqlite.space import used_bytes

_KEPT_CONNECTIONS = 4

_EXAMPLES = """
SELECT json_group_array(json_array(
    id, printf('%!.17g', at), label, prediction, version, lane, number, place, validation, encoding, hex(row)
)) FROM (SELECT * FROM examples WHERE model = ?1 AND id > ?2 ORDER BY id {order} LIMIT ?3)
"""
_PREDICTIONS = """
SELECT id, {columns} FROM predictions WHERE model = ? AND id > ? ORDER BY id {order} LIMIT ?
"""
_EVENTS = """
SELECT id, {columns} FROM events
WHERE (?1 IS NULL OR model = ?1) AND id > ?2 ORDER BY id {order} LIMIT ?3
"""

_ExampleRow = tuple[int, str, str, str | None, int | None, str | None, int | None, int, int, Encoding, str]
_decode_examples = msgspec.json.Decoder(list[_ExampleRow]).decode


class Reader:
    """A few connections, handed out one thread at a time."""

    def __init__(self, path: Path, *, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    def examples(self, model: str, *, after: int, limit: int, latest: bool) -> list[Example]:
        query = _EXAMPLES.format(order="DESC" if latest else "ASC")
        with self._connection() as connection:
            (text,) = connection.execute(query, (model, after, max(limit, 0))).fetchone()
        found = [
            example_of(model, (id_, float(at), *rest, bytes.fromhex(packed)))
            for id_, at, *rest, packed in _decode_examples(text)
        ]
        found.sort(key=lambda example: example.id)
        return found

    def count_examples(self, model: str, *, after: int) -> int:
        return self._number("SELECT count(*) FROM examples WHERE model = ? AND id > ?", (model, after))

    def tally(self, what: str, model: str = "") -> int:
        return self._number("SELECT coalesce((SELECT n FROM tallies WHERE what = ? AND model = ?), 0)", (what, model))

    def bytes(self) -> int:
        with self._connection() as connection:
            return used_bytes(connection)

    def predictions(
        self, model: str, *, after: int, limit: int, latest: bool = False
    ) -> list[tuple[int, PredictionRecord]]:
        query = _PREDICTIONS.format(columns=PREDICTION_COLUMNS, order="DESC" if latest else "ASC")
        with self._connection() as connection:
            rows = connection.execute(query, (model, after, max(limit, 0))).fetchall()
        found = [record_of(row) for row in rows]
        return found[::-1] if latest else found

    def events(self, model: str | None, *, after: int, limit: int, latest: bool) -> list[Event]:
        query = _EVENTS.format(columns=EVENT_COLUMNS, order="DESC" if latest else "ASC")
        with self._connection() as connection:
            rows = connection.execute(query, (model, after, max(limit, 0))).fetchall()
        found = [event_of(row) for row in rows]
        return found[::-1] if latest else found

    def checkpoint(self, model: str) -> Checkpoint | None:
        with self._connection() as connection:
            row = connection.execute("SELECT cursor, state, at FROM checkpoints WHERE model = ?", (model,)).fetchone()
        return None if row is None else Checkpoint(*row)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _number(self, query: str, parameters: tuple[Any, ...]) -> int:
        with self._connection() as connection:
            (number,) = connection.execute(query, parameters).fetchone()
        return int(number)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One that nobody else uses meanwhile; not used again after an error."""
        with self._lock:
            if self._closed:
                raise Closed("the journal is closed")
            connection = self._idle.pop() if self._idle else None
        with store_errors(self._path, "read"):
            connection = connection or connect(self._path, busy_timeout=self._busy_timeout)
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
        with self._lock:
            if not self._closed and len(self._idle) < _KEPT_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()
