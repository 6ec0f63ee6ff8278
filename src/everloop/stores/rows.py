"""Predictions, examples and events as rows of a database's tables, and back.

A label and an answer are JSON; the answers of a record are eight bytes a number, or msgpack where one is no number.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from everloop.core.errors import InvalidInput
from everloop.core.events import Event
from everloop.core.types import Example, PredictionRecord, request_id
from everloop.stores.joining import unpack_row

PREDICTION_COLUMNS = "model, version, lane, first, count, rows, at, encoding, coding, answers, features, shadow"
EXAMPLE_COLUMNS = "model, label, at, lane, number, place, prediction, version, validation, record, encoding, row"
EVENT_COLUMNS = "model, kind, at, message, version, data"
EXAMPLE_READ = "id, at, label, prediction, version, lane, number, place, validation, encoding, row"
KEY_COLUMNS = "model, key, body, outcomes, at"

_decode = msgspec.json.Decoder().decode


def pack_answers(predictions: list[Any]) -> tuple[str, bytes]:
    if set(map(type, predictions)) == {float}:
        return "f8", struct.pack(f"<{len(predictions)}d", *predictions)
    try:
        return "msgpack", msgspec.msgpack.encode(predictions)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"predictions: these cannot be stored: {error}", field="predictions") from error


def unpack_answers(coding: str, answers: bytes) -> list[Any]:
    if coding == "f8":
        return list(struct.unpack(f"<{len(answers) // 8}d", answers))
    decoded: list[Any] = msgspec.msgpack.decode(answers)
    return decoded


def record_of(row: tuple[Any, ...]) -> tuple[int, PredictionRecord]:
    """From id and `PREDICTION_COLUMNS`."""
    id_, model, version, lane, first, count, rows, at, encoding, coding, answers, features, shadow = row
    predictions = unpack_answers(coding, answers)
    return id_, PredictionRecord(
        model, version, lane, first, count, rows, at, encoding, features, predictions, shadow=bool(shadow)
    )


def event_of(row: tuple[Any, ...]) -> Event:
    """From id and `EVENT_COLUMNS`."""
    id_, model, kind, at, message, version, data = row
    return Event(model, kind, at, message, version, _decode(data), id_)


def example_of(model: str, row: tuple[Any, ...]) -> Example:
    """From `EXAMPLE_READ`."""
    id_, at, label, prediction, version, lane, number, place, validation, encoding, packed = row
    return Example(
        id=id_,
        model=model,
        row=unpack_row(encoding, packed),
        label=_decode(label),
        at=at,
        request_id=None if lane is None else request_id(lane, number),
        index=place,
        prediction=None if prediction is None else _decode(prediction),
        version=version,
        validation=bool(validation),
    )
