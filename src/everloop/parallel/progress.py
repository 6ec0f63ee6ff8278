"""How far a run is: the events that hooks get, and the bar that a person sees."""

from __future__ import annotations

from everloop.parallel.hooks import Progress

EVERY = 0.1
"""Seconds between two events, at least."""
SMOOTHING = 0.15
"""Weight of the newest interval in the rate."""


class Ticker:
    """Makes `Progress` events, at most one in `every` seconds."""

    def __init__(self, label: str, total: int | None, now: float, every: float = EVERY) -> None:
        self.every = every
        self._label = label
        self._total = total
        self._began = self._last = now
        self._done = 0
        self._rate = 0.0

    def tick(self, done: int, now: float, *, paused: bool = False, last: bool = False) -> Progress | None:
        """`done` items are finished by now. `last`: it is over, the event comes whatever the time."""
        since = now - self._last
        if since < self.every and not last:
            return None
        elapsed = now - self._began
        if since > 0:
            newest = (done - self._done) / since
            self._rate = newest if not self._rate else self._rate + SMOOTHING * (newest - self._rate)
        self._last, self._done = now, done
        rate = (done / elapsed if elapsed > 0 else 0.0) if last else self._rate
        remaining = None
        if self._total is not None:
            left = max(0, self._total - done)
            remaining = left / rate if rate > 0 else (None if left else 0.0)
        return Progress(self._label, done, self._total, elapsed, rate, remaining, paused)
