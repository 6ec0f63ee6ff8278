"""Shares and spans of time as people read them, in the reasons and messages of rollouts and their timeline."""

from __future__ import annotations

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
