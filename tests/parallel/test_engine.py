"""The loop, over an executor in virtual time: what comes out, when, and what is never exceeded."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.parallel.scripted import Scripted, Unsendable
from tests.parallel.workloads import sleep_and_square, square

from everloop.core.errors import Closed, ItemFailed, NotPicklable, WorkerDied
from everloop.parallel.engine import Run
from everloop.parallel.executors.opening import open_executor
from everloop.parallel.hooks import ChunkDone, Ended, ExecutionHooks, ItemError, Started
from everloop.parallel.options import RunOptions
from everloop.parallel.plan import ChunkBounds, Plan
from everloop.parallel.pool import PoolManager
from everloop.parallel.report import RunReport
from everloop.parallel.work import Chunk, Done, ItemFailure
from everloop.testing import ManualClock

PLAN = Plan("process", 2, 1)
ADAPTIVE = Plan("process", 2, 1, adaptive=ChunkBounds())


class Bench:
    """A run and what is needed to look at it."""

    def __init__(
        self,
        func: Callable[[Any], Any],
        items: Iterable[Any],
        plan: Plan = PLAN,
        *,
        total: int | None = None,
        done: tuple[Done, ...] = (),
        hooks: tuple[ExecutionHooks, ...] = (),
        replan: Callable[[RunReport, int | None], Plan | None] | None = None,
        memory_in_use: Callable[[], float] | None = None,
        script: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.clock = ManualClock()
        self.executors: list[Scripted] = []

        def opened(plan: Plan) -> Scripted:
            self.executors.append(Scripted(func, plan.n_jobs, self.clock, **(script or {})))
            return self.executors[-1]

        self.run = Run(
            func,
            items,
            plan,
            RunOptions(**options),
            total=total,
            done=done,
            hooks=hooks,
            open_executor=opened,
            replan=replan,
            clock=self.clock,
            memory_in_use=memory_in_use,
            rng=random.Random(7),
        )

    @property
    def executor(self) -> Scripted:
        return self.executors[-1]

    @property
    def report(self) -> RunReport:
        return self.run.report


def fails_at(*bad: Any) -> Callable[[Any], Any]:
    def func(item: Any) -> Any:
        if item in bad:
            raise ValueError(f"bad {item}")
        return item * 10

    return func


def collect(run: Run, results: list[Any]) -> None:
    for value in run:
        results.append(value)


class Counted:
    """An iterator that knows how far it was read."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.read = 0
        self._items = iter(items)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.read += 1
        return item


# -- what comes out


@given(
    count=st.integers(0, 120),
    workers=st.integers(1, 4),
    chunksize=st.integers(1, 20),
    adaptive=st.booleans(),
    ordered=st.booleans(),
    buffer=st.none() | st.integers(1, 40),
    known=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_item_comes_out_once_whatever_happens(
    count: int,
    workers: int,
    chunksize: int,
    adaptive: bool,
    ordered: bool,
    buffer: int | None,
    known: bool,
    seed: int,
) -> None:
    """Durations vary a thousandfold, workers die, items fail once and are tried again."""
    rng = random.Random(seed)
    durations = [rng.choice((0.0001, 0.01, 0.1)) for _ in range(count)]
    deaths = {item: rng.choice((0, 0, 0, 0, 1, 2)) for item in range(count)}
    failures = {item: rng.choice((0, 0, 0, 1)) for item in range(count)}

    def func(item: int) -> int:
        if failures[item]:
            failures[item] -= 1
            raise ValueError(item)
        return item * 10

    def kills(item: int) -> bool:
        deaths[item] -= 1
        return deaths[item] >= 0

    plan = Plan(
        "process", workers, chunksize, ordered=ordered, buffer_size=buffer, adaptive=ChunkBounds() if adaptive else None
    )
    source = Counted(range(count))
    bench = Bench(
        func,
        source,
        plan,
        total=count if known else None,
        script={"seconds": durations.__getitem__, "kills": kills},
        retries=1,
    )
    results = []
    for value in bench.run:
        results.append(value)
        assert source.read - (len(results) - 1) <= (buffer or count)
    assert (results if ordered else sorted(results)) == [item * 10 for item in range(count)]
    assert bench.report.items >= count
    assert not bench.executors or bench.executor.closed is False


@pytest.mark.parametrize("kind", ["serial", "thread", "process"])
@pytest.mark.parametrize("ordered", [True, False])
def test_real_executors_give_the_same(kind: str, ordered: bool, pool: PoolManager) -> None:
    plan = Plan(kind, 2, 3, ordered=ordered, buffer_size=20)  # type: ignore[arg-type]

    def run(items: Iterable[int]) -> Run:
        return Run(
            square,
            items,
            plan,
            RunOptions(),
            open_executor=lambda plan: open_executor(plan.executor, square, plan.n_jobs, pool=pool),
        )

    expected = [item * item for item in range(200)]
    assert run(range(200)).results() == expected
    assert sorted(run(iter(range(200)))) == expected


def test_execute_is_in_order_even_where_the_plan_is_not() -> None:
    durations = [0.1, 0.001, 0.05, 0.002]
    bench = Bench(
        lambda item: item, range(4), Plan("process", 2, 1, ordered=False), script={"seconds": durations.__getitem__}
    )
    assert bench.run.results() == [0, 1, 2, 3]


def test_unordered_results_come_as_they_are_done() -> None:
    durations = [0.1, 0.001, 0.002, 0.003]
    plan = Plan("process", 2, 1, ordered=False, buffer_size=4)
    bench = Bench(lambda item: item, range(4), plan, script={"seconds": durations.__getitem__})
    assert list(bench.run) == [1, 2, 3, 0]


def test_nothing_is_opened_for_no_items() -> None:
    bench = Bench(square, [])
    assert bench.run.results() == []
    assert bench.executors == []


def test_a_run_is_carried_out_once() -> None:
    bench = Bench(square, [1])
    bench.run.results()
    with pytest.raises(Closed):
        bench.run.results()


def test_what_the_dry_run_did_is_not_done_again() -> None:
    sample = Done(Chunk(0, 0, [0, 1]), [0, 1], 2, seconds=0.02)
    bench = Bench(square, range(2, 6), done=(sample,), total=6)
    assert bench.run.results() == [0, 1, 4, 9, 16, 25]
    assert bench.executor.ran == [2, 3, 4, 5]
    assert (bench.report.sampled, bench.report.sampled_seconds, bench.report.items) == (2, 0.02, 6)


def test_a_failure_of_the_dry_run_is_treated_as_any() -> None:
    sample = Done(Chunk(0, 0, [0, 1]), [0, None], 2, failures=[ItemFailure(1, ValueError("once"))])
    bench = Bench(square, range(2, 4), done=(sample,), retries=1)
    assert bench.run.results() == [0, 1, 4, 9]
    assert bench.executor.ran.count(1) == 1


# -- lazily, and never further ahead than the buffer


def test_nothing_is_read_before_it_is_asked_for() -> None:
    source = Counted(itertools.count())
    bench = Bench(square, source, Plan("process", 2, 1, buffer_size=4))
    stream = iter(bench.run)
    assert source.read == 0
    assert next(stream) == 0
    assert source.read <= 5
    bench.run.close()


def test_the_buffer_counts_bytes_too() -> None:
    """Ten results of 100 bytes fit; the first ones, of unknown size, are asked for one a worker."""
    plan = Plan("process", 2, 50, buffer_size=1000, buffer_bytes=1000)
    source = Counted(range(100))
    bench = Bench(square, source, plan, script={"result_bytes": lambda value: 100})
    for number, _ in enumerate(bench.run):
        assert source.read - number <= 10 + 1
    assert number == 99


def test_one_result_may_be_larger_than_the_buffer() -> None:
    plan = Plan("process", 2, 5, buffer_bytes=10)
    bench = Bench(square, range(5), plan, script={"result_bytes": lambda value: 100})
    assert list(bench.run) == [0, 1, 4, 9, 16]


def test_an_abandoned_stream_frees_its_workers() -> None:
    bench = Bench(square, itertools.count(), Plan("process", 2, 1, buffer_size=6))
    for value in bench.run:
        if value > 10:
            break
    assert bench.executor.closed is True  # nobody holds the iterator any more
    bench.run.close()


def test_a_stream_is_ended_by_close() -> None:
    bench = Bench(square, itertools.count(), Plan("process", 2, 1, buffer_size=6))
    stream = iter(bench.run)
    assert [next(stream), next(stream)] == [0, 1]
    bench.run.close()
    bench.run.close()
    assert bench.executor.closed is True
    assert list(stream) == []


def test_a_run_that_is_over_keeps_nothing_alive() -> None:
    """Without the cycle collector: large inputs must not wait for it."""

    class Item:
        pass

    item = Item()
    alive = weakref.ref(item)
    gc.disable()
    try:
        run = Run(
            str,
            iter([item]),
            Plan("serial", 1, 1),
            RunOptions(),
            open_executor=lambda plan: open_executor("serial", str, 1),
        )
        run.results()
        del run, item
        assert alive() is None
    finally:
        gc.enable()


def test_the_input_s_own_exception_comes_after_what_was_read_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError("no more")

    bench = Bench(square, items(), Plan("process", 2, 3, buffer_size=20))
    results: list[int] = []
    with pytest.raises(OSError, match="no more"):
        collect(bench.run, results)
    assert results == [0, 1, 4, 9, 16]
    assert bench.executor.closed is True


def test_a_slow_consumer_finds_its_results_ready() -> None:
    """While it is away the workers go on: 40 items of 20 ms on 2 workers beside 10 ms of its own for each take the consumer's 0.4 s."""
    plan = Plan("process", 2, 1, buffer_size=8)
    bench = Bench(square, range(40), plan, script={"seconds": lambda item: 0.02})
    begun = bench.clock.monotonic()
    for _ in bench.run:
        bench.clock.advance(0.01)
    assert bench.clock.monotonic() - begun < 0.4 + 0.06


def test_a_consumer_s_time_is_not_the_run_s() -> None:
    bench = Bench(square, range(20), Plan("process", 2, 1, buffer_size=4), script={"seconds": lambda item: 0.001})
    for _ in bench.run:
        bench.clock.advance(1.0)
    assert 0.01 <= bench.report.wall_seconds < 0.1


class Trickle:
    """An input that is slow to come."""

    def __init__(self, clock: ManualClock, seconds: float, count: int) -> None:
        self.clock, self.seconds, self.left = clock, seconds, count

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        self.left -= 1
        self.clock.advance(self.seconds)
        return self.left


@pytest.mark.parametrize("plan", [ADAPTIVE, Plan("serial", 1, 100, adaptive=ChunkBounds(), item_seconds=1e-6)])
def test_results_do_not_wait_for_a_slow_input(plan: Plan) -> None:
    """A sensor gives a reading a second: each result is there when the next reading comes, not when there is a chunk full of them."""
    bench = Bench(square, ())
    run = Run(
        square,
        Trickle(bench.clock, 1.0, 20),
        replace(plan, buffer_size=100),
        RunOptions(),
        open_executor=lambda plan: Scripted(square, plan.n_jobs, bench.clock),
        clock=bench.clock,
    )
    began, late = bench.clock.monotonic(), []
    for number, _ in enumerate(run):
        late.append(bench.clock.monotonic() - began - (number + 1))
    assert len(late) == 20
    assert max(late) < 1.5, "at most the next one is waited for"


def test_chunks_of_a_given_size_are_filled_however_slow_the_input() -> None:
    bench = Bench(square, ())
    executor = Scripted(square, 1, bench.clock)
    items = Trickle(bench.clock, 1.0, 20)
    plan = Plan("process", 1, 10, buffer_size=100)
    assert (
        len(list(Run(square, items, plan, RunOptions(), open_executor=lambda plan: executor, clock=bench.clock))) == 20
    )
    assert [len(chunk.items) for chunk in executor.sent] == [10, 10]


def test_there_are_no_more_workers_than_items() -> None:
    for items, workers in ((range(3), 3), (range(100), 8), (iter(range(100)), 8)):
        bench = Bench(square, items, Plan("process", 8, 50))
        bench.run.results()
        assert bench.executor.workers == workers


# -- failures


@pytest.mark.parametrize("lazily", [False, True])
def test_an_item_that_raises_stop_iteration_does_not_end_the_loop_around_it(lazily: bool) -> None:
    def stops(item: int) -> int:
        return next(iter([])) if item == 3 else item

    run = Bench(stops, range(10)).run
    with pytest.raises(ItemFailed, match="StopIteration") as raised:
        _ = list(run) if lazily else run.results()
    assert raised.value.__notes__ == ["item 3: 3"]
    assert isinstance(raised.value.__cause__, StopIteration)


def test_execute_raises_the_item_s_own_exception_at_once() -> None:
    bench = Bench(fails_at(3), range(1000))
    with pytest.raises(ValueError, match="bad 3") as raised:
        bench.run.results()
    assert raised.value.__notes__ == ["item 3: 3"]
    assert bench.executor.closed is True
    assert len(bench.executor.ran) < 10
    assert bench.report.failed == 1


def test_a_stream_raises_in_the_item_s_place() -> None:
    """Item 5 fails long before item 2 is done; and item 2 fails too, which is what a loop would have met first."""
    durations = [0.001, 0.001, 0.5, 0.2, 0.001, 0.001, 0.001, 0.001]
    plan = Plan("process", 2, 1, buffer_size=8)
    for bad in ((5,), (2, 5)):
        bench = Bench(fails_at(*bad), range(8), plan, script={"seconds": durations.__getitem__})
        results: list[int] = []
        with pytest.raises(ValueError, match=f"bad {bad[0]}"):
            collect(bench.run, results)
        assert results == [item * 10 for item in range(bad[0])]


def test_failures_are_skipped_or_returned() -> None:
    bench = Bench(fails_at(1, 4), range(6), Plan("process", 2, 3), on_error="skip")
    assert bench.run.results() == [0, 20, 30, 50]
    assert [failure.index for failure in bench.report.failures] == [1, 4]
    bench = Bench(fails_at(1, 4), range(6), Plan("process", 2, 3), on_error="return")
    results = bench.run.results()
    assert [results[i] for i in (0, 2, 3, 5)] == [0, 20, 30, 50]
    assert (results[1].index, results[1].item, str(results[1].error)) == (1, 1, "bad 1")
    assert bench.report.failed == 2


@given(bad=st.sets(st.integers(0, 30)), chunksize=st.integers(1, 12), ordered=st.booleans())
def test_any_set_of_failures_is_skipped(bad: set[int], chunksize: int, ordered: bool) -> None:
    plan = Plan("process", 3, chunksize, ordered=ordered, buffer_size=15)
    bench = Bench(fails_at(*bad), range(31), plan, on_error="skip")
    assert sorted(bench.run) == [item * 10 for item in range(31) if item not in bad]
    assert bench.report.failed == len(bad)


def test_an_item_that_cannot_travel_fails_alone() -> None:
    items = [1, 2, Unsendable(), 4]
    bench = Bench(lambda item: item, items, Plan("process", 2, 2), on_error="return")
    results = bench.run.results()
    assert results[:2] == [1, 2]
    assert isinstance(results[2].error, NotPicklable)
    assert results[3] == 4
    with pytest.raises(NotPicklable):
        Bench(lambda item: item, items).run.results()


def test_an_interrupt_ends_what_is_running() -> None:
    class Interrupted(Scripted):
        def collect(self, timeout: float | None = None) -> list[Done]:
            raise KeyboardInterrupt

    executor = Interrupted(square, 2, ManualClock())
    run = Run(square, range(10), PLAN, RunOptions(), open_executor=lambda plan: executor, clock=ManualClock())
    with pytest.raises(KeyboardInterrupt):
        run.results()
    assert executor.closed is True


# -- workers that die


def test_a_worker_that_died_costs_nobody_a_result() -> None:
    left = {3: 1, 17: 1}

    def kills(item: int) -> bool:
        left[item] = left.get(item, 0) - 1
        return left[item] >= 0

    bench = Bench(square, range(40), Plan("process", 2, 5), script={"kills": kills})
    assert bench.run.results() == [item * item for item in range(40)]
    assert bench.report.deaths == 2


def test_poison_is_found_and_its_neighbours_live() -> None:
    bench = Bench(
        square, range(64), Plan("process", 2, 16), script={"kills": lambda item: item == 21}, on_error="return"
    )
    results = bench.run.results()
    poison = results.pop(21)
    assert isinstance(poison.error, WorkerDied)
    assert results == [item * item for item in range(64) if item != 21]
    assert bench.report.deaths <= 2 + 4 + 3  # the chunk twice, its halves, and three times alone


@given(poison=st.sets(st.integers(0, 40), max_size=8), workers=st.integers(1, 4))
def test_poison_is_no_excuse_for_other_poison(poison: set[int], workers: int) -> None:
    """What waited behind an item that killed its worker comes back untouched, which says nothing in its favour."""
    script = {"kills": poison.__contains__, "seconds": lambda item: 1e-5}
    bench = Bench(square, range(41), Plan("process", workers, 1), script=script, on_error="skip", backoff=0.0)
    assert bench.run.results() == [item * item for item in range(41) if item not in poison]
    assert bench.report.deaths == 3 * len(poison)


class Killer(ExecutionHooks):
    """Kills the worker whose chunk has just come back, which runs the next one by now; `times` times in all."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.lost = 0

    def on_chunk(self, event: ChunkDone) -> None:
        self.lost += event.lost is not None
        if self.left and event.lost is None and event.first % 5 == 0:
            self.left -= 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(event.worker, signal.SIGKILL)


@pytest.mark.parametrize("chunksize", [1, 5])
def test_twenty_killed_workers_cost_nobody_a_result(chunksize: int, pool: PoolManager) -> None:
    killer = Killer(20)
    run = Run(
        sleep_and_square,
        range(400),
        Plan("process", 2, chunksize, buffer_size=60),
        RunOptions(backoff=0.01, max_deaths=20),  # chance may kill one item's worker several times
        open_executor=lambda plan: open_executor("process", sleep_and_square, plan.n_jobs, pool=pool),
        hooks=(killer,),
    )
    assert list(run) == [item * item for item in range(400)]
    assert killer.left == 0
    assert run.report.deaths == killer.lost > 0


PROGRAM = """
import sys
from everloop.parallel.engine import Run
from everloop.parallel.executors.opening import open_executor
from everloop.parallel.hooks import ExecutionHooks
from everloop.parallel.options import RunOptions
from everloop.parallel.plan import Plan
from tests.parallel.workloads import sleep

class Tell(ExecutionHooks):
    def on_chunk(self, event):
        print(event.worker, flush=True)

opened = lambda plan: open_executor("process", sleep, plan.n_jobs)
run = Run(sleep, [0.001] * 4 + [60.0] * 4, Plan("process", 2, 1), RunOptions(), open_executor=opened, hooks=[Tell()])
run.results()
"""


def test_ctrl_c_leaves_no_process() -> None:
    root = Path(__file__).parents[2]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    )
    assert program.stdout is not None
    workers = {int(program.stdout.readline()) for _ in range(4)}
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    until = time.monotonic() + 10
    while alive := [pid for pid in workers if psutil.pid_exists(pid)]:
        assert time.monotonic() < until, f"{alive} go on"
        threading.Event().wait(0.01)


# -- keeping the workers busy, in virtual time


def makespan(durations: list[float], *, workers: int = 4, known: bool = True, plan: Plan | None = None) -> float:
    """Against the best there can be: 1.0 is perfect."""
    plan = plan or Plan("process", workers, 1, adaptive=ChunkBounds())
    items = range(len(durations))
    bench = Bench(
        lambda item: item,
        items if known else iter(items),
        plan,
        total=len(items) if known else None,
        script={"seconds": durations.__getitem__},
    )
    begun = bench.clock.monotonic()
    bench.run.results()
    return (bench.clock.monotonic() - begun) / max(sum(durations) / plan.n_jobs, max(durations))


def lognormal(count: int, mean: float, cv: float) -> list[float]:
    rng, sigma = random.Random(5), 1.0857  # of CV 1.5
    assert cv == 1.5
    return [rng.lognormvariate(0, sigma) * mean / 1.803 for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "durations"),
    [
        ("even", [0.001] * 20000),
        ("fast then slow", [0.00001] * 20000 + [0.05] * 400),
        ("slow then fast", [0.05] * 400 + [0.00001] * 20000),
        ("lognormal", lognormal(4000, 0.01, 1.5)),
        ("few", [0.05] * 20),
        ("one slow among fast", [0.0001] * 5000 + [0.25] + [0.0001] * 15000),
    ],
)
def test_all_workers_are_kept_busy(name: str, durations: list[float]) -> None:
    assert makespan(durations) < 1.06


@pytest.mark.parametrize("count", [1000, 4000, 20000])
def test_workers_end_together_where_the_end_is_not_known(count: int) -> None:
    assert makespan([0.001] * count, known=False) < 1.06


def test_a_wrong_first_chunk_size_is_survived() -> None:
    """The first items were thought to take 1 µs, and take 20 ms: without slices one worker would do them all."""
    plan = Plan("process", 4, 100_000, adaptive=ChunkBounds(), item_seconds=1e-6)
    assert makespan([0.02] * 1000, plan=plan) < 1.06


def test_fixed_chunks_are_fixed() -> None:
    bench = Bench(square, range(100), Plan("process", 2, 7))
    bench.run.results()
    assert [len(chunk.items) for chunk in bench.executor.sent] == [7] * 14 + [2]


# -- another plan on the way


def test_a_plan_that_rests_on_a_wrong_time_is_changed() -> None:
    asked: list[tuple[float | None, int | None]] = []

    def replan(report: RunReport, remaining: int | None) -> Plan | None:
        asked.append((report.recent_item_seconds, remaining))
        return Plan("process", 4, 1, adaptive=ChunkBounds(), item_seconds=report.recent_item_seconds)

    plan = Plan("serial", 1, 100, adaptive=ChunkBounds(), item_seconds=0.00001)
    bench = Bench(square, range(1000), plan, total=1000, replan=replan, script={"seconds": lambda item: 0.01})
    assert bench.run.results() == [item * item for item in range(1000)]
    assert asked[0][0] == pytest.approx(0.01)
    assert [executor.workers for executor in bench.executors] == [1, 4]
    assert [executor.closed for executor in bench.executors] == [False, False]
    assert bench.report.replanned == 1
    assert bench.report.plan.n_jobs == 4
    assert len(asked) == 1


def test_another_plan_keeps_what_was_promised() -> None:
    plan = Plan("serial", 1, 1, ordered=False, buffer_size=5, item_seconds=0.00001)
    source = Counted(range(300))
    bench = Bench(
        square,
        source,
        plan,
        replan=lambda report, remaining: Plan("process", 2, 50),
        script={"seconds": lambda item: 0.02},
    )
    for number, _ in enumerate(bench.run):
        assert source.read - number <= 5
    assert bench.report.replanned == 1
    assert (bench.report.plan.ordered, bench.report.plan.buffer_size) == (False, 5)


def test_a_plan_that_holds_is_left_alone() -> None:
    def replan(report: RunReport, remaining: int | None) -> Plan | None:
        raise AssertionError("not asked for")

    plan = Plan("process", 2, 10, item_seconds=0.01)
    bench = Bench(square, range(500), plan, replan=replan, script={"seconds": lambda item: 0.012})
    assert len(bench.run.results()) == 500


# -- what is told


class Recorder(ExecutionHooks):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_start(self, event: Started) -> None:
        self.events.append(event)

    def on_chunk(self, event: ChunkDone) -> None:
        self.events.append(event)

    def on_item_error(self, event: ItemError) -> None:
        self.events.append(event)

    def on_end(self, event: Ended) -> None:
        self.events.append(event)


def test_hooks_are_told_in_order() -> None:
    recorder = Recorder()
    bench = Bench(fails_at(1), range(4), Plan("process", 1, 2), hooks=(recorder,), on_error="skip", label="tens")
    bench.run.results()
    assert [type(event).__name__ for event in recorder.events] == [
        "Started",
        "ItemError",
        "ChunkDone",
        "ChunkDone",
        "Ended",
    ]
    assert {event.label for event in recorder.events} == {"tens"}
    assert recorder.events[-1].error is None
    assert recorder.events[-1].report is bench.report


def test_the_end_is_told_with_what_went_wrong() -> None:
    recorder = Recorder()
    bench = Bench(fails_at(0), range(4), hooks=(recorder,))
    with pytest.raises(ValueError, match="bad 0"):
        bench.run.results()
    assert isinstance(recorder.events[-1].error, ValueError)


def test_a_hook_that_raises_does_not_end_the_work() -> None:
    class Broken(ExecutionHooks):
        def on_chunk(self, event: ChunkDone) -> None:
            raise RuntimeError("oops")

    bench = Bench(square, range(4), hooks=(Broken(),))
    with pytest.warns(RuntimeWarning, match="Broken.on_chunk raised RuntimeError: oops"):
        assert bench.run.results() == [0, 1, 4, 9]


def test_the_report_says_what_happened() -> None:
    bench = Bench(square, range(10), Plan("process", 2, 5), script={"seconds": lambda item: 0.01})
    bench.run.results()
    report = bench.report
    assert (report.items, report.chunks, report.most_in_flight) == (10, 2, 10)
    assert report.item_seconds == pytest.approx(0.1)
    assert report.wall_seconds == pytest.approx(0.05)
    assert report.recent_item_seconds == pytest.approx(0.01)
    assert report.coefficient_of_variation == pytest.approx(0.0, abs=1e-6)
