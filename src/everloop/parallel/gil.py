"""Does a function let go of the GIL? A trial on several threads, whose results are kept like any others.

While they work, the calling thread naps, and notes how late it was whenever it woke up: it needs the GIL to go on.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from everloop.core.errors import explain
from everloop.parallel.timers import Timers
from everloop.parallel.work import Chunk, Done, ItemFailure

NAP = 0.0005
"""Seconds that the calling thread sleeps at a time while the trial runs, to see how soon it gets the GIL again."""


@dataclass
class Ran:
    """Consecutive items and what became of them."""

    first: int
    number: int = 0
    items: list[Any] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    failures: list[ItemFailure] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def failed(self) -> str:
        return "; ".join(f"item {each.index}: {explain(each.error)}" for each in self.failures)

    def done(self) -> Done:
        return Done(
            chunk=Chunk(number=-1 - self.number, first=self.first, items=self.items),
            values=self.values,
            count=len(self.items),
            seconds=sum(self.times),
            squares=sum(each * each for each in self.times),
            cpu_seconds=self.cpu,
            failures=self.failures,
        )


def at_once(
    func: Callable[[Any], Any], ran: Ran, items: list[Any], *, threads: int, timers: Timers
) -> tuple[float, float]:
    """Runs `items` into `ran`. Tells how many cores they kept busy together, and how late (seconds) this thread was whenever it woke up meanwhile."""
    clock = timers.wall
    ran.items, ran.values, ran.times = items, [None] * len(items), [0.0] * len(items)
    numbers = iter(range(len(items)))
    start = threading.Barrier(threads + 1)
    used: list[float] = []
    late: list[float] = []
    over = threading.Event()

    def work() -> None:
        start.wait()
        before = timers.thread()
        for number in numbers:  # `next` of a range's iterator is atomic
            began = clock()
            try:
                ran.values[number] = func(items[number])
            except BaseException as error:  # a thread that died would leave its item without an outcome
                ran.failures.append(failure_of(number, items[number], error))
            ran.times[number] = clock() - began
        used.append(timers.thread() - before)
        if len(used) == threads:
            over.set()

    workers = [threading.Thread(target=work, name="everloop-trial", daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    began = clock()
    try:
        ended = False
        while not ended:
            asleep = clock()
            ended = over.wait(NAP)
            if clock() - asleep > NAP:
                late.append(clock() - asleep - NAP)
        wall = max(clock() - began, 1e-9)
        for worker in workers:
            worker.join()
    finally:
        for _ in numbers:  # interrupted: they end after the item that they are at
            continue
    ran.cpu = sum(used)
    ran.failures.sort(key=lambda failure: failure.index)
    return ran.cpu / wall, typical_delay(late)


def typical_delay(late: list[float]) -> float:
    """The median by time: half of the trial passed in naps that ended later than that. (By number, a few long waits for the GIL would be
    outvoted by the short naps between two of the others' turns.)"""
    left = sum(late) / 2 + len(late) * NAP / 2
    for each in sorted(late):
        left -= each + NAP
        if left <= 0:
            return each
    return sys.getswitchinterval()  # nobody woke up before the trial was over


def gil_share(busy: float, late: float, threads: int) -> float:
    """The share of its CPU time that a function holds the GIL, from what a trial on `threads` threads showed.

    Two signs that it lets go: the threads kept more than one core busy; or whoever woke up got the GIL at once instead of after the switch
    interval. The second counts for more: schedulers often leave new threads on one core for their first moments.
    """
    if busy > 0.85 * threads:
        return 1.0 / (2.0 * threads)  # at most this; so few threads cannot tell more exactly
    if late < sys.getswitchinterval() / 4:
        return min(0.5, 1.0 / max(busy, 1.0))
    return 1.0 / busy if busy > 1.2 else 1.0


def failure_of(index: int, item: Any, error: BaseException) -> ItemFailure:
    return ItemFailure(index=index, error=error, traceback="".join(traceback.format_exception(error)), item=item)
