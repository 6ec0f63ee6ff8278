"""Numbers as a person reads them, in verdicts."""

from __future__ import annotations

import math


def percent(share: float | None) -> str:
    """Three digits, more where it is close to all."""
    if share is None:
        return "an unknown share"
    digits = 3 if share < 0.995 else 3 + min(4, math.ceil(-math.log10(max(1 - share, 1e-9))))
    return f"{share * 100:.{digits}g} %"


def seconds(value: float) -> str:
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def evidence(log_e: float) -> str:
    """An e-value, rounded down: what is short of what is needed never reads as if it were there."""
    if log_e >= math.log(1e6):
        return "over a million"
    value = math.exp(log_e)
    if value >= 10:
        return f"{math.floor(value):,}"
    return f"{math.floor(value * 10) / 10:g}" if value >= 0.1 else "under 0.1"
