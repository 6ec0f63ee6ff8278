"""One group commit in PostgreSQL: two round trips inside a transaction of the writer's.

The first sends, in one pipeline, the INSERT of all predictions and the look-ups of what the labels refer to; the second the
INSERTs of new examples, keys and events. Each statement takes its rows as
arrays, one a column, so its text never changes and the server keeps its plan.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from everloop.stores.group import Answered, Found, Group, Joiner, QueuedAppend, addresses_of, keys_of
from everloop.stores.joining import load_outcomes
from everloop.stores.ports import Appended
from everloop.stores.rows import EVENT_COLUMNS, EXAMPLE_COLUMNS, KEY_COLUMNS, PREDICTION_COLUMNS, unpack_answers

if TYPE_CHECKING:
    import psycopg

_KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "text": ("text", str),
    "number": ("bigint", int),
    "real": ("double precision", float),
    "truth": ("boolean", bool),
    "bytes": ("bytea", bytes),
}
_COLUMNS = {
    "version": "number", "first": "number", "count": "number", "rows": "number", "number": "number", "place": "number",
    "record": "number", "at": "real", "shadow": "truth", "validation": "truth", "answers": "bytes", "features": "bytes",
    "row": "bytes", "hash": "bytes",
}  # fmt: skip
"""What is no text."""


class _Insert:
    """The INSERT of any number of rows into one table; `id` is what their ids follow, a column of `journal_state`."""

    def __init__(self, table: str, columns: str, after: str = "") -> None:
        names = columns.split(", ")
        kinds = [_KINDS[_COLUMNS.get(name, "text")] for name in names]
        self._casts = [cast for _, cast in kinds]
        arrays = ", ".join(f"%b::{kind}[]" for kind, _ in kinds)
        into = f"id, {columns}" if after else columns
        what = f"s.{after} + n.i, " if after else ""
        source = "journal_state s, " if after else ""
        self._statement = (
            f"INSERT INTO {table} ({into}) SELECT {what}{', '.join(f'n.{name}' for name in names)} "  # noqa: S608 - our own names
            f"FROM {source}unnest({arrays}) WITH ORDINALITY AS n({columns}, i)"
        )

    def run(self, connection: psycopg.Connection[Any], rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            connection.execute(
                self._statement,
                [
                    [None if value is None else cast(value) for value in column]
                    for cast, column in zip(self._casts, zip(*rows, strict=True), strict=True)
                ],
            )


_PREDICTIONS = _Insert("predictions", PREDICTION_COLUMNS, "last_prediction")
_EXAMPLES = _Insert("examples", EXAMPLE_COLUMNS, "last_example")
_EVENTS = _Insert("events", EVENT_COLUMNS, "last_event")
_KEYS = _Insert("keys", f"hash, {KEY_COLUMNS}")

_WANTED = "unnest(%b::text[], %b::bigint[], %b::bigint[]) WITH ORDINALITY AS w(lane, number, place, i)"
_LABELLED = f"""
SELECT w.i, e.id, e.label, e.model
FROM {_WANTED} JOIN examples e ON e.lane = w.lane AND e.number = w.number AND e.place = w.place
"""  # noqa: S608 - our own names
_ANSWERED = f"""
SELECT w.i, p.id, p.model, p.version, p.count, p.rows, at.position, p.encoding, p.coding,
       CASE WHEN p.encoding <> 'msgpack' THEN substr(p.features, (at.position * at.width + 1)::int, at.width::int) END,
       CASE WHEN p.coding = 'f8' THEN substr(p.answers, (at.position * 8 + 1)::int, 8) END
FROM {_WANTED}
CROSS JOIN LATERAL (
    SELECT * FROM predictions WHERE lane = w.lane AND first <= w.number ORDER BY first DESC, id DESC LIMIT 1
) p
CROSS JOIN LATERAL (
    SELECT CASE WHEN w.number < p.first + p.count AND w.place < p.rows
                THEN (w.number - p.first) * p.rows + w.place ELSE 0 END AS position,
           octet_length(p.features) / (p.count * p.rows) AS width
) at
WHERE w.number < p.first + p.count
"""  # noqa: S608 - our own names
_WHOLE = "SELECT id, encoding, features, coding, answers FROM predictions WHERE id = ANY(%b::bigint[])"
_KEYS_THERE = """
SELECT r.model, r.key, r.body, r.outcomes
FROM unnest(%b::text[], %b::bytea[]) AS w(model, hash) JOIN keys r ON r.model = w.model AND r.hash = w.hash
"""

_decode = msgspec.json.Decoder().decode


def write(connection: psycopg.Connection[Any], group: Group) -> list[Appended]:
    """Write the group, in the transaction that the connection is in; what became of each append, in order."""
    with connection.pipeline():
        return _write(connection, group)


def _write(connection: psycopg.Connection[Any], group: Group) -> list[Appended]:
    state = connection.execute("SELECT last_example FROM journal_state")
    _PREDICTIONS.run(connection, [record.parameters for record in group.records])
    appended: list[Appended] = []
    if group.appends:
        joiner = Joiner(group.appends, _look_up(connection, group.appends))
        row = state.fetchone()
        assert row is not None
        joiner.number(row[0] + len(joiner.examples))
        _EXAMPLES.run(connection, joiner.examples)
        _KEYS.run(connection, [(_hash(row[1]), *row) for row in joiner.new_keys()])
        appended = joiner.appended
    _EVENTS.run(connection, [event.parameters for event in group.events])
    return appended


def _look_up(connection: psycopg.Connection[Any], appends: Sequence[QueuedAppend]) -> Found:
    found = Found()
    addresses, keys = addresses_of(appends), keys_of(appends)
    columns = [list(column) for column in zip(*addresses, strict=True)]
    labelled = connection.cursor(binary=True).execute(_LABELLED, columns) if addresses else None
    answered = connection.cursor(binary=True).execute(_ANSWERED, columns) if addresses else None
    there = (
        connection.execute(_KEYS_THERE, [[model for model, _ in keys], [_hash(key) for _, key in keys]])
        if keys
        else None
    )
    if labelled is not None and answered is not None:
        for i, example, label, model in labelled:
            found.labelled[addresses[i - 1]] = (example, _decode(label), model)
        whole = set()
        for i, record, model, version, count, rows, position, encoding, coding, features, answer in answered:
            number = None if answer is None else struct.unpack("<d", answer)[0]
            found.answered[addresses[i - 1]] = Answered(
                record, model, version, count, rows, position, encoding, features or b"", number
            )
            if encoding == "msgpack" or coding != "f8":
                whole.add(record)
        if whole:
            for record, encoding, features, coding, answers in connection.cursor(binary=True).execute(
                _WHOLE, [list(whole)]
            ):
                if encoding == "msgpack":
                    found.features[record] = features
                if coding != "f8":
                    found.answers[record] = unpack_answers(coding, answers)
    for model, key, body, outcomes in there or ():
        found.keys[model, key] = (body, load_outcomes(outcomes))
    return found


def _hash(key: str) -> bytes:
    """A key may be longer than an index entry."""
    return hashlib.sha256(key.encode()).digest()
