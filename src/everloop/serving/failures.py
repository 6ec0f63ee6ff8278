"""What could not be opened here: why, how often it was tried, and when it is tried again."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from everloop.core.clock import Clock
from everloop.core.errors import EverloopError
from everloop.policy.retraining import backoff
from everloop.stores.ports import VersionRecord

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Failure:
    version: int
    digest: str
    error: EverloopError
    attempts: int
    retry_at: float
    """On the clock's monotonic scale; infinite where trying again would only do the same harm again."""

    def told(self, model: str) -> EverloopError:
        """As an error of its own for each who raises it."""
        error = self.error
        return type(error)(
            f"version {self.version} of model {model!r} cannot be opened: {error.message}",
            field=error.field,
            retry_after=error.retry_after,
        )


class Failures(Generic[K]):
    """By model, or by model and version. `all` is replaced whole: read it from any thread."""

    def __init__(self, clock: Clock, rng: Random) -> None:
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self.all: dict[K, Failure] = {}

    def resting(self, key: K, record: VersionRecord) -> bool:
        """Whether this very version has failed, and its pause is not over."""
        failure = self._known(key, record)
        return failure is not None and failure.retry_at > self._clock.monotonic()

    def add(self, key: K, record: VersionRecord, error: EverloopError, *, again: bool = True) -> Failure:
        """It failed once more; `again`: it is tried again after a growing pause."""
        with self._lock:
            before = self._known(key, record)
            attempts = 1 if before is None else before.attempts + 1
            retry_at = self._clock.monotonic() + backoff(attempts, self._rng) if again else math.inf
            failure = Failure(record.version, record.digest, error, attempts, retry_at)
            self.all = {**self.all, key: failure}
        return failure

    def forgive(self, key: K) -> None:
        if key in self.all:
            self.keep(self.all.keys() - {key})

    def keep(self, keys: Collection[K]) -> None:
        """Forget all others."""
        with self._lock:
            if any(key not in keys for key in self.all):
                self.all = {key: failure for key, failure in self.all.items() if key in keys}

    @property
    def due(self) -> bool:
        """Whether one is to be tried again."""
        if not self.all:
            return False
        now = self._clock.monotonic()
        return any(failure.retry_at <= now for failure in self.all.values())

    def _known(self, key: K, record: VersionRecord) -> Failure | None:
        failure = self.all.get(key)
        if failure is None or failure.version != record.version or failure.digest != record.digest:
            return None
        return failure
