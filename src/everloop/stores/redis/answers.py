"""Answers in a Redis server: quick where it is well, nearly free where it is not.

    get ──────────────► one round trip on the caller's thread, once the server has been seen to answer
    fetch, put ──► queues ──► the thread: all lookups that wait are one MGET, all answers one pipeline of SETs

Rules.

1. One failure (refused, slow, full) opens the breaker for a growing pause, in which lookups find nothing and answers are left out, at
   no cost. Reading and writing have a breaker each: a full server still answers. Only the thread tries again, so a dead server costs
   callers no timeout but that of the lookups that were on their way when it died.
2. Every operation has a timeout, both queues are bounded, and nothing is tried twice.
3. The thread begins with the first work and ends with `close`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from everloop.core.clock import Clock, SystemClock
from everloop.core.errors import StoreUnavailable
from everloop.policy.breaker import CLOSED
from everloop.stores.redis.connecting import connect, driver, name_of

LOOKUPS = 4096
"""Most lookups that wait."""
ANSWERS = 4096
ANSWER_BYTES = 16 << 20
"""Most answers that wait to be written, and most bytes of them."""
AT_ONCE = 256
"""Lookups of one MGET, and answers of one pipeline."""
CLOSING_SECONDS = 5.0
SCAN_COUNT = 1000
FORGETTING_SECONDS = 5.0
"""What one round trip of `forget` may take: somebody waits who wants it done, not somebody who wants an answer."""
PROBE = "everloop:answers:probe"


class RedisAnswers:
    def __init__(
        self, url: str, *, timeout: float = 0.05, clock: Clock | None = None, rng: Random | None = None
    ) -> None:
        """`timeout`: seconds of any one operation. Connects when it is first used. Raises InvalidInput, MissingExtra."""
        self._url = url
        self._client = connect(url, timeout)
        self._errors: tuple[type[Exception], ...] = (driver().RedisError, OSError)
        self.name = name_of(url)
        self._timeout = timeout
        self._clock = clock or SystemClock()
        self._rng = rng or Random()  # noqa: S311  spreads retries, guards nothing
        self._stirred = threading.Condition()
        """Guards the queues and the thread."""
        self._lookups: deque[tuple[str, Callable[[bytes | None], None]]] = deque()
        self._answers: deque[tuple[str, bytes, float]] = deque()
        self._answer_bytes = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._proven = False
        """It has answered, and not failed since."""
        self._reads = self._writes = CLOSED
        self._unread = self._unwritten = ""
        """Why the last reading, or writing, failed."""
        self.skipped = 0

    # -- asking --

    def get(self, key: str) -> bytes | None:
        if self._proven:
            try:
                found: Any = self._client.get(key)
            except self._errors as error:
                self._cannot_read(error)
                return None
            return found  # type: ignore[no-any-return]
        answered = threading.Event()
        box: list[bytes | None] = []

        def done(value: bytes | None) -> None:
            box.append(value)
            answered.set()

        self.fetch(key, done)
        answered.wait(2 * self._timeout)  # connecting, asking
        return box[0] if box else None

    def fetch(self, key: str, done: Callable[[bytes | None], None]) -> None:
        if self._reads.allows(self._clock.monotonic()):
            with self._stirred:
                if not self._closed and len(self._lookups) < LOOKUPS:
                    self._lookups.append((key, done))
                    self._stir()
                    return
        self.skipped += 1
        done(None)

    def put(self, key: str, value: bytes, ttl: float) -> None:
        if self._reads.allows(now := self._clock.monotonic()) and self._writes.allows(now):
            with self._stirred:
                fits = len(self._answers) < ANSWERS and self._answer_bytes + len(value) <= ANSWER_BYTES
                if fits and not self._closed:
                    self._answers.append((key, value, ttl))
                    self._answer_bytes += len(value)
                    self._stir()
                    return
        self.skipped += 1

    def forget(self, pattern: str) -> int:
        removed = 0
        try:
            client = connect(self._url, FORGETTING_SECONDS)
            with client:
                found: list[Any] = []
                for key in client.scan_iter(match=pattern, count=SCAN_COUNT):
                    found.append(key)
                    if len(found) == SCAN_COUNT:
                        removed += int(client.unlink(*found))
                        found.clear()
                if found:
                    removed += int(client.unlink(*found))
        except self._errors as error:
            raise StoreUnavailable(
                f"Redis at {self.name} does not forget: {error}; what it keeps expires by its time to live",
                retry_after=1.0,
            ) from error
        return removed

    # -- how it is --

    @property
    def trouble(self) -> str:
        """Unless it is known to be well, looking at this tries it again: a server without traffic tells the truth, too."""
        now = self._clock.monotonic()
        if not self._proven and self._reads.allows(now):
            self.fetch(PROBE, lambda _: None)
        if self._writes.failures and self._writes.allows(now):
            self.put(PROBE, b"", 1.0)
        told = []
        if self._reads.failures:
            told.append(f"it does not answer ({self._unread})")
        elif self._writes.failures:
            told.append(f"it takes nothing new ({self._unwritten})")
        return "; ".join(told)

    def close(self) -> None:
        with self._stirred:
            self._closed = True
            thread, self._thread = self._thread, None
            self._stirred.notify_all()
        if thread is not None:
            thread.join(CLOSING_SECONDS)
        self._client.close()

    # -- the thread --

    def _stir(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="everloop-redis", daemon=True)
            self._thread.start()
        self._stirred.notify()

    def _work(self) -> None:
        while True:
            with self._stirred:
                while not (self._lookups or self._answers or self._closed):
                    self._stirred.wait()
                if self._closed and not (self._lookups or self._answers):
                    return
                lookups = [self._lookups.popleft() for _ in range(min(len(self._lookups), AT_ONCE))]
                answers = [self._answers.popleft() for _ in range(min(len(self._answers), AT_ONCE))]
                self._answer_bytes -= sum(len(value) for _, value, _ in answers)
            if lookups:
                self._look_up(lookups)
            if answers:
                self._write(answers)

    def _look_up(self, lookups: list[tuple[str, Callable[[bytes | None], None]]]) -> None:
        found: list[Any] = []
        if self._reads.allows(self._clock.monotonic()):
            try:
                found = self._client.mget([key for key, _ in lookups])
            except self._errors as error:
                self._cannot_read(error)
                self.skipped += len(lookups)
            else:
                self._reads, self._unread, self._proven = CLOSED, "", True
        else:
            self.skipped += len(lookups)
        for (_, done), value in zip(lookups, found or [None] * len(lookups), strict=True):
            done(value)

    def _write(self, answers: list[tuple[str, bytes, float]]) -> None:
        now = self._clock.monotonic()
        if not (self._reads.allows(now) and self._writes.allows(now)):
            self.skipped += len(answers)
            return
        try:
            pipeline = self._client.pipeline(transaction=False)
            for key, value, ttl in answers:
                pipeline.set(key, value, px=max(1, int(ttl * 1000)))
            pipeline.execute()
        except self._errors as error:
            self.skipped += len(answers)
            self._unwritten = str(error)
            self._writes = self._writes.failed(self._clock.monotonic(), self._rng.random())
        else:
            self._writes, self._unwritten = CLOSED, ""

    def _cannot_read(self, error: Exception) -> None:
        self._proven, self._unread = False, str(error)
        self._reads = self._reads.failed(self._clock.monotonic(), self._rng.random())
