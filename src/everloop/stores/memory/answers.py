"""Answers that the caches of one process share: the second level without a server, for tests and for the contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate

from everloop.core.clock import Clock, SystemClock
from everloop.core.lru import Lru


class MemoryAnswers:
    name = "memory"
    trouble = ""
    skipped = 0

    def __init__(self, most: int = 16 << 20, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._kept: Lru[str] = Lru(most)

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._kept.get(key, self._clock.monotonic())
        return found

    def fetch(self, key: str, done: Callable[[bytes | None], None]) -> None:
        done(self.get(key))

    def put(self, key: str, value: bytes, ttl: float) -> None:
        self._kept.put(key, value, len(key) + len(value), self._clock.monotonic() + ttl)

    def forget(self, pattern: str) -> int:
        matches = re.compile(translate(pattern)).match
        return self._kept.forget(lambda key: matches(key) is not None)

    def close(self) -> None:
        self._kept.forget(lambda _: True)
