"""The best fixed settings of one workload, found by trying: executors × workers × chunk sizes, all through our own `execute`.

Three steps keep it within a minute: every executor with every number of workers at a middling chunk size, then every chunk size for those that
came within half of the best, and the fastest few of all go into the race, where only interleaved medians count. The pool is warm,
nothing is probed and nothing is learned: this is what somebody reaches who knows the answer.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everloop.app.bench.parallel_workloads import Workload

if TYPE_CHECKING:
    from everloop.parallel.pool import PoolManager

Run = Callable[[Workload], list[Any]]


@dataclass(frozen=True)
class Setting:
    executor: str
    workers: int
    chunksize: int

    def __str__(self) -> str:
        return self.executor if self.executor == "serial" else f"{self.executor} {self.workers} × {self.chunksize}"


def fixed(setting: Setting, pool: PoolManager) -> Run:
    from everloop.parallel import execute

    def run(work: Workload) -> list[Any]:
        results: list[Any] = execute(
            work.func,
            work.data(),
            executor=setting.executor,
            n_jobs=setting.workers,
            chunksize=setting.chunksize,
            pool_manager=pool,
            progress=False,
        )
        return results

    return run


def timed(work: Workload, run: Run, side: str) -> float:
    """Seconds until all results are there. They are checked afterwards, and freed before the next one begins."""
    gc.collect()
    began = time.perf_counter()
    results = run(work)
    took = time.perf_counter() - began
    work.check(results, side)
    return took


def teams(cores: int) -> list[tuple[str, int]]:
    """Executors with their numbers of workers. More threads than cores are for what waits."""
    return [
        ("serial", 1),
        ("thread", cores),
        ("thread", 4 * cores),
        ("thread", 32),
        ("process", cores),
        ("process", 2 * cores),
    ]


def chunk_sizes(items: int, workers: int) -> list[int]:
    """From one item to one chunk for each worker. One item at a time is left out where there are so many that it cannot be best."""
    parts = (512, 128, 32, 8, 4, 1)
    sizes = {max(1, items // (workers * part)) for part in parts}
    if items <= 5000:
        sizes.add(1)
    return sorted(sizes)


def screen(work: Workload, pool: PoolManager, cores: int, *, keep: int = 3) -> dict[Setting, float]:
    """The fastest `keep` settings of the grid with their one time each; to be measured again."""
    tried: dict[Setting, float] = {}

    def attempt(setting: Setting) -> None:
        if setting not in tried:
            tried[setting] = timed(work, fixed(setting, pool), str(setting))

    for executor, workers in teams(cores):
        attempt(Setting(executor, workers, max(1, len(work) // (workers * 16))))
    near = within(tried, 1.5)
    for team in {(setting.executor, setting.workers) for setting in near if setting.executor != "serial"}:
        for size in chunk_sizes(len(work), team[1]):
            attempt(Setting(*team, size))
    return {setting: tried[setting] for setting in sorted(tried, key=tried.__getitem__)[:keep]}


def within(tried: dict[Setting, float], factor: float) -> Sequence[Setting]:
    limit = min(tried.values()) * factor
    return [setting for setting, took in tried.items() if took <= limit]
