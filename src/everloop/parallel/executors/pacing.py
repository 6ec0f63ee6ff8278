"""How many chunks are sent ahead to a worker: enough that it never waits for us, not more than it has done in a moment."""

from __future__ import annotations

_AHEAD = 0.005
"""Seconds of work that may wait at a worker; beyond it the way to us and back costs nothing that counts."""
_MOST = 32


class Pace:
    """`depth`: chunks that a worker should have, the running one included. One until something is known."""

    def __init__(self) -> None:
        self.depth = 1
        self._slowest = 0.0

    def note(self, seconds: float) -> None:
        """What a chunk took. The slowest of late counts: behind a slow one a chunk waits while other workers may be idle."""
        self._slowest = max(seconds, 0.8 * self._slowest)
        self.depth = 1 + min(_MOST, int(_AHEAD / max(self._slowest, 1e-6)))
