"""Universal Binary JSON, as XGBoost writes it: lengths are 64 bits, and an array of numbers names its type once.

Anything else of the format is refused, and so is a key that occurs twice: whoever reads the same bytes after us reads the same.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

DEEPEST = 64
_NUMBERS = {
    b"i": ">i1",
    b"U": ">u1",
    b"I": ">i2",
    b"l": ">i4",
    b"L": ">i8",
    b"d": ">f4",
    b"D": ">f8",
}
_LITERALS = {b"T": True, b"F": False, b"Z": None}


def decode(payload: bytes) -> Any:
    """Objects as dicts, arrays of one type as NumPy arrays, others as lists. Raises ValueError."""
    reader = _Reader(payload)
    value = reader.value(reader.take(1), 0)
    if reader.at != len(payload):
        raise ValueError(f"there are {len(payload) - reader.at} bytes after the end")
    return value


class _Reader:
    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.at = 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.payload) - self.at:
            raise ValueError(f"it ends within {count} bytes at {self.at}")
        self.at += count
        return self.payload[self.at - count : self.at]

    def count(self) -> int:
        if self.take(1) != b"L":
            raise ValueError(f"a length of an unexpected type at {self.at - 1}")
        (count,) = struct.unpack(">q", self.take(8))
        return int(count)

    def text(self) -> str:
        return self.take(self.count()).decode()

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        if marker == b"{":
            return self.object(depth)
        if marker == b"[":
            return self.array(depth)
        if marker == b"S":
            return self.text()
        if marker in _LITERALS:
            return _LITERALS[marker]
        if marker in _NUMBERS:
            kind = np.dtype(_NUMBERS[marker])
            return np.frombuffer(self.take(kind.itemsize), kind)[0].item()
        raise ValueError(f"an unexpected marker {marker!r} at {self.at - 1}")

    def object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.payload[self.at : self.at + 1] != b"}":
            key = self.text()
            if key in found:
                raise ValueError(f"the key {key!r} occurs twice")
            found[key] = self.value(self.take(1), depth + 1)
        self.at += 1
        return found

    def array(self, depth: int) -> Any:
        if self.payload[self.at : self.at + 1] == b"$":
            self.at += 1
            marker = self.take(1)
            if marker not in _NUMBERS or self.take(1) != b"#":
                raise ValueError(f"an array of an unexpected type at {self.at}")
            kind = np.dtype(_NUMBERS[marker])
            count = self.count()
            return np.frombuffer(self.take(count * kind.itemsize if count >= 0 else -1), kind)
        if self.payload[self.at : self.at + 1] == b"#":
            self.at += 1
            return [self.value(self.take(1), depth + 1) for _ in range(self.count())]
        items = []
        while self.payload[self.at : self.at + 1] != b"]":
            items.append(self.value(self.take(1), depth + 1))
        self.at += 1
        return items
