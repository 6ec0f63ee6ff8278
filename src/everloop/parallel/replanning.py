"""When a run doubts its plan: reality differs much from what was expected, or work that was thought too short to spread goes on."""

from __future__ import annotations

from everloop.parallel.plan import Plan

FACTOR = 3.0
"""An item time that differs by more makes another plan worth thinking of."""
EVIDENCE = 0.02
"""Seconds of measured work that a doubt must rest on."""
WORTH = 0.1
"""Seconds of work that must remain for a change to pay."""
LONG = 0.25
"""Seconds of serial work after which it is asked whether to spread it, then again at every doubling."""


class Doubts:
    """Pure: `arise` is told what was measured and says whether to ask for another plan."""

    def __init__(self, plan: Plan, measured: float = 0.0) -> None:
        self._expected = plan.item_seconds
        self._since = measured
        self._ask_at = max(LONG, 2 * measured) if plan.executor == "serial" else None

    def arise(self, item_seconds: float | None, measured: float, remaining: int | None) -> bool:
        """`item_seconds`: the running estimate. `measured`: seconds of work done so far. `remaining`: items, where known."""
        if item_seconds is None or (remaining is not None and remaining * item_seconds < WORTH):
            return False
        long = self._ask_at is not None and measured >= self._ask_at
        off = (
            self._expected is not None
            and measured - self._since >= EVIDENCE
            and not self._expected / FACTOR <= item_seconds <= self._expected * FACTOR
        )
        if not long and not off:
            return False
        self._expected, self._since = item_seconds, measured
        if self._ask_at is not None:
            self._ask_at = max(self._ask_at, 2 * measured)
        return True
