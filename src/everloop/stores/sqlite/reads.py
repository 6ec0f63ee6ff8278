"""Reading the journal, beside the writer: connections of their own, which SQLite's write-ahead log never blocks.

What the learner reads in thousands comes as one row of JSON (see `group` for why); what people read, row by row.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from everloop.core.errors import Closed
from everloop.core.events import Event
from everloop.core.schema import Encoding
from everloop.core.types import Example, PredictionRecord, Scalar, request_id
from everloop.stores.joining import unpack_row
from everloop.stores.ports import Checkpoint
from everloop.stores.sqlite.file import connect, store_errors

_KEPT_CONNECTIONS = 4

_EXAMPLES = """
SELECT json_group_array(json_array(
    id, printf('%!.17g', at), label, prediction, version, lane, number, place, validation, encoding, hex(row)
)) FROM (SELECT * FROM examples WHERE model = ?1 AND id > ?2 ORDER BY id {order} LIMIT ?3)
"""
_PREDICTIONS = """
SELECT id, model, version, lane, first, count, rows, at, encoding, features, coding, answers, shadow
FROM predictions WHERE model = ? AND id > ? ORDER BY id {order} LIMIT ?
"""
_EVENTS = """
SELECT model, kind, at, message, version, data, id FROM events
WHERE (?1 IS NULL OR model = ?1) AND id > ?2 ORDER BY id {order} LIMIT ?3
"""
_USED_BYTES = """
SELECT (SELECT page_count FROM pragma_page_count) - (SELECT freelist_count FROM pragma_freelist_count),
       (SELECT page_size FROM pragma_page_size)
"""

_ExampleRow = tuple[int, str, str, str | None, int | None, str | None, int | None, int, int, Encoding, str]
_decode_examples = msgspec.json.Decoder(list[_ExampleRow]).decode
_decode = msgspec.json.Decoder().decode


def used_bytes(connection: sqlite3.Connection) -> int:
    """What the file holds, free pages aside."""
    pages, size = connection.execute(_USED_BYTES).fetchone()
    return int(pages * size)


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
        found = [_example(model, row) for row in _decode_examples(text)]
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
        query = _PREDICTIONS.format(order="DESC" if latest else "ASC")
        with self._connection() as connection:
            rows = connection.execute(query, (model, after, max(limit, 0))).fetchall()
        found = [(row[0], _record(row)) for row in rows]
        return found[::-1] if latest else found

    def events(self, model: str | None, *, after: int, limit: int, latest: bool) -> list[Event]:
        query = _EVENTS.format(order="DESC" if latest else "ASC")
        with self._connection() as connection:
            rows = connection.execute(query, (model, after, max(limit, 0))).fetchall()
        found = [_event(row) for row in rows]
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


def _example(model: str, row: _ExampleRow) -> Example:
    id_, at, label, prediction, version, lane, number, place, validation, encoding, packed = row
    answer: Scalar | None = None if prediction is None else _decode(prediction)
    return Example(
        id=id_,
        model=model,
        row=unpack_row(encoding, bytes.fromhex(packed)),
        label=_decode(label),
        at=float(at),
        request_id=None if lane is None or number is None else request_id(lane, number),
        index=place,
        prediction=answer,
        version=version,
        validation=bool(validation),
    )


def _unpack_answers(coding: str, answers: bytes) -> list[Any]:
    if coding == "f8":
        return list(struct.unpack(f"<{len(answers) // 8}d", answers))
    decoded: list[Any] = msgspec.msgpack.decode(answers)
    return decoded


def _record(row: tuple[Any, ...]) -> PredictionRecord:
    _, model, version, lane, first, count, rows, at, encoding, features, coding, answers, shadow = row
    predictions = _unpack_answers(coding, answers)
    return PredictionRecord(
        model, version, lane, first, count, rows, at, encoding, features, predictions, shadow=bool(shadow)
    )


def _event(row: tuple[Any, ...]) -> Event:
    model, kind, at, message, version, data, id_ = row
    return Event(model, kind, at, message, version, _decode(data), id_)
