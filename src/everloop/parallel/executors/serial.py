"""No workers: the caller's own thread runs the chunks, one a `collect`.

What the caller would see without us they see here, too: Ctrl-C ends the item that runs. A timeout cannot be kept on the caller's own
thread; chunks that have one run on one other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from everloop.parallel.executors.running import Tally, run
from everloop.parallel.executors.threads import ThreadExecutor, done_of
from everloop.parallel.work import Chunk, Done, ExecutorKind


class SerialExecutor:
    kind: ExecutorKind = "serial"
    workers = 1

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self._func = func
        self._queue: deque[Chunk] = deque()
        self._thread: ThreadExecutor | None = None

    @property
    def room(self) -> int:
        return max(0, 1 - self.running)

    @property
    def running(self) -> int:
        return len(self._queue) + (self._thread.running if self._thread else 0)

    def submit(self, chunk: Chunk) -> None:
        if chunk.timeout is None:
            self._queue.append(chunk)
            return
        if self._thread is None:
            self._thread = ThreadExecutor(self._func, 1)
        self._thread.submit(chunk)

    def collect(self, timeout: float | None = None) -> list[Done]:
        if not self._queue:
            return self._thread.collect(timeout) if self._thread else []
        chunk = self._queue.popleft()
        tally = Tally(chunk.slice)
        run(self._func, chunk.items, tally, KeyboardInterrupt, here=True)
        return [done_of(chunk, tally, 0)]

    def close(self, *, kill: bool = False) -> None:
        self._queue.clear()
        if self._thread is not None:
            self._thread.close(kill=kill)
