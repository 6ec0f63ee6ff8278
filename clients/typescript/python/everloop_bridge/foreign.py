"""Values that msgpack has nothing for, as what JavaScript has: text, lists and objects. What would lose its meaning is refused.

A naive datetime names no moment, for nobody knows its time zone: as a date or a duration it arrives as its ISO 8601 text. NumPy's
dates and durations do likewise, in whatever unit they are.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

_DEEPEST = 100
_BASES: tuple[tuple[type, Any], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes.__getitem__(value, slice(None))),
)


def refused(what: str) -> TypeError:
    what = f"an {what[2:]}" if what.startswith(("a a", "a e", "a i", "a o", "a A", "a E", "a I", "a O")) else what
    return TypeError(
        f"{what} cannot be sent to JavaScript: answer with None, bool, int, float, str, bytes, list, dict, datetime, "
        "a dataclass or a NumPy array"
    )


def name_of(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def plain(value: Any) -> Any:
    """`value` of a class derived from str, int, float or bytes as that, of pydantic's as a dict. Raises TypeError for another."""
    for base, converted in _BASES:
        if isinstance(value, base):
            return converted(value)
    if hasattr(type(value), "model_dump"):
        return value.model_dump()
    raise refused(f"a {name_of(type(value))}")


def tensor(value: Any) -> Any:
    """One of PyTorch's as a NumPy array of the same memory; None for anything else. Raises TypeError where it is not on the CPU
    or of numbers that NumPy has not, in PyTorch's words, which tell what to call."""
    detach = getattr(value, "detach", None)
    return detach().numpy() if callable(detach) and callable(getattr(value, "numpy", None)) else None


def place_in(value: Any, refuses: Callable[[Any], bool]) -> str:
    """Where in `value` the first thing is that cannot be sent, `.rows[1].when`; empty where that is the whole."""
    place = ""
    for _ in range(_DEEPEST):
        found = next(((step, part) for step, part in _parts(value) if refuses(part)), None)
        if found is None:
            break
        place, value = place + found[0], found[1]
    return place


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f".{key}", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{each.name}", getattr(value, each.name)) for each in dataclasses.fields(value))
    elif isinstance(value, msgspec.Struct):
        yield from ((f".{name}", getattr(value, name)) for name in value.__struct_fields__)


def scalar(numpy: Any, value: Any) -> Any:
    """A NumPy scalar as Python's own. Raises TypeError for what has no other form, a long double."""
    if value.dtype.kind in "Mm" or value.dtype.names:
        return listed(numpy, numpy.asarray(value))
    item = value.item()
    if isinstance(item, numpy.generic):
        raise refused(f"a {name_of(type(value))}")
    return item


def listed(numpy: Any, array: Any) -> Any:
    """An array without numbers as nested lists: dates and durations as text (None for NaT), records as objects."""
    if array.dtype.names:
        if array.ndim:
            return [listed(numpy, numpy.asarray(each)) for each in array]
        return {name: array[name][()] for name in array.dtype.names}
    if array.dtype.kind == "M":
        texts = numpy.asarray(numpy.datetime_as_string(array)).astype(object)
        return numpy.where(numpy.isnat(array), None, texts).tolist()
    if array.dtype.kind == "m":
        return array.astype("m8[us]").tolist()
    return array.tolist()


def unmasked(array: Any) -> Any:
    """Raises TypeError where a masked array hides a value: what it hides is none, and must not be given out as one."""
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    if masked is None or not isinstance(array, masked):
        return array
    if array.mask.any() if not array.dtype.names else array.mask.tolist():
        raise refused("a masked array that hides values (`.filled(...)` says what stands for them)")
    return array.data
