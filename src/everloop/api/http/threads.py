"""A few threads for work that waits for a disk or a fit, so that the event loop never does.

The number of threads and of jobs waiting for one are both bounded: beyond them a job is refused at once (Overloaded). The
threads are daemons, for a fit that takes minutes must not keep a drained process alive, and they end when idle.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from everloop.core.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")

Job = Callable[[], None]


class Threads:
    def __init__(self, name: str, *, most: int, waiting: int, idle_seconds: float = 5.0) -> None:
        self._name = name
        self._most = most
        self._waiting = waiting
        self._idle_seconds = idle_seconds
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0

    def __repr__(self) -> str:
        return f"<Threads {self._name} threads={self._threads}/{self._most} jobs={self._unfinished}>"

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(...)` on one of the threads. Raises Overloaded without running it if too many jobs wait already."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():  # whoever waited has gone
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def job() -> None:
            result, error = None, None
            try:
                result = function(*args, **kwargs)
            except BaseException as caught:
                error = caught
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, result, error)

        self._submit(job)
        return await future

    def close(self) -> None:
        """Let every thread end after the jobs that are there; new jobs still find one. Does not wait."""
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._jobs.put(None)

    def _submit(self, job: Job) -> None:
        with self._lock:
            if self._unfinished >= self._most + self._waiting:
                raise Overloaded(
                    f"{self._unfinished} {self._name} requests are under way or waiting; try again", retry_after=1.0
                )
            self._unfinished += 1
            grow = self._threads < min(self._most, self._unfinished)
            self._threads += grow
        self._jobs.put(job)
        if grow:
            threading.Thread(target=self._work, name=f"everloop-{self._name}", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_seconds)
            except queue.Empty:
                job = None
            if job is None:
                with self._lock:
                    if self._unfinished >= self._threads:  # a job came for which no other thread was started
                        continue
                    self._threads -= 1
                    return
            try:
                job()
            except RuntimeError:  # the event loop closed between the check and the call: nobody waits any more
                continue
            finally:
                with self._lock:
                    self._unfinished -= 1
