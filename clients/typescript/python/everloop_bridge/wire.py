"""Frames and values as they travel: msgpack bodies behind a nine-byte head, arrays with their dtype and shape.

A frame is `<u32 size of the rest> <u8 kind> <u32 call> <msgpack body>`. Within one process a large array is not written into
the frame: its address is, and the memory belongs to the frame. JavaScript copies what an answer lends and then releases the
answer, by the number of its call; Python lends only memory that nobody else can write to meanwhile. What a call lends to Python
is released piece by piece, by pins, when Python's last view of it is gone, or all at once where the call cannot be read.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import struct
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from everloop_bridge import foreign

HEAD = struct.Struct("<IBI")
# What Node asks.
CALL, CANCEL, WARMUP, RELEASE, LISTEN, CLOSE = range(6)
# What Python answers.
RESULT, FAILED, CANCELLED, HELLO, RELEASED, CLOSED, UNREAD = range(16, 23)

ARRAY, ARRAY_AT, BIGINT, BYTES_AT, NAMED = 1, 2, 3, 4, 5
"""Extension types: an array in the frame, an array elsewhere in this process, an integer beyond 64 bits, bytes elsewhere, and
arguments of which some are undefined in JavaScript."""

LARGEST_BODY = 2**32 - 16

BY_ADDRESS = 32_768
"""From this many bytes on, arrays go by address (within one process): below it a copy is cheaper than the pinning."""

_DTYPES = {"|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"}
_VIEW_FORMATS: dict[str, Any] = {
    "|i1": "b", "|u1": "B", "<i2": "h", "<u2": "H", "<i4": "i", "<u4": "I", "<i8": "q", "<u8": "Q", "<f4": "f", "<f8": "d"
}  # fmt: skip
_pack = msgspec.msgpack.encode
_unpack = msgspec.msgpack.decode


class Borrowed:
    """Memory that JavaScript owns, as NumPy takes it; JavaScript keeps it until this object and all views of it are gone."""

    __slots__ = ("__array_interface__", "_pin", "_released")

    def __init__(self, dtype: str, shape: list[int], address: int, pin: int, released: Callable[[int], None]) -> None:
        self.__array_interface__ = {"version": 3, "typestr": dtype, "shape": tuple(shape), "data": (address, False)}
        self._pin = pin
        self._released = released

    def __del__(self) -> None:
        self._released(self._pin)


class Named(dict[str, Any]):
    """Arguments without those that are undefined in JavaScript; these are `absent`."""

    __slots__ = ("absent",)

    def __init__(self, absent: list[str], members: dict[str, Any]) -> None:
        super().__init__(members)
        self.absent = absent


class Own:
    """An array that nobody but the bridge can reach any more."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array


def owned(held: list[Any]) -> Any:
    """The one value in `held`; as `Own` if it is an array of its own memory and `held` has the only reference to it. The list
    is what makes counting exact: a local variable is counted differently from one version of Python to another."""
    numpy = sys.modules.get("numpy")
    if (
        type(held[0]) is getattr(numpy, "ndarray", None)
        and sys.getrefcount(held[0]) == 2
        and held[0].base is None
        and held[0].flags.owndata
        and not weakref.getweakrefcount(held[0])
    ):
        return Own(held[0])
    return held[0]


class Lender(Protocol):
    """Where memory of JavaScript's is noted: `expect` before it is used, `add` when it is free again. `add` runs in
    finalizers, so it takes no lock."""

    def expect(self) -> None: ...

    def add(self, pin: int) -> None: ...


class Codec:
    """Encodes answers and decodes requests of one connection; with a `lender` the other end is in the same process.

    Several threads encode at once: what an answer lends is noted under the thread that encodes it."""

    def __init__(self, lender: Lender | None = None) -> None:
        self._lender = lender
        self._lent: dict[int, list[Any]] = {}
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._foreign)
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self._extension)

    def decode(self, body: memoryview) -> Any:
        return self._decoder.decode(body)

    def encode(self, value: Any) -> bytes:
        """Raises TypeError, naming the place and the type, for what JavaScript has nothing like, and ValueError beyond 4 GB."""
        try:
            return self._body(value)
        except TypeError as error:
            place = foreign.place_in(value, self._refuses)
            raise TypeError(f"{place.lstrip('.')}: {error}" if place else str(error)) from None

    def _refuses(self, value: Any) -> bool:
        try:
            self._body(value)
        except TypeError:
            return True
        self.lent()
        return False

    def _body(self, value: Any) -> bytes:
        try:
            try:
                body = self._encoder.encode(value)
            except OverflowError:
                self.lent()
                body = self._encoder.encode(_widened(value))
        except BaseException:
            self.lent()
            raise
        if len(body) > LARGEST_BODY:
            self.lent()
            raise ValueError("the answer is larger than 4 GB")
        return body

    def lent(self) -> list[Any] | None:
        """The arrays whose addresses are in what this thread encoded last; they are the caller's to keep."""
        return self._lent.pop(threading.get_ident(), None) if self._lent else None

    def _extension(self, code: int, data: memoryview) -> Any:
        if code == ARRAY:
            dtype, shape, content = _unpack(data)
            return _array_of(dtype, shape, content)
        if code == ARRAY_AT:
            dtype, shape, address, pin = _unpack(data)
            return self._array_at(dtype, shape, address, pin)
        if code == BYTES_AT:
            address, size, pin = _unpack(data)
            return self._copied(address, size, pin)
        if code == BIGINT:
            return int.from_bytes(data, "big", signed=True)
        if code == NAMED:
            return Named(*self._decoder.decode(data))
        raise ValueError(f"the frame holds an extension {code} that this version does not know")

    def _array_at(self, dtype: str, shape: list[int], address: int, pin: int) -> Any:
        numpy = _numpy()
        if numpy is None:
            return _array_of(dtype, shape, self._copied(address, _count(shape) * int(dtype[2:]), pin))
        lender = self._owner_of(pin)
        lender.expect()
        return numpy.asarray(Borrowed(dtype, shape, address, pin, lender.add))

    def _copied(self, address: int, size: int, pin: int) -> bytes:
        lender = self._owner_of(pin)
        lender.expect()
        content = ctypes.string_at(address, size)
        lender.add(pin)
        return content

    def _owner_of(self, pin: int) -> Lender:
        if self._lender is None:
            raise ValueError(f"the frame lends memory (pin {pin}), but of another process")
        return self._lender

    def _foreign(self, value: Any) -> Any:
        kind = type(value)
        numpy = sys.modules.get("numpy")
        if kind is Own:
            return self._ndarray(numpy, value.array, own=True)
        if numpy is not None and hasattr(numpy, "ndarray"):  # It may be half imported, by another thread.
            if isinstance(value, numpy.ndarray):
                return self._ndarray(numpy, value)
            if isinstance(value, numpy.generic):
                return foreign.scalar(numpy, value)
        if hasattr(value, "typecode") and hasattr(value, "tobytes"):
            view = memoryview(value)
            return msgspec.msgpack.Ext(ARRAY, _pack([_dtype_of(view), [len(view)], view.cast("B")]))
        array = foreign.tensor(value)
        if array is not None:
            return self._ndarray(_numpy(), array)
        return foreign.plain(value)

    def _ndarray(self, numpy: Any, array: Any, *, own: bool = False) -> Any:
        array = foreign.unmasked(array)
        if array.dtype.kind in "OUSMmV":
            return foreign.listed(numpy, array)
        whole = numpy.asarray(array, array.dtype.newbyteorder("<"), order="C")
        dtype = whole.dtype.str
        if dtype not in _DTYPES:
            raise TypeError(f"a NumPy array of {array.dtype} cannot be sent to JavaScript, which has no such numbers")
        shape = list(whole.shape)
        if self._lender is None or whole.nbytes < BY_ADDRESS:
            return msgspec.msgpack.Ext(ARRAY, _pack([dtype, shape, whole.tobytes()]))
        if not own if whole is array else whole.base is not None:
            whole = whole.copy()  # JavaScript reads it later, when its owner may have written to it.
        self._lent.setdefault(threading.get_ident(), []).append(whole)
        return msgspec.msgpack.Ext(ARRAY_AT, _pack([dtype, shape, whole.ctypes.data]))


def frame(kind: int, call: int, body: bytes) -> bytes:
    return HEAD.pack(len(body) + 5, kind, call) + body


def _count(shape: list[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _numpy() -> Any:
    try:
        return importlib.import_module("numpy")
    except ImportError:
        return None


def _array_of(dtype: str, shape: list[int], content: bytes) -> Any:
    """A NumPy array of its own memory; without NumPy a memoryview, which indexes, slices and iterates as a list does."""
    numpy = _numpy()
    if numpy is not None:
        return numpy.frombuffer(bytearray(content), dtype).reshape(shape)
    if dtype not in _VIEW_FORMATS:
        raise TypeError(f"an array of {dtype} needs NumPy in this Python: pip install numpy")
    view = memoryview(bytearray(content))
    return view.cast(_VIEW_FORMATS[dtype], shape) if _count(shape) else view


def _dtype_of(view: memoryview) -> str:
    kind = {"b": "i", "h": "i", "i": "i", "l": "i", "q": "i", "f": "f", "d": "f"}.get(view.format, "u")
    return f"{'|' if view.itemsize == 1 else '<'}{kind}{view.itemsize}"


def _widened(value: Any) -> Any:
    """`value` with its integers beyond 64 bits as extensions: msgpack has none of their size."""
    if isinstance(value, bool):
        return value
    if _is_wide(value):
        return msgspec.msgpack.Ext(BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if isinstance(value, dict):
        # Keys are text in JavaScript, whatever they were.
        return {str(key) if _is_wide(key) else key: _widened(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_widened(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return {each.encode_name: _widened(getattr(value, each.name)) for each in msgspec.structs.fields(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _widened(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(type(value), "model_dump"):
        return _widened(value.model_dump())
    return value


def _is_wide(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**64
