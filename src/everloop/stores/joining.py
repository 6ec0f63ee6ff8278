"""How a label meets its prediction: request ids, packed rows, and what is said when they do not meet.

All journals share these, so that they agree to the letter. Pure functions; a row is kept packed (eight bytes a number, or
msgpack where there is text) and becomes a list only when somebody reads it.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from everloop.core.errors import Conflict, EverloopError, InvalidInput, PredictionNotFound
from everloop.core.events import Event
from everloop.core.schema import Encoding
from everloop.core.types import SHADOW_MARK, Label, PredictionRecord, Row, Scalar, parse_request_id

_WIDTH = {"f4": 4, "f8": 8}
_FORMAT = {"f4": "f", "f8": "d"}
_NAN = float("nan")
_LARGEST = 2**63 - 1

Address = tuple[str, int, int]
"""One answered row: lane key, request number, index within the request."""


def address_of(label: Label) -> Address | None:
    """What the label refers to; None if it can refer to nothing that was ever recorded."""
    assert label.request_id is not None
    try:
        lane_key, number = parse_request_id(label.request_id)
    except ValueError:
        return None
    if not 0 <= number <= _LARGEST or not 0 <= label.index <= _LARGEST or not lane_key.isascii():
        return None
    if "\0" in lane_key or SHADOW_MARK in lane_key:
        return None
    return lane_key, number, label.index


def check_label(label: Label) -> None:
    """Raises InvalidInput unless it comes either by request id or with its own row."""
    if (label.request_id is None) == (label.row is None):
        raise InvalidInput("a label comes either by request_id or with its own features", field="request_id")


def storable(text: str, field: str) -> str:
    """Raises InvalidInput for what a database would cut short or refuse."""
    if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
        raise InvalidInput(f"{field}: {text[:60]!r} holds characters that cannot be stored", field=field)
    return text


def event_values(event: Event) -> tuple[str, str, float, str, int | None, str]:
    """Model, kind, at, message, version and data (JSON) of an event, as databases keep them. Raises InvalidInput."""
    try:
        data = msgspec.json.encode(event.data).decode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the event's data cannot be stored: {error}", field="data") from error
    message = storable(event.message, "message")
    return storable(event.model, "model"), event.kind, event.at, message, event.version, data


def pack_row(row: Row) -> tuple[Encoding, bytes]:
    """Numbers and None as little-endian float64 (None as NaN), anything else as msgpack. Raises InvalidInput."""
    try:
        return "f8", struct.pack(f"<{len(row)}d", *row)
    except (struct.error, OverflowError):  # text, a missing value, or an integer beyond float64
        pass
    if all(value is None or isinstance(value, float) for value in row):
        return "f8", struct.pack(f"<{len(row)}d", *[_NAN if value is None else value for value in row])
    try:
        return "msgpack", msgspec.msgpack.encode(row)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"features: these cannot be stored: {error}", field="features") from error


def unpack_row(encoding: str, data: bytes) -> Row:
    """The inverse of `pack_row`; NaN comes back as None."""
    if encoding == "msgpack":
        row: Row = msgspec.msgpack.decode(data)
        return row
    values = struct.unpack(f"<{len(data) // _WIDTH[encoding]}{_FORMAT[encoding]}", data)
    return [None if value != value else value for value in values]


def packed_row(encoding: str, features: bytes, total: int, position: int) -> bytes:
    """One of `total` rows that were packed together by `core.schema.pack_rows`, in the form `unpack_row` takes."""
    if encoding == "msgpack":
        return msgspec.msgpack.encode(msgspec.msgpack.decode(features)[position])
    size = len(features) // total
    return features[position * size : (position + 1) * size]


def check_record(record: PredictionRecord) -> None:
    """Raises InvalidInput where the record's parts do not fit together: it could never be joined."""
    total = record.count * record.rows
    if record.count < 1 or record.rows < 1 or record.first < 0 or record.first + record.count > _LARGEST:
        raise InvalidInput(
            f"a prediction record covers at least one row, got first={record.first} count={record.count} "
            f"rows={record.rows}",
            field="count",
        )
    if len(record.predictions) != total:
        raise InvalidInput(
            f"a prediction record of {total} rows needs as many predictions, got {len(record.predictions)}",
            field="predictions",
        )
    width = _WIDTH.get(record.encoding)
    if width is not None and len(record.features) % (total * width):
        raise InvalidInput(
            f"{len(record.features)} bytes of features do not divide into {total} rows of {record.encoding}",
            field="features",
        )


def not_found(label: Label) -> PredictionNotFound:
    row = f" (index {label.index})" if label.index else ""
    return PredictionNotFound(
        f"no recorded prediction of {label.model!r} has the request id {label.request_id!r}{row}: it was never made, was not "
        "sampled for recording, or is past retention; send the label with its features instead",
        field="request_id",
    )


def no_such_row(label: Label, rows: int) -> PredictionNotFound:
    return PredictionNotFound(
        f"request {label.request_id!r} had {rows} row{'s' if rows > 1 else ''}, so index {label.index} does not exist",
        field="index",
    )


def conflicting(label: Label, first: Scalar) -> Conflict:
    return Conflict(
        f"request {label.request_id!r} (index {label.index}) was already labelled {first!r}, not {label.label!r}",
        field="label",
    )


def reused_key(key: str) -> Conflict:
    return Conflict(
        f"the idempotency key {key!r} was already used with another body; use a new key for a new request",
        field="Idempotency-Key",
    )


def dump_outcomes(outcomes: list[int | EverloopError]) -> bytes:
    """Outcomes as JSON, to be given again when the idempotency key comes back."""
    return msgspec.json.encode(
        [o if isinstance(o, int) else {"code": o.code, "message": o.message, "field": o.field} for o in outcomes]
    )


def load_outcomes(data: bytes | str) -> list[int | EverloopError]:
    refused: dict[str, type[EverloopError]] = {e.code: e for e in (PredictionNotFound, Conflict, InvalidInput)}
    outcomes: list[int | EverloopError] = []
    for kept in msgspec.json.decode(data):
        if isinstance(kept, int):
            outcomes.append(kept)
        else:
            error: dict[str, Any] = kept
            outcomes.append(refused[error["code"]](error["message"], field=error["field"]))
    return outcomes
