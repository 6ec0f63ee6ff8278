"""The pool: worker processes that outlive a run, so that the next one starts at once.

A run leases workers for itself and gives them back; two runs at once have different ones. Idle workers are ended after a while, by a
thread that exists only as long as there are any, and at the interpreter's exit. A forked child owns none of them and starts its own.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import weakref
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from everloop.core.clock import Clock, SystemClock

if TYPE_CHECKING:
    from everloop.parallel.executors.handle import Worker

_FAREWELL = 2.0
"""Seconds that idle workers may take to end in good order."""


class PoolManager:
    """Safe for any number of threads.

    with PoolManager() as pool:
        for batch in batches:
            execute(score, batch, pool_manager=pool)      # the same workers each time
    """

    def __init__(
        self, max_idle_seconds: float = 60.0, max_workers: int | None = None, *, clock: Clock | None = None
    ) -> None:
        """`max_workers`: over all runs at once; a run gets what is left of them, but always one."""
        self._max_idle = max_idle_seconds
        self._max_workers = max_workers
        self._clock = clock or SystemClock()
        self._at_exit = functools.partial(_shutdown, weakref.ref(self))
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._started = 0
        self._reused = 0
        self._spawn_seconds: deque[float] = deque(maxlen=16)
        self._reaper: threading.Thread | None = None
        self._changed = threading.Event()

    def lease(self, count: int, blas_threads: int = 1) -> list[Worker]:
        """`count` workers, used ones first, some of them perhaps still starting. Raises OSError where none can be started."""
        self._forget_after_fork()
        with self._lock:
            if self._max_workers is not None:
                count = max(1, min(count, self._max_workers - len(self._busy)))
            leased: list[Worker] = []
            dead: list[Worker] = []
            while self._idle and len(leased) < count:
                worker = self._idle.pop()
                (leased if worker.alive else dead).append(worker)
            self._reused += len(leased)
            try:
                self._fill(leased, count, blas_threads)
            except BaseException:
                dead += leased
                _end(dead, wait=False)
                raise
            self._busy.update(leased)
        for worker in dead:
            worker.reap()
        return leased

    def _fill(self, leased: list[Worker], count: int, blas_threads: int) -> None:
        from everloop.parallel.executors.handle import Worker

        while len(leased) < count:
            try:
                leased.append(Worker(blas_threads=blas_threads))
            except OSError:
                if not leased:
                    raise
                return  # fewer will do
            self._started += 1
            atexit.unregister(self._at_exit)
            atexit.register(self._at_exit)

    def give_back(self, worker: Worker) -> None:
        """It has nothing to do and owes no answer."""
        self._forget_after_fork()
        with self._lock:
            if worker not in self._busy:
                return
            self._busy.remove(worker)
            worker.idle_since = self._clock.monotonic()
            self._idle.append(worker)
            if self._reaper is None:
                self._reaper = threading.Thread(
                    target=self._reap, args=(self._changed,), name="everloop-pool-reaper", daemon=True
                )
                self._reaper.start()

    def remove(self, worker: Worker) -> None:
        """It is dead, or will be; the pool knows it no more."""
        with self._lock:
            self._busy.discard(worker)

    def started(self, worker: Worker) -> None:
        """It has said hello."""
        if worker.spawn_seconds is not None:
            self._spawn_seconds.append(worker.spawn_seconds)

    def warm(self, count: int, blas_threads: int = 1) -> None:
        """Start workers ahead, up to `count` in all; returns at once."""
        self._forget_after_fork()
        with self._lock:
            wanted = count - len(self._idle) - len(self._busy)
        if wanted > 0:
            fresh = self.lease(wanted, blas_threads)
            for worker in fresh:
                self.give_back(worker)

    def stats(self) -> dict[str, float]:
        """`idle`, `busy`: workers now; `started`, `reused`: leases served by a new and by a used one; `spawn_seconds`: mean start of
        the newest, 0 until one has started."""
        self._forget_after_fork()
        with self._lock:
            seconds = list(self._spawn_seconds)
            return {
                "idle": len(self._idle),
                "busy": len(self._busy),
                "started": self._started,
                "reused": self._reused,
                "spawn_seconds": sum(seconds) / len(seconds) if seconds else 0.0,
            }

    def shutdown(self, wait: bool = True) -> None:
        """End the idle workers; busy ones end with their run. The pool can be used again. Idempotent."""
        self._forget_after_fork()
        with self._lock:
            idle, self._idle = self._idle, []
            reaper, self._reaper = self._reaper, None
            changed, self._changed = self._changed, threading.Event()
        changed.set()
        atexit.unregister(self._at_exit)
        _end(idle, wait)
        if wait and reaper is not None and reaper is not threading.current_thread():
            reaper.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _reap(self, changed: threading.Event) -> None:
        """The reaper's whole life: until no worker is idle."""
        while True:
            with self._lock:
                if self._reaper is not threading.current_thread():
                    return
                now = self._clock.monotonic()
                old = [worker for worker in self._idle if now - worker.idle_since >= self._max_idle]
                self._idle = [worker for worker in self._idle if worker not in old]
                if not self._idle:
                    self._reaper = None
                nap = min((worker.idle_since + self._max_idle - now for worker in self._idle), default=0.0)
            _end(old, wait=True)
            if nap <= 0 or self._clock.wait(changed, nap):
                return

    def _forget_after_fork(self) -> None:
        if os.getpid() != self._owner:
            inherited = [*self._idle, *self._busy]
            self._reset()
            for worker in inherited:
                worker.disown()


def _shutdown(reference: weakref.ref[PoolManager]) -> None:
    pool = reference()
    if pool is not None:
        pool.shutdown()


def _end(workers: list[Worker], wait: bool) -> None:
    for worker in workers:
        worker.quit()
    for worker in workers:
        worker.reap(_FAREWELL if wait else 0.0)


_global = PoolManager()


def get_global_pool_manager() -> PoolManager:
    """The one that `execute` and `stream` use unless they are given another."""
    return _global
