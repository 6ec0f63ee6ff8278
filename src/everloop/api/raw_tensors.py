"""Tensors as bytes: little-endian and row by row; BYTES each behind its length in four bytes.

The form of the Open Inference Protocol's binary extension over HTTP and of `raw_input_contents` over gRPC. Reading copies
nothing but BYTES: an array looks into the message that it came in, and cannot be written to.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from everloop.core.errors import InvalidInput
from everloop.core.tensors import DATATYPES, Array

MOST_AXES = 32
"""As many as every NumPy takes."""
MOST_SIZE = 2**31 - 1
"""Of one axis."""
_LENGTH = struct.Struct("<I")
_TYPES = {name: np.dtype(code) for name, code in DATATYPES.items()}


def dtype_of(datatype: str, field: str) -> np.dtype[Any]:
    """Raises InvalidInput where the protocol has no such datatype."""
    found = _TYPES.get(datatype)
    if found is None:
        raise InvalidInput(
            f"{field}: there is no datatype {datatype[:40]!r}; there are {', '.join(DATATYPES)}",
            field=f"{field}.datatype",
        )
    return found


def size_of(shape: Sequence[int], field: str) -> int:
    """The number of values. Raises InvalidInput for a shape that nothing can have."""
    if len(shape) > MOST_AXES:
        raise InvalidInput(
            f"{field}: a shape of {len(shape)} axes, expected at most {MOST_AXES}", field=f"{field}.shape"
        )
    for axis in shape:
        if not 0 <= axis <= MOST_SIZE:
            raise InvalidInput(f"{field}: {list(shape)} is no shape: every axis has a size", field=f"{field}.shape")
    return math.prod(shape)


def read_raw(data: bytes | memoryview, datatype: str, shape: tuple[int, ...], field: str) -> Array:
    """The array in `data`. Raises InvalidInput, naming `field`, unless it is as large as its datatype and shape say."""
    dtype = dtype_of(datatype, field)
    size = size_of(shape, field)
    if datatype == "BYTES":
        return _read_bytes(data, size, shape, field)
    if len(data) != size * dtype.itemsize:
        raise InvalidInput(
            f"{field}: {len(data)} bytes of data, expected {size * dtype.itemsize}: {size} {datatype} of {dtype.itemsize} each",
            field=field,
        )
    array = shaped(np.frombuffer(data, dtype), shape, field)
    if datatype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        array = array.view(np.uint8) != 0  # bytes that are no truth values would stay what they are
    return array


def shaped(flat: Array, shape: tuple[int, ...], field: str) -> Array:
    """Raises InvalidInput for axes beyond what an array can have, though one of them is 0."""
    try:
        return flat.reshape(shape)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{field}: {list(shape)} is no shape of an array", field=f"{field}.shape") from None


def write_raw(array: Array, datatype: str) -> bytes:
    """What `read_raw` reads."""
    if datatype != "BYTES":
        return array.astype(_TYPES[datatype], copy=False).tobytes()
    parts: list[bytes] = []
    for value in array.ravel().tolist():
        encoded = value if isinstance(value, bytes) else str(value).encode()
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def _read_bytes(data: bytes | memoryview, size: int, shape: tuple[int, ...], field: str) -> Array:
    if size * _LENGTH.size > len(data):  # told before anything of that size is made
        raise InvalidInput(f"{field}: {len(data)} bytes of data cannot hold {size} BYTES", field=field)
    values: list[bytes] = []
    at, end = 0, len(data)
    while at < end and len(values) < size:
        start = at + _LENGTH.size
        if start > end or (stop := start + _LENGTH.unpack_from(data, at)[0]) > end:
            raise InvalidInput(f"{field}: value {len(values)} of its BYTES goes beyond the data", field=field)
        values.append(bytes(data[start:stop]))
        at = stop
    if at != end or len(values) != size:
        raise InvalidInput(f"{field}: its data holds another number of BYTES than {size}", field=field)
    array: Array = np.empty(size, object)
    array[:] = values
    return shaped(array, shape, field)
