"""Memory backpressure: nothing is submitted while more memory is in use than allowed.

What is in flight comes back and is handed out meanwhile, which is what frees memory. Where that does not help, somebody else has the
memory; the run then goes on with one item at a time rather than never.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

CHECK_EVERY = 0.05
"""Seconds between two looks at the memory."""
PATIENCE = 30.0
"""Seconds above the threshold with nothing in flight, after which one item at a time is let through."""


class Gate:
    """`memory_in_use` gives a share in [0, 1]; the gate is shut while it is above `threshold`."""

    def __init__(self, threshold: float, memory_in_use: Callable[[], float]) -> None:
        self._threshold = threshold
        self._memory_in_use = memory_in_use
        self._checked = -CHECK_EVERY
        self._shut_since: float | None = None
        self._idle_since: float | None = None
        self._paused = 0.0
        self._warned = False

    @property
    def shut(self) -> bool:
        return self._shut_since is not None

    def paused_seconds(self, now: float) -> float:
        return self._paused + (now - self._shut_since if self._shut_since is not None else 0.0)

    def allows(self, now: float, in_flight: int) -> int | None:
        """Items that may be submitted now: None for as many as one likes, 0 for none."""
        if now - self._checked >= CHECK_EVERY:
            self._checked = now
            self._look(now)
        if self._shut_since is None:
            self._idle_since = None
            return None
        if in_flight:
            return 0
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since < PATIENCE and not self._warned:
            return 0
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"memory stays above {self._threshold:.0%} with nothing in flight: going on with one item at a time",
                RuntimeWarning,
                stacklevel=2,
            )
        return 1

    def _look(self, now: float) -> None:
        above = self._memory_in_use() > self._threshold
        if above and self._shut_since is None:
            self._shut_since = now
        elif not above and self._shut_since is not None:
            self._paused += now - self._shut_since
            self._shut_since = None
            self._warned = False
