"""The guard of a version that is not the champion: it may be slow, hang or fail, and nobody must suffer from it.

A version under guard runs on threads that can be given up (`worker`), never on an event loop. A run that takes longer than
`timeout` is given up, or ends the process that it runs in (`remote`): the version is *lost*. From that moment nobody is routed to it
(`on_lost`), what waited for it is answered by the champion, and what still runs is ended where it can be (`end`); otherwise its thread
stays behind until its call returns, if it ever does. A promoted version is under no guard any more.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from everloop.core.errors import Failure, ModelFailed
from everloop.serving.worker import Worker

T = TypeVar("T")


class Version(Protocol):
    def failed(self, what: str, how: Failure = "raised") -> ModelFailed: ...


class Guard:
    """Of one version, while it is not the champion. Every method may be called from any thread."""

    __slots__ = ("_closed", "_end", "_idle", "_lock", "_name", "_on_lost", "error", "timeout")

    def __init__(
        self,
        name: str,
        timeout: float,
        on_lost: Callable[[ModelFailed], None],
        end: Callable[[], None] | None = None,
    ) -> None:
        """`on_lost` and `end` are called once, on whichever thread found out, and must not block. `end`: ends what runs."""
        self.timeout = timeout
        self.error: ModelFailed | None = None
        """Why this version was lost, if it was."""
        self._name = name
        self._on_lost = on_lost
        self._end = end
        self._idle: deque[Worker] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def lose(self, version: Version, error: ModelFailed | None = None) -> ModelFailed:
        """A run took too long, or `error` tells what else ended it. Returns the error of its requests, a new one for each caller."""
        error = error or version.failed(f"it took longer than {self.timeout:g} s and was given up", "timeout")
        with self._lock:
            first, self.error = self.error is None, self.error or error
        if first:
            self.close()
            if self._end is not None:
                self._end()
            self._on_lost(error)
        return error

    def run(self, version: Version, call: Callable[[Any], T], argument: Any) -> T:
        """`call(argument)` on a thread of its own, for a caller who waits for it. Raises what it raises; ModelFailed after `timeout`
        seconds, or at once where the version is lost."""
        if (lost := self.error) is not None:
            why = "an earlier run ended its process" if lost.how == "crash" else "an earlier run hangs"
            raise version.failed(f"it was given up because {why}", lost.how)
        worker = self._worker()
        job = _Job(partial(call, argument))
        worker.submit(job.run)
        if not job.done.acquire(timeout=self.timeout):
            worker.stop()
            raise self.lose(version)
        self._give_back(worker)
        error, value = job.error, job.value
        del job
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        found: T = value
        return found

    def close(self) -> None:
        """Let the idle threads end. Calls that run finish, and later ones are still made, each on a thread that ends after it."""
        self._closed = True
        self._stop_idle()

    def _worker(self) -> Worker:
        try:
            return self._idle.pop()
        except IndexError:
            return Worker(f"everloop-guarded-{self._name[:32]}")

    def _give_back(self, worker: Worker) -> None:
        self._idle.append(worker)
        if self._closed:
            self._stop_idle()

    def _stop_idle(self) -> None:
        try:
            while True:
                self._idle.pop().stop()
        except IndexError:
            return


class _Job:
    """A call on another thread, and what came of it."""

    __slots__ = ("call", "done", "error", "value")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def run(self) -> None:
        try:
            self.value = self.call()
        except BaseException as error:
            self.error = error
        finally:
            self.done.release()
