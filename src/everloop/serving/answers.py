"""What a version answered, as the cache keeps it: unchangeable, of a known size, and as bytes that run nothing when they are read.

The predictions of rows are a tuple, one entry a row; tensors are a mapping from their names to arrays. The bytes are one letter that
says which, then MessagePack; a tensor is its dtype in NumPy's notation, its shape, and its content (a list of texts where that
is objects).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np

Answers: TypeAlias = "tuple[Any, ...] | Mapping[str, Any]"
ROWS, TENSORS = b"r", b"t"
SCALAR_BYTES = 40
OBJECT_BYTES = 48
"""What a Python object takes about itself."""
_Tensor: TypeAlias = "tuple[str, list[int], bytes | list[Any]]"
_rows = msgspec.msgpack.Decoder(tuple[Any, ...])
_tensors = msgspec.msgpack.Decoder(dict[str, tuple[str, list[int], bytes | list[Any]]])


def freeze(answers: Any) -> Answers:
    """A list of predictions, or tensors by name, so that nobody who is given it can change it for others. Copies tensors: they may be
    parts of a whole batch."""
    if isinstance(answers, Mapping):
        return {name: _frozen(np.array(array)) for name, array in answers.items()}
    return tuple(answers)


def size_of(answers: Answers) -> int:
    """About as many bytes as it takes in memory."""
    if isinstance(answers, tuple):
        return sum(SCALAR_BYTES + len(value) if isinstance(value, (str, bytes)) else SCALAR_BYTES for value in answers)
    return sum(
        OBJECT_BYTES * 4
        + len(name)
        + array.nbytes
        + (sum(map(_object_size, array.flat)) if array.dtype.hasobject else 0)
        for name, array in answers.items()
    )


def pack_answers(answers: Answers) -> bytes | None:
    """None: it holds what MessagePack cannot tell."""
    try:
        if isinstance(answers, tuple):
            return ROWS + msgspec.msgpack.encode(answers)
        return TENSORS + msgspec.msgpack.encode({name: _packed(array) for name, array in answers.items()})
    except (TypeError, ValueError, OverflowError):
        return None


def unpack_answers(packed: bytes) -> Answers | None:
    """None: it is not what `pack_answers` writes."""
    try:
        if packed[:1] == ROWS:
            return _rows.decode(packed[1:])
        if packed[:1] == TENSORS:
            return {name: _unpacked(*parts) for name, parts in _tensors.decode(packed[1:]).items()}
    except (msgspec.DecodeError, TypeError, ValueError):
        return None
    return None


def _packed(array: Any) -> _Tensor:
    if array.dtype.hasobject:
        return "O", list(array.shape), array.ravel().tolist()
    return array.dtype.str, list(array.shape), array.tobytes()


def _unpacked(dtype: str, shape: list[int], content: bytes | list[Any]) -> Any:
    if isinstance(content, list):
        array = np.empty(len(content), object)
        array[:] = content
        return _frozen(array.reshape(shape))
    return _frozen(np.frombuffer(content, np.dtype(dtype)).reshape(shape))


def _frozen(array: Any) -> Any:
    array.setflags(write=False)
    return array


def _object_size(value: Any) -> int:
    return OBJECT_BYTES + len(value) if isinstance(value, (str, bytes)) else OBJECT_BYTES
