"""A process of its own for what must not share one: memory over a long stream, and workers that are killed.

    python -m everloop.app.bench.parallel_child memory small 10000000
    python -m everloop.app.bench.parallel_child kills 20

One line of JSON on stdout. Whatever it measures is not disturbed by other people's pools, and its children are the engine's workers only.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from everloop.app.bench.parallel_workloads import megabyte, numbered, small, turns_per_second

SAMPLES = 200
"""How often the resident memory is read over a stream."""


def memory(kind: str, count: int) -> dict[str, Any]:
    """Streams `count` results through two processes and forgets each. Resident memory in MiB, medians over the second tenth of the
    stream (`early`) and over the last (`late`), of this process and of the largest worker."""
    from everloop.parallel import stream

    func = {"small": small, "megabyte": megabyte}[kind]
    samples: list[tuple[float, float]] = []
    every = max(1, count // SAMPLES)
    began = time.perf_counter()
    got = bytes_got = 0
    for result in stream(func, iter(range(count)), executor="process", n_jobs=2, progress=False):
        if kind == "megabyte":
            wrong = int.from_bytes(result[:8], "big") != got
            bytes_got += len(result)
        else:
            wrong = result != got + 1
        if wrong:
            raise ValueError(f"result {got} is another one's")
        got += 1
        if got % every == 0:
            samples.append(resident())
    took = time.perf_counter() - began
    if got != count:
        raise ValueError(f"{got} results for {count} items")
    tenth = len(samples) // 10
    early, late = samples[tenth : 2 * tenth], samples[-tenth:]
    return {
        "items": got,
        "bytes": bytes_got,
        "seconds": took,
        "parent": [statistics.median(x for x, _ in part) for part in (early, late)],
        "worker": [statistics.median(x for _, x in part) for part in (early, late)],
        "peak": [max(x for x, _ in samples), max(x for _, x in samples)],
    }


def resident() -> tuple[float, float]:
    """MiB of this process and of its largest child."""
    import psutil

    me = psutil.Process()
    children = [0.0]
    for child in me.children(recursive=True):
        try:
            children.append(child.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            continue
    return me.memory_info().rss / 2**20, max(children)


class Killer(threading.Thread):
    """Sends SIGKILL to a random worker at random moments, so many times."""

    def __init__(self, times: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.times, self.draw = times, random.Random(seed)
        self.killed: list[int] = []
        self.over = threading.Event()
        self.stop = threading.Event()

    def run(self) -> None:
        import psutil

        me = psutil.Process()
        while len(self.killed) < self.times and not self.stop.wait(self.draw.uniform(0.02, 0.2)):
            workers = [each for each in me.children() if each.pid not in self.killed]  # one may not be reaped yet
            if workers:
                victim = self.draw.choice(workers)
                victim.kill()
                self.killed.append(victim.pid)
        self.over.set()


def kills(times: int) -> dict[str, Any]:
    """Items of 1 ms until `times` workers have been killed, and five hundred more; then what is missing, and what is there twice."""
    from everloop.parallel import stream
    from everloop.parallel.hooks import ExecutionHooks

    class Watch(ExecutionHooks):
        report: Any = None

        def on_end(self, event: Any) -> None:
            self.report = event.report

    turns = round(1e-3 * turns_per_second())
    killer, watch = Killer(times, seed=20), Watch()
    given: list[int] = []

    def endless(after: int = 500) -> Iterator[tuple[int, int]]:
        while after:
            after -= killer.over.is_set()
            given.append(len(given))
            yield given[-1], turns

    killer.start()
    try:
        got = list(numbers(stream(numbered, endless(), executor="process", n_jobs=2, hooks=[watch], progress=False)))
    finally:
        killer.stop.set()
        killer.join()
    return {
        "items": len(given),
        "killed": len(killer.killed),
        "missing": len(set(given) - set(got)),
        "twice": len(got) - len(set(got)),
        "in_order": got == sorted(got),
        "deaths": watch.report.deaths if watch.report else None,
        "seconds": watch.report.wall_seconds if watch.report else None,
    }


def numbers(results: Iterable[Any]) -> Iterator[int]:
    for result in results:
        yield int(result)


def main(arguments: list[str]) -> None:
    found = memory(arguments[1], int(arguments[2])) if arguments[0] == "memory" else kills(int(arguments[1]))
    print(json.dumps(found))  # noqa: T201 - this line is the result


if __name__ == "__main__":
    main(sys.argv[1:])
