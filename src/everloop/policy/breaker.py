"""DECIDE whether to ask something that has failed: a circuit breaker (Nygard, Release It!, 2007). Pure: `now` and the draw are arguments.

Closed, everybody asks. One failure opens it for a pause in which nobody does, because what is asked can be done without, and each try
may cost a whole timeout. After the pause it is tried again; each failure in a row doubles the pause.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
SPREAD = 0.25
"""The share of a pause that is drawn, so that processes do not return all at once."""


@dataclass(frozen=True, slots=True)
class Breaker:
    failures: int = 0
    """In a row."""
    until: float = 0.0
    """When the pause is over."""

    def allows(self, now: float) -> bool:
        return self.failures == 0 or now >= self.until

    def failed(self, now: float, draw: float) -> Breaker:
        """`draw`: from 0 to 1."""
        pause = min(FIRST_PAUSE * 2.0 ** min(self.failures, 30), LONGEST_PAUSE)
        return Breaker(self.failures + 1, now + pause * (1.0 - SPREAD * draw))


CLOSED = Breaker()
