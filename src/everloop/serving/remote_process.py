"""What happens in the process of a version beside the champion: open the artifact, try it, then answer matrix by matrix.

Messages are bytes, both ways; what comes back is read by its format alone and never unpickled.

    opening, then the artifact's bytes as they are     ─►  DONE, or REFUSED and why it cannot be opened
    RUN or SCORES and a matrix                         ─►  seconds in the model, then
                                                           ANSWER and an array, DONE (no scores), or FAILED: how, and in which words
    an array: its head's length, head, data            head: msgpack of (dtype, shape); data: as it lies in memory, or msgpack of objects
    seconds: a double, without what it waited for a core
"""

from __future__ import annotations

import math
import re
import struct
import time
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import EverloopError, Failure, ModelFailed
from everloop.core.types import Row
from everloop.parallel.executors.calling import starved
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.session import Matrix, Session
from everloop.serving import confinement
from everloop.stores.ports import Manifest

RUN, SCORES = b"r", b"s"
DONE, ANSWER, FAILED, REFUSED = b"d", b"a", b"f", b"x"
SECONDS = struct.Struct("<d")


class Opening(msgspec.Struct):
    manifest: Manifest
    trust: Trust
    parent: int
    rows: list[Row]
    """To be tried on, one at a time and all at once, as traffic would."""


class Failed(msgspec.Struct):
    how: Failure
    message: str
    told: bool
    """The message is one of ours, and tells all; otherwise what somebody's code raised."""


class RemoteProcess:
    """Made by the process that serves, used in the other one."""

    def __init__(self) -> None:
        self._opening: Opening | None = None
        self._session: Session | None = None

    def __call__(self, data: bytes) -> bytes:
        if self._session is not None:
            return answer(self._session, data)
        if self._opening is None:
            self._opening = decode_opening(data)
            confinement.die_with(self._opening.parent)
            confinement.go_first()
            return DONE
        try:
            self._session = _open(self._opening, data)
        except EverloopError as error:
            return REFUSED + error.message.encode()
        _try(self._session, self._opening.rows)
        confinement.silence()  # until now, its last words tell why it crashed
        return DONE


def _open(asked: Opening, payload: bytes) -> Session:
    return load_session(asked.manifest, payload, trust=asked.trust)


def _try(session: Session, rows: list[Row]) -> None:
    for some in (*([row] for row in rows), rows):
        if some:
            X = session.schema.matrix(some, session.dtype if session.schema.numeric else None)
            answer(session, pack_array(X, RUN))  # what it raises on these rows the gates will see


def answer(session: Session, data: bytes) -> bytes:
    """A whole reply to RUN or SCORES."""
    X = unpack_array(memoryview(data)[1:])
    waited, worked, begun = starved("thread-self"), time.thread_time(), time.perf_counter()
    told = _run(session, data[:1], X)
    passed, worked = time.perf_counter() - begun, time.thread_time() - worked
    seconds = max(worked, passed - (starved("thread-self") - waited))
    return SECONDS.pack(seconds) + (told if isinstance(told, bytes) else _packed(told))


def _run(session: Session, kind: bytes, X: Matrix) -> bytes | Matrix:
    try:
        with np.errstate(all="ignore"):  # what overflowed is told by its answer, not by a warning
            Y = session.run(X) if kind == RUN else session.scores(X)
        return DONE if Y is None else Y
    except EverloopError as error:
        how = error.how if isinstance(error, ModelFailed) else "raised"
        return FAILED + _encode(Failed(how, error.message, told=True))
    except (Exception, SystemExit) as error:  # a model may well call sys.exit
        return FAILED + _encode(Failed("raised", f"{type(error).__name__}: {error}", told=False))


def _packed(answers: Matrix) -> bytes:
    try:
        return pack_array(answers, ANSWER)
    except (TypeError, ValueError, OverflowError) as error:
        return FAILED + _encode(Failed("shape", f"it answered what is no label: {error}", told=False))


# -- arrays --

_PLAIN = re.compile(r"[<>|=][biufUS]\d+")
"""Types whose data is what it is, wherever it lies: nothing in it points anywhere."""
_LENGTH = 2

_decode_head = msgspec.msgpack.Decoder(tuple[str, list[int]]).decode
_decode_objects = msgspec.msgpack.Decoder(list[str | int | float | bool | None]).decode
decode_opening = msgspec.msgpack.Decoder(Opening).decode
decode_failed = msgspec.msgpack.Decoder(Failed).decode


def pack_array(array: Matrix, kind: bytes) -> bytes:
    """`kind`, then the array. Raises TypeError for objects that are no labels or features."""
    array = np.ascontiguousarray(array)
    plain = _PLAIN.fullmatch(array.dtype.str) is not None
    head = _encode(("O" if not plain else array.dtype.str, array.shape))
    data: bytes | memoryview = array.data if plain else _encode(array.ravel().tolist())
    return b"".join((kind, len(head).to_bytes(_LENGTH, "little"), head, data))


def unpack_array(data: memoryview) -> Matrix:
    """An array of its own, writable. Raises ValueError, or what msgspec raises, for anything else than `pack_array` made."""
    start = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    dtype, shape = _decode_head(data[_LENGTH:start])
    size = math.prod(shape)
    if min(shape, default=0) < 0:
        raise ValueError(f"no array has the shape {shape}")
    if dtype == "O":
        objects = _decode_objects(data[start:])
        if len(objects) != size:
            raise ValueError(f"{len(objects)} objects for an array of shape {shape}")
        array = np.empty(size, dtype=object)
        array[:] = objects
        return array.reshape(shape)
    if _PLAIN.fullmatch(dtype) is None:
        raise ValueError(f"arrays of type {dtype!r} are not sent")
    kind = np.dtype(dtype)
    if len(data) - start != size * kind.itemsize:
        raise ValueError(f"{len(data) - start} bytes for an array of {dtype} and shape {shape}")
    return np.frombuffer(data, kind, size, start).reshape(shape).copy()


def _plain_value(value: Any) -> Any:
    """NumPy's scalars, in an array of objects."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is no label")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain_value).encode
