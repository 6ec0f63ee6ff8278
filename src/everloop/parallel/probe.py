"""The dry run: the first few items, run here and timed, and what they tell about the rest.

What is measured, each only as far as it can still change the decision:

1. **Time**: wall clock of each item, the calling thread's CPU time (a function that waits uses little), the process's (one that computes
   on several cores by itself uses more than the wall clock). The first item is left out of the mean where it took much longer than the
   others: imports and caches are warmed once, not per item.
2. **Size**: item and result are pickled and unpickled once, timed. What cannot be pickled rules processes out, and is named.
3. **The GIL**: a few more items on as many threads as there are cores. The sum of the threads' CPU times over the wall time is how many
   cores they kept busy together: 1 where each holds the GIL, more where they let it go. (Only CPU times enter, so items of unequal
   length disturb this less than a comparison of durations.) Meanwhile this thread naps, and sees how soon it gets the GIL back.

The results are kept (`Done`): in `execute` and `stream` every item is run exactly once, whoever runs it. `limit` bounds how many items are
taken from the input, for a stream may be read no further than its buffer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from everloop.parallel.constants import MAX_IO_THREADS
from everloop.parallel.gil import Ran, at_once, failure_of, gil_share
from everloop.parallel.signals import by_a_handler
from everloop.parallel.source import Source
from everloop.parallel.timers import Timers, peak_memory
from everloop.parallel.work import Done

TINY = 0.002
"""Seconds of remaining work below which nothing can be gained: not even a thread is worth its start."""
WORTH_PICKLING = 0.01
"""Seconds of remaining work from which it is worth knowing what processes would cost."""
SETTLED = 0.001
"""Seconds of sampling after which the mean is no longer a matter of the clock's ticks."""
TRIAL = 0.01
"""CPU seconds that the trial of the GIL takes."""
SHORT = 0.06
"""Seconds: a first item that took less is followed by a second one whatever it costs, since the first may have paid for imports."""
MOST = 40
"""Times `sample_size` items, at most, where they are tiny and their results are kept."""
_SIDE_BY_SIDE = 64
PATIENCE = 0.05
"""Share of the whole work that the dry run may take before it ends with fewer items than it was to run."""


@dataclass(frozen=True)
class Probe:
    """What is known of a function and its items. Times in seconds, sizes in bytes."""

    items: int
    """Run to learn it; 0 where all that were run failed. How long a failure takes says nothing of those that do not fail."""
    item_seconds: float
    """Wall time of one, undisturbed."""
    coefficient_of_variation: float = 0.0
    cpu_share: float = 1.0
    """CPU time over wall time of the thread that runs it, in [0, 1]: 0 waits, 1 computes."""
    cores_used: float = 1.0
    """Cores that one item keeps busy by itself (BLAS, OpenMP)."""
    gil_share: float = 1.0
    """Share of its CPU time that it holds the GIL; 1 where that was not measured."""
    gil_measured: bool = False
    read_seconds: float = 0.0
    """What the input takes to produce one item."""
    item_bytes: int | None = None
    """Pickled; None where that was not worth knowing."""
    result_bytes: int | None = None
    travel_seconds: float = 0.0
    """Pickling and unpickling one item and its result."""
    obstacle: str = ""
    """Why it cannot run in processes: which part cannot be pickled. Empty where it can, or nobody looked."""
    memory_bytes: int = 0
    """By which the process grew at its largest while it ran one."""
    failure: str = ""
    """How an item of the sample failed."""
    seconds: float = 0.0
    """Taken by the dry run."""

    @property
    def only_failures(self) -> bool:
        """Something was run, and still nothing is known of how long items take."""
        return bool(self.failure) and not self.items


@dataclass
class DryRun:
    """A probe and the results that it came by: hand `done` to the engine, and what is left of the input after it."""

    probe: Probe
    done: list[Done] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(each.count for each in self.done)

    def left(self, total: int | None) -> float:
        """Seconds of serial work that remain."""
        return math.inf if total is None else (total - self.count) * self.probe.item_seconds

    @property
    def sampled(self) -> list[Any]:
        """The items that it took from the input, in order."""
        return [item for each in self.done for item in each.chunk.items]


def dry_run(
    func: Callable[[Any], Any],
    source: Source,
    *,
    size: int = 5,
    limit: float = math.inf,
    total: int | None = None,
    cores: Callable[[], int] = lambda: 1,
    timers: Timers | None = None,
) -> DryRun:
    """`sample`, and `examine` what it found."""
    run = sample(func, source, size=size, limit=limit, total=total, cores=cores, timers=timers)
    examine(func, source, run, limit=limit, total=total, cores=cores, timers=timers)
    return run


def sample(
    func: Callable[[Any], Any],
    source: Source,
    *,
    size: int,
    limit: float = math.inf,
    total: int | None = None,
    cores: Callable[[], int] = lambda: 1,
    timers: Timers | None = None,
) -> DryRun:
    """Takes `size` items from `source` and runs them here: fewer where they last long enough to tell, more (to `limit`) where they are
    too short to be timed. `total`: items of the whole input, where known."""
    if size < 1 or limit < 1:
        return DryRun(Probe(items=0, item_seconds=0.0))
    return _Subject(func, source, timers or Timers()).sample(size, limit, total, cores)


def examine(
    func: Callable[[Any], Any],
    source: Source,
    run: DryRun,
    *,
    limit: float = math.inf,
    total: int | None = None,
    cores: Callable[[], int] = lambda: 1,
    timers: Timers | None = None,
) -> None:
    """Adds to `run` what only parallel work needs to know (2 and 3 above), where so much is left that it could pay."""
    timers = timers or Timers()
    probe = run.probe
    left = run.left(total)
    if probe.failure or not run.done or left < WORTH_PICKLING:
        return
    began = timers.wall()
    first = run.done[0]
    run.probe = measure_travel(probe, first.chunk.items, first.values, timers)
    if probe.cpu_share > 0.3 and (threads := min(cores(), 4)) > 1:
        trial = max(threads, math.ceil(TRIAL / max(probe.item_seconds, 1e-6)))
        quick = trial * probe.read_seconds < SHORT  # an input that is slow to come would have us wait for all of these
        if quick and trial * probe.item_seconds < PATIENCE * left and trial <= limit - run.count:
            _Subject(func, source, timers).try_threads(run, trial, threads)
    run.probe = replace(run.probe, seconds=probe.seconds + timers.wall() - began)


@dataclass(frozen=True)
class _Subject:
    """The function under trial, and where its items come from."""

    func: Callable[[Any], Any]
    source: Source
    timers: Timers

    def sample(self, size: int, limit: float, total: int | None, cores: Callable[[], int]) -> DryRun:
        """Items one after the other, on this thread."""
        timers, clock = self.timers, self.timers.wall
        ran = Ran(first=0)
        reading = 0.0
        resident = peak_memory()
        queued, thread, process, began = timers.queued(), timers.thread(), timers.process(), clock()
        before, cpu, busy = began, 0.0, 0.0
        # Tiny items are too short to time five of them; where results are kept, more of them cost nothing.
        most = min(limit, MOST * size)
        while taken := self.source.take(1):
            item = taken[0]
            started = clock()
            self.run(ran, item)
            if ran.failures:  # what that took says nothing of the others: the clocks stay where they were before it
                break
            reading += started - before
            cpu, busy, before = timers.thread() - thread, timers.process() - process, clock()
            spent, count = before - began, len(ran.items)
            if count >= most or (count >= size and spent >= SETTLED):
                break
            if count == 1 and spent < SHORT:
                continue
            if spent < SETTLED:
                continue
            at_work = cpu + timers.queued() - queued
            if spent > PATIENCE * self.at_best(total, spent / count, at_work / spent, cores):
                break
        if not ran.items:
            return DryRun(Probe(items=0, item_seconds=0.0))
        ran.cpu, seconds = timers.thread() - thread, clock() - began
        good = ran.times[: len(ran.times) - len(ran.failures)]
        if not good:
            return DryRun(Probe(items=0, item_seconds=0.0, failure=ran.failed, seconds=seconds), [ran.done()])
        wall = before - began
        disturbed = min(timers.queued() - queued, wall - cpu)
        alone = max(wall - disturbed, 1e-9)
        mean, variation = steady(sorted(good)[:-1] if disturbed > 0.1 * wall and len(good) > 2 else good)
        each = min(mean, alone / len(good))
        probe = Probe(
            items=len(good),
            item_seconds=each,
            coefficient_of_variation=variation,
            cpu_share=min(1.0, cpu / max(alone - reading, cpu, 1e-9)),
            # The clock of processes ticks slowly: nothing short can be told by it.
            cores_used=max(1.0, busy / alone) if alone > 0.005 else 1.0,
            read_seconds=max(0.0, min(reading, alone - each * len(good))) / len(good),
            memory_bytes=max(0, peak_memory() - resident),
            failure=ran.failed,
            seconds=seconds,
        )
        return DryRun(probe, [ran.done()])

    @staticmethod
    def at_best(total: int | None, each: float, at_work: float, cores: Callable[[], int]) -> float:
        """Seconds that the whole work could take if all of it went well. `at_work`: the share of its time that it computes."""
        if total is None:
            return 1.0
        return total * each / min(total, cores() if at_work > 0.5 else MAX_IO_THREADS)

    def run(self, ran: Ran, item: Any) -> None:
        began = self.timers.wall()
        try:
            value = self.func(item)
        except (Exception, SystemExit) as error:
            if by_a_handler(error):
                raise
            value = None
            ran.failures.append(failure_of(len(ran.items), item, error))
        ran.times.append(self.timers.wall() - began)
        ran.items.append(item)
        ran.values.append(value)

    def try_threads(self, run: DryRun, count: int, threads: int) -> None:
        """`count` more items on `threads` threads at once; adds them to `run`, and what they tell to its probe."""
        items = self.source.take(count)
        ran = Ran(first=run.count, number=1)
        if len(items) < threads:  # the input ended: they are too few to tell anything, but they are read
            used = self.timers.thread()
            for item in items:
                self.run(ran, item)
            ran.cpu = self.timers.thread() - used
        else:
            busy, late = at_once(self.func, ran, items, threads=threads, timers=self.timers)
            run.probe = replace(run.probe, gil_share=gil_share(busy, late, threads), gil_measured=True)
        if items:
            run.done.append(ran.done())


def steady(times: list[float]) -> tuple[float, float]:
    """Mean and coefficient of variation, without the first where that warmed something up: three times as long as any other."""
    if len(times) > 2 and times[0] > 3.0 * max(times[1:]):
        times = times[1:]
    mean = sum(times) / len(times)
    if len(times) < 2 or mean <= 0:
        return mean, 0.0
    variance = sum((each - mean) ** 2 for each in times) / (len(times) - 1)
    return mean, math.sqrt(variance) / mean


def measure_travel(probe: Probe, items: list[Any], results: list[Any], timers: Timers | None = None) -> Probe:
    """`probe` with what it takes to send one of `items` there and one of `results` back, or with what keeps them from it."""
    from everloop.parallel import payload

    clock = (timers or Timers()).thread
    sizes, seconds = [], 0.0
    for what, values in (("item 0", items), ("its result", results)):
        # The first alone shows whether it can be sent; small ones then show what they take side by side, as in a chunk.
        for count in (1, min(len(values), _SIDE_BY_SIDE)):
            began = clock()
            try:
                packed, parts = payload.dump(values[:count], from_main=True)
                payload.load(packed, parts)
            except Exception as error:
                return replace(probe, obstacle=str(payload.not_picklable(what, values[0], error)))
            took = clock() - began
            if took > SETTLED:
                break
        sizes.append((len(packed) + sum(part.nbytes for part in parts)) // count)
        seconds += took / count
    return replace(probe, item_bytes=sizes[0], result_bytes=sizes[1], travel_seconds=seconds)
