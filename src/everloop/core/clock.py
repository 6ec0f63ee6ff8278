"""Time as a dependency: whoever needs `now` is handed a clock, so that tests can hold it still.

`everloop.testing.ManualClock` is the other implementation.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch, UTC: what is written to the journal."""

    def monotonic(self) -> float:
        """Seconds that never go back: what durations are measured with."""

    def wait(self, event: threading.Event, timeout: float) -> bool:
        """Wait until `event` is set or `timeout` seconds have passed; True if it is set."""


class SystemClock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def wait(self, event: threading.Event, timeout: float) -> bool:
        return event.wait(timeout)
