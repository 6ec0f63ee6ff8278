"""An executor in virtual time: its workers take as long as a script says, and die when it says so. Deterministic to the last item."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from everloop.core.errors import NotPicklable
from everloop.parallel.executors.pacing import Pace
from everloop.parallel.work import Chunk, Done, ExecutorKind, ItemFailure
from everloop.testing import ManualClock


class Unsendable:
    """An item that cannot travel."""


class Scripted:
    """`seconds(item)`: how long an item takes. `kills(item)`: whether its worker dies of it. `late(item)`: whether it outstays its timeout without ending."""

    kind: ExecutorKind = "process"

    def __init__(
        self,
        func: Callable[[Any], Any],
        workers: int,
        clock: ManualClock,
        *,
        seconds: Callable[[Any], float] = lambda item: 0.001,
        kills: Callable[[Any], bool] = lambda item: False,
        late: Callable[[Any], bool] = lambda item: False,
        result_bytes: Callable[[Any], int] = lambda value: 0,
    ) -> None:
        self.workers = workers
        self.sent: list[Chunk] = []
        self.ran: list[Any] = []
        self.closed: bool | None = None
        """None: open; else what `kill` was."""
        self.busy = 0.0
        self._func, self._clock = func, clock
        self._seconds, self._kills, self._late, self._bytes = seconds, kills, late, result_bytes
        self._pace = Pace()
        self._queues: list[deque[Chunk]] = [deque() for _ in range(workers)]
        self._events: list[tuple[float, int, int, Done]] = []
        self._order = 0

    @property
    def running(self) -> int:
        return sum(map(len, self._queues))

    @property
    def room(self) -> int:
        return self.workers * self._pace.depth - self.running

    def submit(self, chunk: Chunk) -> None:
        assert self.closed is None
        assert chunk.items
        if any(isinstance(item, Unsendable) for item in chunk.items):
            raise NotPicklable("an item cannot be pickled")
        self.sent.append(chunk)
        worker = min(range(self.workers), key=lambda i: len(self._queues[i]))
        self._queues[worker].append(chunk)
        if len(self._queues[worker]) == 1:
            self._run(worker, self._clock.monotonic())

    def collect(self, timeout: float | None = None) -> list[Done]:
        if not self._events:
            return []
        now, first = self._clock.monotonic(), self._events[0][0]
        if timeout is not None and first > now + timeout:
            self._clock.advance(timeout)
            return []
        self._clock.advance(max(0.0, first - now))
        back = []
        while self._events and self._events[0][0] <= self._clock.monotonic():
            at, _, worker, done = heapq.heappop(self._events)
            queue = self._queues[worker]
            queue.popleft()
            back.append(done)
            self._pace.note(done.seconds)
            if done.lost is not None:
                while queue:  # had not begun
                    back.append(Done(queue.popleft(), [], 0))
            elif queue:
                self._run(worker, at)
        return back

    def close(self, *, kill: bool = False) -> None:
        if self.closed is None:
            self.closed = kill

    def _run(self, worker: int, begun: float) -> None:
        chunk = self._queues[worker][0]
        done = Done(chunk, [], 0, worker=worker)
        for at, item in enumerate(chunk.items):
            if done.seconds >= chunk.slice:
                break
            self.ran.append(item)
            if self._kills(item):
                done = Done(chunk, [], 0, seconds=done.seconds, lost="killed by signal 9")
                break
            if self._late(item):
                done = Done(chunk, [], 0, seconds=done.seconds + (chunk.timeout or 0), lost="ended", late=True)
                break
            try:
                done.values.append(self._func(item))
            except Exception as error:
                done.values.append(None)
                done.failures.append(ItemFailure(at, error))
            done.count += 1
            done.seconds += self._seconds(item)
            done.squares += self._seconds(item) ** 2
            done.bytes_out += self._bytes(done.values[-1])
        self.busy += done.seconds
        self._order += 1
        heapq.heappush(self._events, (begun + done.seconds, self._order, worker, done))
