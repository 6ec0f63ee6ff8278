"""The process of a shadow, seen from the one that serves: started, asked, paid for, started anew, given up.

The thread that starts the process is the one that speaks with it, and with that thread, however it ends, the process ends
(`shadow_process`). Only `kill` is for other threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import msgspec

from everloop.core import errors
from everloop.core.clock import Clock
from everloop.core.errors import EverloopError, Failure, ItemTimeout, explain
from everloop.policy import shadowing
from everloop.policy.retraining import backoff
from everloop.policy.shadowing import ShadowRules
from everloop.serving.comparison import Shown
from everloop.serving.shadow_process import Batch, Opening, Ran, Refused, ShadowProcess
from everloop.stores.ports import VersionRecord

if TYPE_CHECKING:
    from everloop.parallel.executors.calling import Caller
    from everloop.registry.catalog import Registry

HOPELESS = (errors.Untrusted, errors.NotSupported, errors.MissingExtra, errors.ArtifactCorrupt, errors.Conflict)
"""What opening it again would not change."""
_ERRORS = {error.code: error for error in HOPELESS}

_decode = msgspec.msgpack.Decoder(Ran | Refused).decode
_encode = msgspec.msgpack.Encoder().encode


class ShadowHost:
    def __init__(
        self,
        record: VersionRecord,
        registry: Registry,
        clock: Clock,
        rules: ShadowRules,
        seen: Shown,
        *,
        lock: threading.Lock,
        on_down: Callable[[str], None],
        rng: Random,
    ) -> None:
        """`lock` guards `seen`, whose counts of starts, failures and costs are kept here. `on_down` is called once, by whoever asked."""
        self._record = record
        self._registry = registry
        self._clock = clock
        self._rules = rules
        self._seen = seen
        self._lock = lock
        self._on_down = on_down
        self._rng = rng
        self._ending = threading.Lock()
        """Guards `_closed` and `_caller`."""
        self._closed = False
        self._caller: Caller | None = None
        self._cpu_seconds = 0.0
        """Of the process so far."""
        self._purse = shadowing.full(clock.monotonic(), rules)
        self._batch_rows = 1
        self._in_a_row = 0
        self._not_before = 0.0
        self.failure: EverloopError | None = None
        """Why it stays down."""

    @property
    def pid(self) -> int | None:
        caller = self._caller
        return None if caller is None else caller.pid

    @property
    def up(self) -> bool:
        return self._caller is not None

    @property
    def rows(self) -> int:
        """That the next batch may have."""
        return max(1, min(self._batch_rows, int(self._purse.rows)))

    def pause(self) -> float:
        """Seconds until it may be asked, or started; 0.0: now."""
        now = self._clock.monotonic()
        self._purse = shadowing.filled(self._purse, now, self._rules)
        return max(shadowing.wait(self._purse, self._batch_rows, self._rules), self._not_before - now, 0.0)

    def hold(self, seconds: float) -> None:
        """Do not ask it for so long."""
        self._not_before = self._clock.monotonic() + seconds

    def pay(self, seconds: float, rows: int = 0) -> None:
        self._purse = shadowing.spent(self._purse, seconds, rows)
        with self._lock:
            self._seen.spent_seconds += seconds

    def open(self) -> None:
        """Start its process and load the model there. Takes seconds."""
        from everloop.parallel.executors.calling import Caller

        with self._lock:
            self._seen.starts += 1
        try:
            payload = self._registry.payload(self._record)
            caller = Caller(ShadowProcess(), niceness=self._rules.niceness, blas_threads=1)
        except EverloopError as error:
            self._lost(error.message, error)
            return
        except OSError as error:
            self._lost(f"no process can be started for it: {error}")
            return
        with self._ending:
            self._caller = caller
            if self._closed:
                caller.kill()
        self._cpu_seconds = 0.0
        reply = self._call(_encode(self._opening()), self._rules.open_timeout, 0)
        if isinstance(reply, Ran):
            reply = self._call(payload, self._rules.open_timeout, 0)
        if isinstance(reply, Refused):
            kind = _ERRORS.get(reply.code)
            self._lost(reply.message, None if kind is None else kind(reply.message))
        elif isinstance(reply, Ran):
            with self._lock:
                self._seen.state = "running"
            if self._seen.starts == 1:  # being there at all is not charged, only being there again
                self._purse = shadowing.full(self._clock.monotonic(), self._rules)

    def run(self, batch: Batch) -> Ran | Failure:
        """How it failed as a whole, if so: the process is then gone."""
        reply = self._call(_encode(batch), self._rules.timeout, batch.rows)
        if isinstance(reply, Ran):
            self._in_a_row = 0
            self._batch_rows = shadowing.next_rows(batch.rows, reply.seconds, self._rules)
            return reply
        return "crash" if isinstance(reply, Refused) else reply

    def kill(self) -> None:
        """For good, from any thread; whoever waits for an answer gets none."""
        with self._ending:
            self._closed = True
            if self._caller is not None:
                self._caller.kill()

    def close(self) -> None:
        with self._ending:
            caller, self._caller = self._caller, None
        if caller is not None:
            caller.close()

    def _opening(self) -> Opening:
        return Opening(
            self._record.model,
            self._record.version,
            self._record.manifest,
            self._registry.trust,
            self._rules.batch_rows,
            self._rules.memory_bytes,
            os.getpid(),
        )

    def _call(self, data: bytes, time_limit: float, rows: int) -> Ran | Refused | Failure:
        caller = self._caller
        assert caller is not None
        begun = time.monotonic()
        failed: Failure = "crash"
        try:
            reply: Ran | Refused = _decode(caller.call(data, time_limit, own_time=True))
        except ItemTimeout as error:
            failed, why = "timeout", error.message
        except Exception as error:  # dead, or it has written anything into its pipe
            why = explain(error)
        else:
            if isinstance(reply, Ran):
                self.pay(reply.cpu_seconds - self._cpu_seconds, rows)
                self._cpu_seconds = reply.cpu_seconds
            return reply
        self.pay(time.monotonic() - begun, rows)  # what it really took died with it
        if self._closed:
            self.close()
            return failed
        with self._lock:
            self._seen.timeouts += failed == "timeout"
            self._seen.crashes += failed == "crash"
        self._lost(why)
        return failed

    def _lost(self, why: str, error: EverloopError | None = None) -> None:
        """It hangs, has died or cannot be opened: again after a pause, or never."""
        self.close()
        self._in_a_row += 1
        self._batch_rows = 1
        down = isinstance(error, HOPELESS) or self._in_a_row >= self._rules.max_failures
        with self._lock:
            self._seen.reason = why
            self._seen.state = "down" if down else "waiting"
        if not down:
            self.hold(backoff(self._in_a_row, self._rng))
            return
        times = f"after {self._in_a_row} failures in a row" if self._in_a_row > 1 else "at once"
        self.failure = error or EverloopError(why)
        self._on_down(
            f"the shadow, version {self._record.version}, is down {times} ({why}); answers are not touched by it"
        )
