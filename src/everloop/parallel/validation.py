"""What callers hand over (and what old files say), as plain Python values in their range; InvalidInput names what is not.

NumPy's numbers are numbers, too: `len` of a frame, a mean, a comparison. They leave here as Python's own, so that they can be written as JSON.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from everloop.core.errors import InvalidInput


def number(
    name: str, value: Any, least: float, most: float = math.inf, *, whole: bool = False, above: bool = False
) -> Any:
    """`value` as an int (`whole`) or as it is, within [least, most]; `above`: more than `least`. No booleans, no NaN, nothing infinite."""
    kind = "a whole number" if whole else "a number"
    if not _is_number(value, whole):
        raise InvalidInput(f"{name}: {kind} is needed, this is {_told(value)}", field=name)
    if not least <= value <= most or (above and value == least) or value == math.inf:
        span = f"above {least:g}" if above else f"at least {least:g}"
        span += f" and at most {most:g}" if math.isfinite(most) else ""
        raise InvalidInput(f"{name}: {kind} {span} is needed, this is {_told(value)}", field=name)
    if whole or isinstance(value, int):
        return int(value)
    return float(value)


def _is_number(value: Any, whole: bool) -> bool:
    return isinstance(value, Integral if whole else Real) and not isinstance(value, bool)


def flag(name: str, value: Any) -> bool:
    """`value` as a bool: True and False, and NumPy's."""
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__.startswith("bool"):
        return bool(value)
    raise InvalidInput(f"{name}: True or False is needed, this is {_told(value)}", field=name)


def function(value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise InvalidInput(f"func: a function of one item is needed, this is {_told(value)}", field="func")
    if any(map(inspect.iscoroutinefunction, (value, type(value).__call__))):
        raise InvalidInput(
            "func: this is an async function, which gives a coroutine that no worker awaits; asyncio.gather runs many of them in one "
            "thread, and `lambda item: asyncio.run(func(item))` is a function as it is needed here",
            field="func",
        )
    return value  # type: ignore[no-any-return]


def _told(value: Any) -> str:
    """Never as long as a whole data set, and never more digits than can be printed."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of very many digits"
    return text if len(text) <= 60 else f"{text[:60]}…"
