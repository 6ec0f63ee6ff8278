"""How long an answer is of use: the header `Everloop-Timeout`, seconds as a decimal number."""

from __future__ import annotations

from time import perf_counter

from everloop.core.errors import InvalidInput

TIMEOUT_HEADER = "Everloop-Timeout"
MOST_SECONDS = 1e9


def seconds_of(header: str | None) -> float | None:
    """Raises InvalidInput."""
    if header is None:
        return None
    try:
        seconds = -1.0 if "_" in header else float(header)  # to Python 1_0 is a number, to nobody else
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= MOST_SECONDS:
        raise InvalidInput(f"{TIMEOUT_HEADER}: expected seconds, got {header[:40]!r}", field=TIMEOUT_HEADER)
    return seconds


def deadline_of(header: str | None) -> float | None:
    """By `time.perf_counter`, from now on. Raises InvalidInput."""
    seconds = seconds_of(header)
    return None if seconds is None else perf_counter() + seconds
