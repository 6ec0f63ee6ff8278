"""How numbers, spans of time and names are told: in messages, and in the reasons and the timeline of rollouts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

_LONGEST_NAME, _MOST_NAMES = 64, 256
_SPANS = ((86_400.0, "day"), (3_600.0, "h"), (60.0, "min"))


def percent(share: float) -> str:
    """0.05 -> `5 %`"""
    return f"{100 * share:.4g} %"


def lasting(seconds: float) -> str:
    """90 -> `1.5 min`, 259,200 -> `3 days`"""
    for size, unit in _SPANS:
        if seconds >= size:
            many = f"{seconds / size:.3g}"
            return f"{many} {unit}{'s' if unit == 'day' and many != '1' else ''}"
    return f"{seconds:.3g} s"


def counted(count: int, noun: str) -> str:
    """(1, `request`) -> `1 request`, (1234, `request`) -> `1,234 requests`"""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def near_names(name: str, known: Iterable[str], n: int = 1) -> list[str]:
    """Those that were probably meant, at most `n`, the nearest first. Whatever a caller sends, this costs little: names longer than any
    that people type are not compared, nor are more than the first few hundred."""
    if len(name) > _LONGEST_NAME:
        return []
    return difflib.get_close_matches(
        name, list(islice((each for each in known if len(each) <= _LONGEST_NAME), _MOST_NAMES)), n=n
    )
