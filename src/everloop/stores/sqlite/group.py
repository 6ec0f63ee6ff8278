"""One group commit: what the queue held, turned into one transaction of very few statements.

Theory of operation. Python's `sqlite3` gives up the GIL around every step of a statement, and under load getting it back
costs up to the interpreter's switch interval. So a group is: begin, one INSERT of all predictions, one SELECT that gives one
row with everything the labels refer to, one INSERT of all new examples, one of all new keys and events, commit. Predictions
go in first, so that a label finds what was recorded before it.

Ids come from AUTOINCREMENT: within one INSERT they are consecutive, so the last one tells them all.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from everloop.core.errors import EverloopError, InvalidInput
from everloop.core.events import Event
from everloop.core.schema import Encoding
from everloop.core.types import Label, PredictionRecord, Scalar
from everloop.stores.joining import (
    Address,
    address_of,
    check_label,
    check_record,
    conflicting,
    dump_outcomes,
    event_values,
    load_outcomes,
    no_such_row,
    not_found,
    pack_row,
    packed_row,
    reused_key,
    storable,
)
from everloop.stores.ports import AppendDone, Appended

_AT_ONCE = 64
"""Rows a statement inserts: each number of rows up to this is a statement of its own in the cache."""

_PREDICTION_COLUMNS = "model, version, lane, first, count, rows, at, encoding, coding, answers, features, shadow"
_EXAMPLE_COLUMNS = "model, label, at, lane, number, place, prediction, version, validation, record, encoding, row"
_EVENT_COLUMNS = "model, kind, at, message, version, data"
_KEY_COLUMNS = "model, key, body, outcomes, at"

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
        SELECT json_group_array(json_array(w.i, e.id, e.label))
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


class _Found(msgspec.Struct):
    """What `_LOOK_UP` answers."""

    labelled: list[tuple[int, int, str]]
    answered: list[tuple[int, int, str, int, int, int, int, Encoding, str, str]]
    whole: list[tuple[int, str, str]]
    keys: list[tuple[str, str, str, str]]


_decode_found = msgspec.json.Decoder(_Found).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class QueuedRecord(msgspec.Struct, frozen=True):
    parameters: tuple[Any, ...]
    size: int

    @classmethod
    def of(cls, record: PredictionRecord) -> QueuedRecord:
        """Raises InvalidInput: on the caller's thread, so that nothing that cannot be stored ever joins a group."""
        check_record(record)
        coding, answers = _pack_answers(record.predictions)
        return cls(
            (
                storable(record.model, "model"),
                record.version,
                storable(record.lane_key, "lane_key"),
                record.first,
                record.count,
                record.rows,
                record.at,
                record.encoding,
                coding,
                answers,
                record.features,
                record.shadow,
            ),
            len(record.features) + len(answers) + 200,
        )


class QueuedEvent(msgspec.Struct, frozen=True):
    parameters: tuple[Any, ...]

    @classmethod
    def of(cls, event: Event) -> QueuedEvent:
        """Raises InvalidInput."""
        return cls(event_values(event))


class QueuedAppend(msgspec.Struct):
    """One call of `append`, with all that can be done before the commit done."""

    labels: Sequence[Label]
    texts: list[str]
    """The labels as JSON."""
    rows: list[tuple[Encoding, bytes] | None]
    addresses: list[Address | None]
    key: tuple[str, str] | None
    body: str
    at: float
    done: AppendDone

    @classmethod
    def of(cls, labels: Sequence[Label], done: AppendDone, *, key: str, body: str, at: float) -> QueuedAppend:
        """Raises InvalidInput."""
        texts: list[str] = []
        rows: list[tuple[Encoding, bytes] | None] = []
        addresses: list[Address | None] = []
        for label in labels:
            check_label(label)
            storable(label.model, "model")
            try:
                texts.append(_encode(label.label).decode())
            except (TypeError, ValueError) as error:
                raise InvalidInput(f"label: {label.label!r} cannot be stored: {error}", field="label") from error
            if label.row is None:
                rows.append(None)
                addresses.append(address_of(label))
            else:
                rows.append(pack_row(label.row))
                addresses.append(None)
        return cls(
            labels,
            texts,
            rows,
            addresses,
            (labels[0].model, storable(key, "Idempotency-Key")) if key and labels else None,
            storable(body, "body"),
            at,
            done,
        )


class Group(msgspec.Struct):
    """What one transaction takes from the queue."""

    records: list[QueuedRecord]
    appends: list[QueuedAppend]
    events: list[QueuedEvent]


def commit(connection: sqlite3.Connection, group: Group) -> list[Appended]:
    """Write the group; what became of each append, in order. Raises sqlite3.Error, then nothing was written."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if group.records:
            _insert(connection, "predictions", _PREDICTION_COLUMNS, [r.parameters for r in group.records])
        appended = _Joiner(connection, group.appends).run() if group.appends else []
        if group.events:
            _insert(connection, "events", _EVENT_COLUMNS, [e.parameters for e in group.events])
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return appended


class _Joiner:
    """The labels of one group: found, checked against what is there and against each other, inserted."""

    def __init__(self, connection: sqlite3.Connection, appends: list[QueuedAppend]) -> None:
        self._connection = connection
        self._appends = appends
        self._labelled: dict[Address, tuple[int, Scalar]] = {}  # ids below 0: the n-th example of this group
        self._answered: dict[Address, tuple[int, int, str, int, int, int, int, Encoding, str, str]] = {}
        self._features: dict[int, bytes] = {}
        self._answers: dict[int, list[Any]] = {}
        self._keys: dict[tuple[str, str], tuple[str, list[int | EverloopError]]] = {}
        self._new: list[tuple[Any, ...]] = []

    def run(self) -> list[Appended]:
        self._look_up()
        appended = [self._take(one) for one in self._appends]
        if self._new:
            last = _insert(self._connection, "examples", _EXAMPLE_COLUMNS, self._new)
            base = last - len(self._new)
            for one in appended:
                # The lists are shared with `_keys`, so a key keeps the final ids, too.
                one.outcomes[:] = [base - o if isinstance(o, int) and o < 0 else o for o in one.outcomes]
        keys = [
            (*a.key, a.body, dump_outcomes(o.outcomes).decode(), a.at)
            for a, o in zip(self._appends, appended, strict=True)
            if a.key is not None and self._keys.get(a.key, ("", None))[1] is o.outcomes
        ]
        if keys:
            _insert(self._connection, "keys", _KEY_COLUMNS, keys)
        return appended

    def _look_up(self) -> None:
        addresses = list({a: None for one in self._appends for a in one.addresses if a is not None})
        keys = [one.key for one in self._appends if one.key is not None]
        if not addresses and not keys:
            return
        (text,) = self._connection.execute(_LOOK_UP, (_encode(addresses).decode(), _encode(keys).decode())).fetchone()
        found = _decode_found(text)
        for i, example, label in found.labelled:
            self._labelled[addresses[i]] = (example, _decode(label))
        for answer in found.answered:
            self._answered[addresses[answer[0]]] = answer
        for record, features, answers in found.whole:
            if features:
                self._features[record] = bytes.fromhex(features)
            if answers:
                self._answers[record] = msgspec.msgpack.decode(bytes.fromhex(answers))
        for model, key, body, outcomes in found.keys:
            self._keys[model, key] = (body, load_outcomes(outcomes))

    def _take(self, one: QueuedAppend) -> Appended:
        if one.key is not None and one.key in self._keys:
            body, first = self._keys[one.key]
            if body != one.body:
                return Appended([reused_key(one.key[1]) for _ in one.labels])
            return Appended(list(first), duplicate=True)
        before = len(self._new)
        outcomes = [self._add(one, i, label) for i, label in enumerate(one.labels)]
        accepted = any(isinstance(outcome, int) for outcome in outcomes)
        if one.key is not None and accepted:
            self._keys[one.key] = (one.body, outcomes)
        there = accepted and len(self._new) == before and all(isinstance(o, int) for o in outcomes)
        return Appended(outcomes, duplicate=there)

    def _add(self, one: QueuedAppend, i: int, label: Label) -> int | EverloopError:
        packed = one.rows[i]
        if packed is not None:
            return self._keep(
                (label.model, one.texts[i], label.at, None, None, 0, None, None, label.validation, 0, *packed)
            )
        address = one.addresses[i]
        if address is None:
            return not_found(label)
        there = self._labelled.get(address)
        if there is not None:
            return there[0] if there[1] == label.label else conflicting(label, there[1])
        answered = self._answered.get(address)
        if answered is None:
            return not_found(label)
        _, record, model, version, count, rows, position, encoding, features, answer = answered
        if model != label.model:
            return not_found(label)
        if label.index >= rows:
            return no_such_row(label, rows)
        if encoding == "msgpack":
            row = packed_row(encoding, self._features[record], count * rows, position)
        else:
            row = bytes.fromhex(features)
        prediction = struct.unpack("<d", bytes.fromhex(answer))[0] if answer else self._answers[record][position]
        example = self._keep(
            (
                model,
                one.texts[i],
                label.at,
                *address,
                _encode(prediction).decode(),
                version,
                label.validation,
                record,
                encoding,
                row,
            )
        )
        self._labelled[address] = (example, label.label)
        return example

    def _keep(self, parameters: tuple[Any, ...]) -> int:
        self._new.append(parameters)
        return -len(self._new)


def _pack_answers(predictions: list[Any]) -> tuple[str, bytes]:
    if set(map(type, predictions)) == {float}:
        return "f8", struct.pack(f"<{len(predictions)}d", *predictions)
    try:
        return "msgpack", msgspec.msgpack.encode(predictions)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"predictions: these cannot be stored: {error}", field="predictions") from error


def _insert(connection: sqlite3.Connection, table: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """The last row's id. All ids are consecutive: the transaction has the file to itself."""
    last = 0
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        one = f"({','.join('?' * len(some[0]))})"
        statement = f"INSERT INTO {table} ({columns}) VALUES {','.join([one] * len(some))}"  # noqa: S608 - our own names
        last = connection.execute(statement, [value for row in some for value in row]).lastrowid or 0
    return last
