"""Open-loop load: requests come when they come (a Poisson process), whether or not earlier ones have been answered.

A client that waits for its answer before it asks again (`load.Client`, wrk) slows down with the server, and never asks for more than it
can give. Here latency counts from the moment at which a request was due, so whatever holds it up counts, the load's own lateness too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from random import Random
from time import perf_counter
from typing import Any

import msgspec

from everloop.app.bench.load import first_answer
from everloop.app.bench.processes import load_core, on_core

_TICK = 0.0005


class Arrived(msgspec.Struct):
    """One request: when it was due, sent and answered, in seconds from the start."""

    due: float
    sent: float
    answered: float
    status: int

    @property
    def latency(self) -> float:
        return self.answered - self.due

    @property
    def on_the_wire(self) -> float:
        return self.answered - self.sent


class _Line(asyncio.Protocol):
    """A connection: one request at a time."""

    def __init__(self, load: Arrivals) -> None:
        self.load = load
        self.buffer = b""
        self.due = self.sent = 0.0
        self.busy = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes, due: float, now: float) -> None:
        self.busy, self.due, self.sent = True, due, now
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        answer = first_answer(self.buffer)
        if answer is None:
            return
        self.buffer = answer.rest
        self.busy = False
        self.load.arrived(self, answer.status)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.busy:
            self.load.lost += 1
        if not self.load.over:
            self.load.lost_lines += 1


class Arrivals:
    """`rate` requests a second on average for `seconds`, over `connections`, from the address `source`."""

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes],
        rate: float,
        seconds: float,
        *,
        connections: int = 256,
        source: str = "127.0.0.1",
        seed: int = 1,
    ) -> None:
        self.port, self.requests, self.rate, self.seconds = port, requests, rate, seconds
        self.connections, self.source = connections, source
        self.found: list[Arrived] = []
        self.lost = 0
        """Requests whose connection ended before their answer."""
        self.lost_lines = 0
        self.over = False
        self._rng = Random(seed)
        self._idle: list[_Line] = []
        self._waiting: deque[float] = deque()
        self._asked = 0

    def run(self) -> list[Arrived]:
        """Blocks, on the load's core, until all have been answered."""
        run_all([self])
        return self.found

    def statuses(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for one in self.found:
            counts[one.status] = counts.get(one.status, 0) + 1
        return counts

    async def go(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self.connections):
            _, line = await loop.create_connection(
                lambda: _Line(self), "127.0.0.1", self.port, local_addr=(self.source, 0)
            )
            self._idle.append(line)
        lines = list(self._idle)
        self._start = perf_counter()
        for due in self._moments():
            if (ahead := due - self._now()) > _TICK:
                await asyncio.sleep(ahead)
            self._waiting.append(min(due, self._now()))  # a timer may be a little early
            self._send()
        while self._asked > len(self.found) + self.lost or (self._waiting and self._idle):
            await asyncio.sleep(0.005)
            self._send()
        self.over = True
        for line in lines:
            line.transport.close()
        await asyncio.sleep(0)

    def arrived(self, line: _Line, status: int) -> None:
        self.found.append(Arrived(line.due, line.sent, self._now(), status))
        self._idle.append(line)
        if self._waiting:
            self._send()

    def _moments(self) -> Iterator[float]:
        at = 0.0
        while (at := at + self._rng.expovariate(self.rate)) < self.seconds:
            yield at

    def _send(self) -> None:
        while self._waiting and self._idle:
            line = self._idle.pop()
            if line.transport.is_closing():
                continue
            self._asked += 1
            line.ask(self.requests[self._asked % len(self.requests)], self._waiting.popleft(), self._now())

    def _now(self) -> float:
        return perf_counter() - self._start


def run_all(loads: Sequence[Arrivals]) -> None:
    """Several at once, on the load's core."""
    import uvloop

    async def together() -> None:
        await asyncio.gather(*(load.go() for load in loads))

    with on_core(load_core()):
        uvloop.run(together())


def percentile(values: Sequence[float], share: float) -> float:
    """NaN of none."""
    found = sorted(values)
    return found[min(len(found) - 1, int(len(found) * share))] if found else float("nan")
