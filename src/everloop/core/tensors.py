"""Tensors as the Open Inference Protocol names them: the datatypes, what a model takes and gives, one named array.

Source: the Open Inference Protocol, version 2, "Tensor Data" and "Tensor Data Types". Row-major, little-endian. BYTES are Python
`bytes` (or `str`) in an array of objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[Any]"
Tensors: TypeAlias = dict[str, Any]
"""Name -> array whose first axis is the batch."""

DATATYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "O",
}
"""The protocol's name -> NumPy's."""


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output; -1 is an axis of any size. The first axis is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Signature(msgspec.Struct, frozen=True):
    """All that a model takes and gives, in its own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Tensor(msgspec.Struct):
    """One named array on its way in or out."""

    name: str
    datatype: str
    data: Any
    """An array of `datatype`, of the tensor's shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.data.shape
        return shape


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a NumPy type. Raises KeyError where it has none (complex numbers, dates)."""
    name = _NAMES.get(dtype.char)
    if name is None:
        return "BYTES" if dtype.kind in "OSU" else _BY_SIZE[dtype.kind + str(dtype.itemsize)]
    return name


def all_finite(array: Array) -> bool:
    """Whether none of these floats is NaN or infinite. One product tells for all of them, unless values are so large that it overflows: a
    fifth of the time that a look at each takes."""
    if array.dtype.itemsize >= 4:
        flat = array.ravel()
        product = float(flat.dot(flat))
        if product - product == 0.0:
            return True
    import numpy as np

    return bool(np.isfinite(array).all())


_NAMES = {"f": "FP32", "d": "FP64", "e": "FP16", "?": "BOOL", "b": "INT8", "B": "UINT8", "O": "BYTES"}
"""By NumPy's character, where that means the same on every machine."""
_BY_SIZE = {("b1" if name == "BOOL" else code.lstrip("<")): name for name, code in DATATYPES.items() if name != "BYTES"}
