"""What a dry run finds out, by timers that stand still until the function under trial moves them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.parallel.workloads import same, sleep

from everloop.parallel import optimize
from everloop.parallel.gil import gil_share, typical_delay
from everloop.parallel.probe import MOST, SHORT, DryRun, Probe, dry_run, examine, sample, steady
from everloop.parallel.source import Source
from everloop.parallel.timers import Timers


class Time:
    """A thread's four clocks."""

    def __init__(self) -> None:
        self.wall = self.thread = self.process = self.queued = 0.0

    @property
    def timers(self) -> Timers:
        return Timers(lambda: self.wall, lambda: self.thread, lambda: self.process, lambda: self.queued)

    def pass_by(self, *, working: float = 0.0, waiting: float = 0.0, queueing: float = 0.0, cores: float = 1.0) -> None:
        self.wall += working + waiting + queueing
        self.thread += working
        self.process += working * cores
        self.queued += queueing


def probed(**passing: Any) -> tuple[Probe, DryRun]:
    """A sample of five of a hundred items that each let the time pass so."""
    now = Time()
    run = sample(lambda item: now.pass_by(**passing), Source([0] * 100), size=5, total=100, timers=now.timers)
    return run.probe, run


def test_work() -> None:
    probe, run = probed(working=0.001)
    assert probe.item_seconds == pytest.approx(0.001)
    assert probe.cpu_share == pytest.approx(1.0)
    assert probe.cores_used == 1.0
    assert run.count == 5


def test_waiting() -> None:
    probe, _ = probed(working=0.0001, waiting=0.0009)
    assert probe.item_seconds == pytest.approx(0.001)
    assert probe.cpu_share == pytest.approx(0.1)


def test_queueing_for_a_core_is_neither_work_nor_waiting() -> None:
    probe, _ = probed(working=0.001, queueing=0.004)
    assert probe.item_seconds == pytest.approx(0.001)
    assert probe.cpu_share == pytest.approx(1.0)


def test_a_function_that_is_parallel_by_itself() -> None:
    probe, _ = probed(working=0.02, cores=3.5)
    assert probe.cores_used == pytest.approx(3.5)


def test_the_first_item_is_left_out_where_it_warmed_something_up() -> None:
    assert steady([9.0, 1.0, 1.0, 1.0]) == (1.0, 0.0)
    assert steady([2.0, 1.0, 1.0])[0] == pytest.approx(4 / 3), "twice as long may be chance"
    assert steady([5.0]) == (5.0, 0.0)


def test_how_much_durations_vary() -> None:
    mean, variation = steady([1.0, 3.0])
    assert mean == 2.0
    assert variation == pytest.approx(2**0.5 / 2)


def ran(item_seconds: float, total: int | None, cores: int = 2, limit: float = float("inf")) -> int:
    now = Time()
    source = Source(iter(range(total or 10_000)))
    run = sample(
        lambda item: now.pass_by(working=item_seconds),
        source,
        size=5,
        limit=limit,
        total=total,
        cores=lambda: cores,
        timers=now.timers,
    )
    left = len(source.take(100_000))
    assert run.count + left == (total or 10_000), "what is not run is left in the input"
    return run.count


def test_long_items_end_the_sample_early() -> None:
    assert ran(1.0, total=20) == 1
    assert ran(SHORT / 2, total=20) == 2, "one more, in case that the first has paid for imports"
    assert ran(0.02, total=10_000) == 5


def test_tiny_items_are_run_until_they_can_be_timed() -> None:
    assert ran(1e-5, total=1_000) == pytest.approx(100, abs=1)
    assert ran(1e-9, total=1_000) == 5 * MOST


def test_no_more_is_read_than_is_allowed() -> None:
    assert ran(1e-9, total=1_000, limit=3) == 3
    assert ran(1e-9, total=None, limit=7) == 7
    assert ran(1e-5, total=3) == 3, "the whole input"


def test_every_item_is_run_once_and_its_result_kept_in_order() -> None:
    seen: list[int] = []

    def square(item: int) -> int:
        seen.append(item)
        until = time.thread_time() + 1e-4
        while time.thread_time() < until:
            pass
        return item * item

    source = Source(range(20_000))
    run = dry_run(square, source, total=20_000, cores=lambda: 2)
    assert run.probe.gil_measured
    assert len(run.done) == 2
    assert sorted(seen) == list(range(run.count))
    assert run.sampled == list(range(run.count))
    assert [value for done in run.done for value in done.values] == [item * item for item in range(run.count)]
    assert [done.chunk.first for done in run.done] == [0, run.done[0].count]
    assert source.take(1) == [run.count]


def test_what_an_iterator_raises_is_kept_for_the_run() -> None:
    def broken() -> Any:
        yield 1
        raise OSError("the disk is gone")

    source = Source(broken())
    run = sample(same, source, size=5)
    assert run.count == 1
    assert isinstance(source.error, OSError)


def test_an_item_that_fails_ends_the_sample() -> None:
    def fails(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    run = dry_run(fails, Source(range(10_000)), total=10_000, cores=lambda: 2)
    (done,) = run.done
    assert done.count == 3
    assert [(each.index, str(each.error), each.item) for each in done.failures] == [(2, "two", 2)]
    assert "ValueError: two" in done.failures[0].traceback
    assert run.probe.items == 2
    assert run.probe.failure.startswith("item 2: ValueError: two (in fails, test_probe.py:")


def test_how_long_a_failing_item_takes_says_nothing() -> None:
    now = Time()

    def fails(item: int) -> None:
        if item == 2:
            now.pass_by(waiting=5.0, working=3.0, cores=4.0)
            raise TimeoutError("nobody answers")
        now.pass_by(working=0.001)

    run = sample(fails, Source(range(100)), size=5, total=100, timers=now.timers)
    assert run.probe.item_seconds == pytest.approx(0.001)
    assert run.probe.coefficient_of_variation == pytest.approx(0.0)
    assert run.probe.cpu_share == pytest.approx(1.0)
    assert run.probe.cores_used == 1.0
    assert run.probe.read_seconds == pytest.approx(0.0)
    assert run.probe.seconds == pytest.approx(8.002), "it took that time, though"
    assert run.done[0].cpu_seconds == pytest.approx(3.002)


def test_a_function_that_always_fails_is_not_praised() -> None:
    def fails(item: int) -> None:
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass
        raise ValueError("always")

    result = optimize(fails, range(10_000))
    assert (result.executor_type, result.n_jobs, result.estimated_speedup) == ("serial", 1, 1.0)
    assert (result.plan.item_seconds, result.plan.predicted_seconds) == (None, None)
    assert "what an item takes is not known" in result.reason
    (warning,) = result.warnings
    assert "item 0: ValueError: always (in fails, test_probe.py:" in warning
    assert warning in result.explain()
    assert optimize(fails, range(10_000), executor="thread").executor_type == "thread", "the caller's word stands"


def test_a_failure_on_a_thread_of_the_trial_is_a_failure_like_any_other() -> None:
    def fails(item: int) -> int:
        if threading.current_thread().name == "everloop-trial":
            raise SystemExit("not here")
        until = time.thread_time() + 1e-3
        while time.thread_time() < until:
            pass
        return item

    run = dry_run(fails, Source(range(10_000)), total=10_000, cores=lambda: 2)
    trial = run.done[1]
    assert len(trial.failures) == trial.count > 1
    assert trial.failures[0].index == 0


def examined(func: Callable[[Any], Any], items: list[Any]) -> Probe:
    run = DryRun(Probe(items=1, item_seconds=1.0))
    run.done = sample(func, Source(items[:1]), size=1).done
    examine(func, Source(items[1:]), run, total=1_000)
    return run.probe


def test_sizes_are_those_of_the_pickles() -> None:
    probe = examined(lambda item: b"x" * 10_000, [b"y" * 1_000])
    assert probe.item_bytes == pytest.approx(1_000, abs=50)
    assert probe.result_bytes == pytest.approx(10_000, abs=50)
    assert not probe.obstacle


def test_an_item_that_cannot_be_pickled_is_named() -> None:
    probe = examined(lambda item: 1, [{"lock": threading.Lock()}])
    assert "item 0" in probe.obstacle
    assert "lock" in probe.obstacle


def test_a_result_that_cannot_be_pickled_is_named() -> None:
    assert "result" in examined(lambda item: threading.Lock(), [1]).obstacle


def test_nothing_more_is_found_out_where_too_little_is_left() -> None:
    run = dry_run(same, Source([threading.Lock()] * 10), total=10, cores=lambda: pytest.fail("nobody needs to know"))
    assert not run.probe.obstacle
    assert run.probe.item_bytes is None


def test_what_waits_needs_no_trial_of_the_gil() -> None:
    run = dry_run(sleep, Source([0.002] * 1_000), total=1_000, cores=lambda: 2)
    assert run.probe.cpu_share < 0.3
    assert not run.probe.gil_measured


@pytest.mark.parametrize(
    ("busy", "late", "share"),
    [
        (1.0, 0.005, 1.0),  # one at a time, and whoever wakes up waits for the GIL
        (1.95, 0.0001, 0.25),  # both cores, nobody waits: with two threads it cannot be told more exactly
        (1.0, 0.0001, 0.5),  # the scheduler left both on one core, but nobody waits
        (1.5, 0.003, 1 / 1.5),
    ],
)
def test_how_long_the_gil_is_held(busy: float, late: float, share: float) -> None:
    assert gil_share(busy, late, threads=2) == pytest.approx(share)


def test_one_long_wait_for_the_gil_outweighs_some_short_naps() -> None:
    assert typical_delay([0.00005] * 20) == 0.00005
    assert typical_delay([0.00005, 0.00005, 0.00005, 0.009]) == 0.009
    assert typical_delay([0.00005] * 20 + [0.005]) == 0.00005, "one delay by another program"
    assert typical_delay([]) > 0.001


def test_an_empty_input() -> None:
    run = dry_run(same, Source([]), total=0)
    assert run.count == 0
    assert run.probe.items == 0
