"""One call at a time in a process of its own: for long jobs that need a time limit, a low priority, or an end from another thread.

Bytes go in and bytes come out. Nothing that comes back is unpickled, so a job that runs somebody else's code cannot make its parent run
it, too. What the job prints is kept, for the message when it dies.

    caller = Caller(fit, niceness=10)              # fit: bytes -> bytes
    answer = caller.call(job, time_limit=900.0)    # on this thread
    caller.kill()                                  # from any other: `call` raises WorkerDied
"""

from __future__ import annotations

import math
import os
import selectors
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from everloop.core.errors import ItemFailed, ItemTimeout, NotPicklable, WorkerDied
from everloop.parallel import payload
from everloop.parallel.executors.frames import BROKEN, FAILURES, LOADED, RAW, RESULT, Frame
from everloop.parallel.executors.handle import Worker, last_words

_TAIL = 4000
"""Bytes of what it said that are kept."""
_LOOK = 1.0
"""Seconds after which a silent process is looked at: one that it has started may keep its pipe open after its death."""


class Caller:
    """Used by one thread at a time, except `kill` and `alive`."""

    def __init__(self, func: Callable[[bytes], bytes], *, niceness: int = 0, blas_threads: int = 1) -> None:
        """Starts the process and returns at once. Raises NotPicklable for `func`, OSError where no process can be started."""
        function = payload.dump_function(func)
        self._worker = Worker(blas_threads=blas_threads, niceness=niceness, captured=True)
        self._worker.open(function, flags=RAW)
        self._number = 0
        self._said = b""
        self.idle_since = time.monotonic()
        """When the last call came back (monotonic)."""
        self._listener = threading.Thread(target=self._listen, name="everloop-caller-output", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._worker.pid

    @property
    def alive(self) -> bool:
        return self._worker.alive

    def call(self, data: bytes, time_limit: float = math.inf, *, own_time: bool = False) -> bytes:
        """Raises ItemFailed with what `func` raised, in words; ItemTimeout after `time_limit` seconds; WorkerDied with its last
        words; NotPicklable where the process cannot load `func`. After all but ItemFailed it is dead.

        `own_time`: what the process waits for a core does not count, where the system tells: one of low priority may have to wait for
        as long as others are busy, and hangs for all that as little as they do."""
        excused = partial(starved, self.pid) if own_time else float
        self._number += 1
        self._worker.send(self._number, (data, []), math.inf, 0.0)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._worker.inbox, selectors.EVENT_READ)
                if self._worker.outbox:
                    selector.register(self._worker.outlet, selectors.EVENT_WRITE)
                frame = self._answer(selector, time_limit, excused)
        except BaseException:
            self.close()
            raise
        self.idle_since = time.monotonic()
        if frame.flags & FAILURES:
            raise ItemFailed(str(frame.payload, "utf-8"))
        return bytes(frame.payload)

    def kill(self) -> None:
        """At once, with whatever processes it started itself."""
        self._worker.kill()

    def close(self) -> None:
        """The same, and wait for its end. Idempotent."""
        self.kill()
        self._end()

    def _answer(self, selector: selectors.BaseSelector, time_limit: float, excused: Callable[[], float]) -> Frame:
        until, before = time.monotonic() + time_limit, excused()
        reader, outbox = self._worker.reader, self._worker.outbox
        while True:
            while (frame := reader.next()) is not None:
                if frame.kind == RESULT:
                    return frame
                if frame.kind == LOADED and frame.flags & BROKEN:
                    raise NotPicklable(f"the function cannot be loaded in its process: {str(frame.payload, 'utf-8')}")
            left = until - time.monotonic()
            if left <= 0:
                left += excused() - before
            if left <= 0:
                self.close()
                raise ItemTimeout(f"it took longer than {time_limit:g} s and was stopped{self._last_words()}")
            ready = selector.select(min(left, _LOOK))
            if not ready and not self.alive:
                raise WorkerDied(f"its process {last_words(self._end())}{self._last_words()}")
            for key, _ in ready:
                if key.fd == self._worker.inbox:
                    if not reader.fill() and reader.ended:
                        raise WorkerDied(f"its process {last_words(self._end())}{self._last_words()}")
                elif not outbox.flush() or not outbox:
                    selector.unregister(key.fd)

    def _end(self) -> int:
        status = self._worker.reap(5.0)
        self._listener.join(1.0)
        return status

    def _listen(self) -> None:
        output = self._worker.output
        assert output is not None
        while piece := os.read(output.fileno(), 4096):
            self._said = (self._said + piece)[-_TAIL:]
        output.close()

    def _last_words(self) -> str:
        self._listener.join(1.0)
        said = self._said.decode(errors="replace").strip()
        return f"; it last said: {said[-500:]}" if said else ""


def starved(pid: int | str = "self") -> float:
    """Seconds for which a process's main thread could have run and had no core: 0.0 where the system does not tell (Linux does,
    Documentation/scheduler/sched-stats.rst)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
