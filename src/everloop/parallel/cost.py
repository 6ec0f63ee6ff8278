"""The cost model: how long would this work take with these settings, on this machine? Pure arithmetic, no clock, no machine.

    serial    Σ items
    threads   start + max(work / n,  what holds the GIL,  CPU work / cores)
    processes start + max(what the caller's own thread does,  (work + what a worker does for its way) / n,  all CPU work / cores)

each plus the end, where the last items run while the other workers have nothing left. Amdahl's law, with the serial part taken apart:
the GIL for threads; dispatch, pickling and copying in the caller's process for processes, which also share the cores with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from everloop.parallel.constants import HETEROGENEOUS_CV_THRESHOLD, MAX_IO_THREADS, TARGET_CHUNK_DURATION
from everloop.parallel.probe import Probe
from everloop.parallel.work import ExecutorKind


@dataclass(frozen=True)
class MachineCosts:
    """What it takes to have work done elsewhere. The defaults are those of an ordinary server; `costs.measure` puts this machine's."""

    spawn_seconds: float = 0.1
    """From the start of a worker process to its first readiness."""
    thread_seconds: float = 1e-4
    """The same of a thread."""
    process_chunk: float = 3e-5
    """To send a chunk and take its results, without its items."""
    process_item: float = 3e-7
    """For each small item of a chunk."""
    thread_chunk: float = 1e-5
    thread_item: float = 2e-7
    serial_item: float = 1.5e-7
    byte_seconds: float = 1e-9
    """To move a byte from one process to another, both sides together."""
    measured: bool = False


@dataclass(frozen=True)
class Estimate:
    """One candidate: its settings and where its seconds go."""

    executor: ExecutorKind
    n_jobs: int
    chunksize: int
    startup: float
    running: float
    overhead: float
    """The part of `running` that is not the items' own work."""
    bound: str
    """What keeps it from being faster."""

    @property
    def seconds(self) -> float:
        return self.startup + self.running


@dataclass(frozen=True)
class CostModel:
    work: Probe
    items: int
    """Still to be run."""
    costs: MachineCosts
    cores: int
    idle_workers: int = 0
    """Processes that are up and wait for work."""
    target: float = TARGET_CHUNK_DURATION
    """Seconds that a chunk should take."""
    chunksize: int | None = None
    """Of every chunk, if the caller wants one size."""

    def estimate(self, executor: ExecutorKind, n_jobs: int) -> Estimate:
        if executor == "serial":
            return self._serial()
        return self._threads(n_jobs) if executor == "thread" else self._processes(executor, n_jobs)

    def chunk(self, executor: ExecutorKind, n_jobs: int) -> int:
        """Items of the first chunks: long enough that their dispatch is lost in them (2 %), short enough that each worker gets eight,
        or sixteen of unequal ones, and never longer than `target`. The engine adapts from there."""
        if self.chunksize is not None:
            return self.chunksize
        each = max(self.work.item_seconds, 1e-7)
        if executor == "serial":
            return max(1, min(self.items, int(self.target / each)))
        dispatch = self.costs.thread_chunk if executor == "thread" else self.costs.process_chunk
        parts = 16 if self.work.coefficient_of_variation > HETEROGENEOUS_CV_THRESHOLD else 8
        fair = self.items / (n_jobs * parts)
        hidden = min(50.0 * dispatch / each, self.items / (2 * n_jobs))
        return max(1, int(min(max(hidden, fair), self.target / each)))

    def worker_counts(self, executor: ExecutorKind, most: float = math.inf) -> list[int]:
        """Numbers of workers worth comparing: all up to eight, then in steps; more than there are cores only where items wait."""
        top: float = self.cores
        if self.waits:
            top = math.ceil(self.cores / max(self.work.cpu_share, 1e-3)) if executor == "thread" else 2 * self.cores
            top = min(MAX_IO_THREADS, top)
        top = int(min(top, self.items, most))
        steps = (2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128)
        return sorted({n for n in steps if n < top} | ({top} if top > 1 else set()))

    @property
    def waits(self) -> bool:
        """For a disk, a server, a lock: most of the items' time is not spent on a core."""
        return self.work.cpu_share < 0.5

    @property
    def _wall(self) -> float:
        return self.items * self.work.item_seconds

    @property
    def _reading(self) -> float:
        return self.items * self.work.read_seconds

    def _serial(self) -> Estimate:
        overhead = self.items * self.costs.serial_item
        running = self._wall + self._reading + overhead
        return Estimate("serial", 1, self.chunk("serial", 1), 0.0, running, overhead, "one item after the other")

    def _threads(self, n: int) -> Estimate:
        work, chunk = self.work, self.chunk("thread", n)
        cpu = self._wall * work.cpu_share
        # Python code: it holds the GIL.
        way = self.items * self.costs.thread_item + self._chunks(chunk) * self.costs.thread_chunk + self._reading
        bounds = {
            f"{n} threads": (self._wall + way) / n,
            "the GIL": cpu * work.gil_share + way,
            f"{self.cores} cores": (cpu * work.cores_used + way) / self.cores,
        }
        bound = max(bounds, key=bounds.__getitem__)
        startup = n * self.costs.thread_seconds
        return Estimate("thread", n, chunk, startup, bounds[bound] + self._end(n), way, bound)

    def _processes(self, executor: ExecutorKind, n: int) -> Estimate:
        work, costs, chunk = self.work, self.costs, self.chunk(executor, n)
        size = (work.item_bytes or 0) + (work.result_bytes or 0)
        each = costs.process_item + work.travel_seconds + size * costs.byte_seconds
        # Half of the way is done in the caller's process (pickling items, unpickling results), half in the worker.
        half = (self._chunks(chunk) * costs.process_chunk + self.items * each) / 2
        # Each of n workers has its share of the cores for BLAS: work that is parallel by itself gains less.
        slower = work.cores_used / min(work.cores_used, max(1, self.cores // n))
        cpu = self._wall * work.cpu_share * work.cores_used
        bounds = {
            "the caller's thread": half + self._reading,
            f"{n} {'Ray workers' if executor == 'ray' else 'processes'}": (self._wall * slower + half) / n,
            f"{self.cores} cores": (cpu + 2 * half + self._reading) / self.cores,
        }
        bound = max(bounds, key=bounds.__getitem__)
        missing = max(0, n - self.idle_workers)
        startup = costs.spawn_seconds * max(1.0, missing / self.cores) if missing else 0.0
        return Estimate(executor, n, chunk, startup, bounds[bound] + self._end(n), 2 * half, bound)

    def _chunks(self, chunk: int) -> int:
        return -(-self.items // chunk)

    def _end(self, n: int) -> float:
        """Seconds that the last items take while other workers are done: half an item for equal ones, more for unequal ones."""
        work = self.work
        # Few equal items go in rounds: 20 on 8 workers take as long as 24.
        idle = math.ceil(self.items / n) - self.items / n if self.items < 16 * n else 0.0
        return work.item_seconds * max(idle, 0.5 * (1.0 + work.coefficient_of_variation) * (n - 1) / n)
