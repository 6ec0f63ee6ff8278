"""How many requests a caller may make: a token bucket, without a clock of its own.

A bucket holds `capacity` tokens and gets `rate` of them a second; a request takes one (Turner 1986, "leaky bucket as a meter"). So a
pause allows a burst, and in the long run the rate holds. Whoever comes too early is told how long the next token takes: coming back
then, and not before, is always enough.

What it says on the wire is draft-ietf-httpapi-ratelimit-headers: the policy is `q` requests in a window of `w` seconds, which is how
long an empty bucket takes to fill; the state is `r` requests left, and `t` seconds until the bucket is full again.
"""

from __future__ import annotations

import math


class Bucket:
    """`rate` in requests a second, `capacity` in requests. Not locked: its owner does that."""

    __slots__ = ("at", "capacity", "rate", "tokens")

    def __init__(self, rate: float, capacity: int, now: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self.tokens = float(capacity)
        self.at = now
        """Seconds of any clock that does not go back; so is `now` below."""

    def take(self, now: float) -> float:
        """Seconds to wait, nothing taken; 0: one request taken."""
        self._fill(now)
        if self.tokens >= 1.0:
            self.tokens -= 1.0
            return 0.0
        return (1.0 - self.tokens) / self.rate

    @property
    def window(self) -> int:
        """Seconds in which an empty bucket fills, at least 1."""
        return max(1, math.ceil(self.capacity / self.rate))

    @property
    def left(self) -> int:
        """Requests that may come at once, when last asked."""
        return int(self.tokens)

    @property
    def reset(self) -> int:
        """Seconds until it is full, when last asked."""
        return math.ceil((self.capacity - self.tokens) / self.rate)

    def _fill(self, now: float) -> None:
        if now > self.at:
            self.tokens = min(float(self.capacity), self.tokens + (now - self.at) * self.rate)
            self.at = now
            if self.tokens > 1.0 - 1e-9 and self.tokens < 1.0:  # whoever waited as long as was said is let in
                self.tokens = 1.0
