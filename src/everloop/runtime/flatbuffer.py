"""Tables of FlatBuffers, read with every offset checked: as much of the format as CatBoost's files need.

A table begins with the distance back to its vtable, which tells for each field at which offset in the table it is (0: not there).
Source: https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt


class Buffer:
    """Whatever reads outside of it raises ValueError."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def number(self, kind: str, at: int) -> Any:
        if at < 0 or at + struct.calcsize("<" + kind) > len(self.payload):
            raise ValueError(f"an offset points to {at}, outside of the {len(self.payload)} bytes")
        return struct.unpack_from("<" + kind, self.payload, at)[0]

    def part(self, at: int, count: int) -> bytes:
        if at < 0 or count < 0 or at + count > len(self.payload):
            raise ValueError(f"{count} bytes at {at} are outside of the {len(self.payload)} bytes")
        return self.payload[at : at + count]

    def root(self) -> Table:
        return Table(self, self.number("I", 0))


class Table:
    def __init__(self, buffer: Buffer, at: int) -> None:
        self.buffer = buffer
        self.at = at
        self._fields = at - buffer.number("i", at)
        self._size = buffer.number("H", self._fields)
        buffer.part(self._fields, self._size)
        buffer.part(at, buffer.number("H", self._fields + 2))

    def _place(self, field: int) -> int:
        """Where the field is; 0 where the table has it not."""
        slot = 4 + 2 * field
        offset = self.buffer.number("H", self._fields + slot) if slot + 2 <= self._size else 0
        return self.at + int(offset) if offset else 0

    def number(self, field: int, kind: str, default: Any) -> Any:
        place = self._place(field)
        return self.buffer.number(kind, place) if place else default

    def _target(self, field: int) -> int:
        place = self._place(field)
        return place + int(self.buffer.number("I", place)) if place else 0

    def table(self, field: int) -> Table | None:
        target = self._target(field)
        return Table(self.buffer, target) if target else None

    def array(self, field: int, kind: str) -> npt.NDArray[Any]:
        """A vector of numbers, or of structs of one kind of number. Empty where the table has it not."""
        target = self._target(field)
        item = np.dtype(kind)
        if not target:
            return np.empty(0, item)
        count = int(self.buffer.number("I", target))
        return np.frombuffer(self.buffer.part(target + 4, count * item.itemsize), item)

    def text(self, field: int) -> str:
        return self.array(field, "u1").tobytes().decode()

    def _targets(self, field: int) -> list[int]:
        target = self._target(field)
        offsets = self.array(field, "<u4")
        return [target + 4 + 4 * i + int(offset) for i, offset in enumerate(offsets)]

    def tables(self, field: int) -> list[Table]:
        return [Table(self.buffer, target) for target in self._targets(field)]

    def texts(self, field: int) -> list[str]:
        return [
            self.buffer.part(target + 4, int(self.buffer.number("I", target))).decode()
            for target in self._targets(field)
        ]
