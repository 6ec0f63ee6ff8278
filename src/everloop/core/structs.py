"""Structs that several threads read: known to msgspec before any of them asks.

msgspec looks into a type when it is first decoded into, and keeps what it found. Two threads that are the first at once (the reconciler
and the learner open the same version) end the process (seen with msgspec 0.22 on CPython 3.11: a segmentation fault).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def looked_into(kind: type[_Struct]) -> type[_Struct]:
    """A class decorator: it and whatever its fields are made of are known once its module is imported, by one thread. The types of its fields
    stand before it."""
    msgspec.json.Decoder(kind)
    return kind
