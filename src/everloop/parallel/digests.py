"""Telling whether an item is the same as in another process, by 64 bits of its content.

A plain pickle will not do: it depends on which parts are one object (interned or not), and on the order of sets, which differs between
processes. So pickles are made without memo, and sets are sorted. What cannot be told apart reliably has the digest 0.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

_SCALARS = frozenset((int, float, str, bytes, bool, type(None)))
_SETS = (b"\x8f", b"\x91")
"""Opcodes EMPTY_SET and FROZENSET; where neither is in a pickle, there is no set in the item."""
_LARGE = 1 << 20


def digest_of(item: Any) -> int:
    """xxh3 of the item's content; 0 where it cannot be had: cyclic or unpicklable items, and objects that hide sets."""
    import xxhash

    payload = _payload(item)
    if payload is None:
        return 0
    return xxhash.xxh3_64_intdigest(payload) or 1


def _payload(item: Any) -> bytes | None:
    if type(item) in _SCALARS:
        return pickle.dumps(item, 5)
    try:
        payload = _without_memo(item)
        if any(opcode in payload for opcode in _SETS):
            payload = _without_memo(_sorted(item))
            if _has_sets(payload):
                return None
    except Exception:  # whatever an item's own `__reduce__` raises: it can just not be compared
        return None
    return payload


def _without_memo(item: Any) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 5)
    pickler.fast = True
    pickler.dump(item)
    return buffer.getvalue()


def _sorted(item: Any) -> Any:
    """The same content with every set as a sorted list, through the plain containers."""
    if isinstance(item, (set, frozenset)):
        return "set", sorted(map(digest_of, item))
    if type(item) in (list, tuple):
        return [_sorted(part) for part in item]
    if type(item) is dict:
        return [(_sorted(key), _sorted(value)) for key, value in item.items()]
    return item


def _has_sets(payload: bytes) -> bool:
    """Whether the opcode is really one, and not a byte of some number. Large pickles are arrays as a rule: not looked through."""
    if len(payload) > _LARGE or not any(opcode in payload for opcode in _SETS):
        return False
    return any(opcode.name in ("EMPTY_SET", "FROZENSET") for opcode, _, _ in pickletools.genops(payload))
