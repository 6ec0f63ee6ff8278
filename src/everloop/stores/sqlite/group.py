"""One group commit in SQLite: a transaction of very few statements.

Theory of operation. Python's `sqlite3` gives up the GIL around every step of a statement, and under load getting it back
costs up to the interpreter's switch interval. So a group is: begin, one INSERT of all predictions, one SELECT that gives one
row with everything the labels refer to, one INSERT of all new examples, one of all new keys and events, commit.

Ids come from AUTOINCREMENT: within one INSERT they are consecutive, so the last one tells them all.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from everloop.core.errors import StoreUnavailable
from everloop.core.schema import Encoding
from everloop.stores.group import (
    Answered,
    Found,
    Group,
    Joiner,
    QueuedAppend,
    addresses_of,
    keys_of,
)
from everloop.stores.joining import load_outcomes
from everloop.stores.ports import Appended
from everloop.stores.rows import EVENT_COLUMNS, EXAMPLE_COLUMNS, KEY_COLUMNS, PREDICTION_COLUMNS
from everloop.stores.sqlite.file import connect, unavailable

T = TypeVar("T")

_AT_ONCE = 64
"""Rows a statement inserts: each number of rows up to this is a statement of its own in the cache."""

_LOOK_UP = """
WITH
wanted AS MATERIALIZED (
    SELECT key AS i, value ->> 0 AS lane, value ->> 1 AS number, value ->> 2 AS place FROM json_each(?1)
),
joined AS MATERIALIZED (
    SELECT w.i, p.id, length(p.features) / (p.count * p.rows) AS width,
           CASE WHEN w.place < p.rows THEN (w.number - p.first) * p.rows + w.place ELSE 0 END AS position
    FROM wanted w JOIN predictions p ON p.id = (
        SELECT id FROM predictions WHERE lane = w.lane AND first <= w.number ORDER BY first DESC, id DESC LIMIT 1
    )
    WHERE w.number < p.first + p.count
)
SELECT json_object(
    'labelled', (
        SELECT json_group_array(json_array(w.i, e.id, e.label, e.model))
        FROM wanted w JOIN examples e ON e.lane = w.lane AND e.number = w.number AND e.place = w.place
    ),
    'answered', (
        SELECT json_group_array(json_array(
            j.i, p.id, p.model, p.version, p.count, p.rows, j.position, p.encoding,
            CASE WHEN p.encoding = 'msgpack' THEN '' ELSE hex(substr(p.features, j.position * j.width + 1, j.width)) END,
            CASE WHEN p.coding = 'f8' THEN hex(substr(p.answers, j.position * 8 + 1, 8)) ELSE '' END
        ))
        FROM joined j JOIN predictions p ON p.id = j.id
    ),
    'whole', (
        SELECT json_group_array(json_array(
            p.id,
            CASE WHEN p.encoding = 'msgpack' THEN hex(p.features) ELSE '' END,
            CASE WHEN p.coding = 'f8' THEN '' ELSE hex(p.answers) END
        ))
        FROM predictions p
        WHERE p.id IN (SELECT id FROM joined) AND (p.encoding = 'msgpack' OR p.coding <> 'f8')
    ),
    'keys', (
        SELECT json_group_array(json_array(r.model, r.key, r.body, r.outcomes))
        FROM json_each(?2) k JOIN keys r ON r.model = k.value ->> 0 AND r.key = k.value ->> 1
    )
)
"""


class _LookedUp(msgspec.Struct):
    """What `_LOOK_UP` answers."""

    labelled: list[tuple[int, int, str, str]]
    answered: list[tuple[int, int, str, int, int, int, int, Encoding, str, str]]
    whole: list[tuple[int, str, str]]
    keys: list[tuple[str, str, str, str]]


_decode_looked_up = msgspec.json.Decoder(_LookedUp).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class SqliteBackend:
    """The writer's `Backend` for a file."""

    def __init__(self, path: Path, *, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self.name = str(path)

    def connect(self) -> sqlite3.Connection:
        return connect(self._path, busy_timeout=self._busy_timeout)

    def disconnect(self, connection: sqlite3.Connection) -> None:
        connection.close()

    def commit(self, connection: sqlite3.Connection, group: Group) -> list[Appended]:
        return self.run(connection, lambda c: _write(c, group))

    def run(self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    def passing(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.OperationalError)

    def broken(self, error: Exception) -> bool:
        return getattr(error, "sqlite_errorname", "") in ("SQLITE_CORRUPT", "SQLITE_NOTADB")

    def unavailable(self, error: Exception) -> StoreUnavailable:
        return unavailable(self._path, "write", error)


def _write(connection: sqlite3.Connection, group: Group) -> list[Appended]:
    if group.records:
        _insert(connection, "predictions", PREDICTION_COLUMNS, [r.parameters for r in group.records])
    appended: list[Appended] = []
    if group.appends:
        joiner = Joiner(group.appends, _look_up(connection, group.appends))
        if joiner.examples:
            joiner.number(_insert(connection, "examples", EXAMPLE_COLUMNS, joiner.examples))
        _insert(connection, "keys", KEY_COLUMNS, joiner.new_keys())
        appended = joiner.appended
    if group.events:
        _insert(connection, "events", EVENT_COLUMNS, [e.parameters for e in group.events])
    return appended


def _look_up(connection: sqlite3.Connection, appends: Sequence[QueuedAppend]) -> Found:
    addresses, keys = addresses_of(appends), keys_of(appends)
    if not addresses and not keys:
        return Found()
    (text,) = connection.execute(_LOOK_UP, (_encode(addresses).decode(), _encode(keys).decode())).fetchone()
    there = _decode_looked_up(text)
    found = Found()
    for i, example, label, model in there.labelled:
        found.labelled[addresses[i]] = (example, _decode(label), model)
    for i, record, model, version, count, rows, position, encoding, features, answer in there.answered:
        number = struct.unpack("<d", bytes.fromhex(answer))[0] if answer else None
        found.answered[addresses[i]] = Answered(
            record, model, version, count, rows, position, encoding, bytes.fromhex(features), number
        )
    for record, features, answers in there.whole:
        if features:
            found.features[record] = bytes.fromhex(features)
        if answers:
            found.answers[record] = msgspec.msgpack.decode(bytes.fromhex(answers))
    for model, key, body, outcomes in there.keys:
        found.keys[model, key] = (body, load_outcomes(outcomes))
    return found


def _insert(connection: sqlite3.Connection, table: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """The last row's id. All ids are consecutive: the transaction has the file to itself."""
    last = 0
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        one = f"({','.join('?' * len(some[0]))})"
        statement = f"INSERT INTO {table} ({columns}) VALUES {','.join([one] * len(some))}"  # noqa: S608 - our own names
        last = connection.execute(statement, [value for row in some for value in row]).lastrowid or 0
    return last
