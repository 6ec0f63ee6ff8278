"""Threads: for work that waits, or that releases the GIL. Nothing is pickled; all of them take from one queue.

A thread cannot be ended. One whose item outstays its timeout is abandoned: it stops after that item, nobody hears its answer, and a new
one takes its place. Threads are daemons, so that an item which never ends does not keep the program from ending.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from everloop.core.errors import ItemTimeout
from everloop.parallel import nesting
from everloop.parallel.executors.pacing import Pace
from everloop.parallel.executors.running import Tally, run
from everloop.parallel.work import Chunk, Done, ExecutorKind, ItemFailure


class _Seat:
    """A thread and what it runs. `lock` decides who answers for a chunk: the thread that ran it, or we who have given it up."""

    __slots__ = ("abandoned", "begun", "chunk", "lock", "ordinal", "started", "tally", "thread")

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self.lock = threading.Lock()
        self.chunk: Chunk | None = None
        self.tally = Tally()
        self.begun = math.inf
        """When the running item began (perf_counter), where its chunk has a timeout. Infinite between two items."""
        self.started = 0
        """Items of the chunk that have begun, the running one included."""
        self.abandoned = False
        self.thread: threading.Thread


class ThreadExecutor:
    kind: ExecutorKind = "thread"

    def __init__(self, func: Callable[[Any], Any], workers: int) -> None:
        self.workers = workers
        self._func = func
        self._chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._running = 0
        self._limited = False
        self._closed = False
        self._pace = Pace()
        self._depth_of_workers = nesting.depth() + 1
        self._seats: list[_Seat] = []
        self._ordinal = 0
        for _ in range(workers):
            self._start()

    @property
    def room(self) -> int:
        return max(0, self._pace.depth * self.workers - self._running)

    @property
    def running(self) -> int:
        return self._running

    def submit(self, chunk: Chunk) -> None:
        self._running += 1
        self._limited = self._limited or chunk.timeout is not None
        self._chunks.put(chunk)

    def collect(self, timeout: float | None = None) -> list[Done]:
        if not self._running:
            return []
        found = self._wait_limited(timeout) if self._limited else self._wait(timeout)
        self._running -= len(found)
        for done in found:
            self._pace.note(done.seconds)
        return found

    def close(self, *, kill: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        for seat in self._seats:
            seat.tally.until = -math.inf
            self._chunks.put(None)
        for seat in self._seats:
            if not kill and seat.chunk is None:
                seat.thread.join(1.0)
        self._running = 0

    def _start(self) -> None:
        self._ordinal += 1
        seat = _Seat(self._ordinal)
        seat.thread = threading.Thread(
            target=self._work, args=(seat,), name=f"everloop-worker-{self._ordinal}", daemon=True
        )
        self._seats.append(seat)
        seat.thread.start()

    def _work(self, seat: _Seat) -> None:
        """A thread's whole life."""
        nesting.enter(self._depth_of_workers)
        while (chunk := self._chunks.get()) is not None and not self._closed:
            seat.tally = tally = Tally(chunk.slice)
            seat.started = 0
            seat.chunk = chunk
            run(self._watched(seat) if chunk.timeout is not None else self._func, chunk.items, tally)
            with seat.lock:
                seat.chunk = None
                if seat.abandoned:
                    return
                self._done.put(done_of(chunk, tally, seat.ordinal))
            del chunk, tally

    def _watched(self, seat: _Seat) -> Callable[[Any], Any]:
        func = self._func

        def watched(item: Any) -> Any:
            seat.started += 1
            seat.begun = time.perf_counter()
            try:
                return func(item)
            finally:
                seat.begun = math.inf

        return watched

    def _wait(self, timeout: float | None) -> list[Done]:
        try:
            found = [self._done.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self._done.empty():
            found.append(self._done.get())
        return found

    def _wait_limited(self, timeout: float | None) -> list[Done]:
        until = math.inf if timeout is None else time.perf_counter() + timeout
        while True:
            now = time.perf_counter()
            found = [self._abandon(seat) for seat in list(self._seats) if now > _overdue(seat)]
            if given_up := [done for done in found if done is not None]:
                return given_up
            nap = min(until, *map(_overdue, self._seats)) - now
            # An item that begins while we wait has its whole timeout before it; a fresh look now and then is soon enough.
            if back := self._wait(max(0.0, min(nap, 0.05))):
                return back
            if time.perf_counter() >= until:
                return []

    def _abandon(self, seat: _Seat) -> Done | None:
        """None where it has come back after all."""
        with seat.lock:
            chunk, tally, begun, late = seat.chunk, seat.tally, seat.begun, seat.started - 1
            if chunk is None or time.perf_counter() <= _overdue(seat) or len(tally.values) > late:
                return None
            seat.abandoned = True
            tally.until = -math.inf
            values = tally.values[:late]
        self._seats.remove(seat)
        self._start()
        given_up = Tally()
        given_up.values = [*values, None]
        error = ItemTimeout(f"the item took longer than {chunk.timeout:g} s; its thread was abandoned")
        given_up.failures = [each for each in tally.failures if each[0] < len(values)] + [(len(values), error, "")]
        given_up.seconds = time.perf_counter() - begun
        return done_of(chunk, given_up, seat.ordinal)


def done_of(chunk: Chunk, tally: Tally, worker: int) -> Done:
    failures = [ItemFailure(index, error, text, item=chunk.items[index]) for index, error, text in tally.failures]
    return Done(
        chunk,
        tally.values,
        len(tally.values),
        tally.seconds,
        tally.squares,
        tally.cpu_seconds,
        worker=worker,
        failures=failures,
    )


def _overdue(seat: _Seat) -> float:
    chunk = seat.chunk
    return math.inf if chunk is None or chunk.timeout is None else seat.begun + chunk.timeout
