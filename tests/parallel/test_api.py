"""`optimize` and `execute` on real work with real workers."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.parallel.workloads import Refused, refuse_odd, same, seal_three, sleep, square

from everloop.core.errors import InvalidInput, NotPicklable
from everloop.parallel import ExecutionHooks, PoolManager, execute, optimize, stream
from everloop.parallel.hooks import Ended, Started

KINDS = ["serial", "thread", "process"]


def spin(seconds: float) -> float:
    """Computes for that much CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return seconds


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_the_results_of_a_loop(kind: Any) -> None:
    assert execute(square, range(1_000), executor=kind, n_jobs=None if kind is None else 2) == [
        item * item for item in range(1_000)
    ]


@pytest.mark.parametrize(
    "data", [[], (), range(0), iter([]), {}.keys()], ids=["list", "tuple", "range", "iterator", "view"]
)
def test_nothing(data: Any) -> None:
    assert execute(square, data) == []


def test_any_iterable() -> None:
    assert execute(square, iter([1, 2, 3])) == [1, 4, 9]
    assert execute(square, (item for item in range(3))) == [0, 1, 4]
    assert execute(len, {"a": 1, "bcd": 2}) == [1, 3]
    assert execute(len, {"ab"}) == [2]
    with pytest.raises(InvalidInput, match="this is text"):
        execute(len, "abc")
    with pytest.raises(InvalidInput, match="iterable"):
        execute(len, 3)  # type: ignore[call-overload]


class ByIndex:
    """As PyTorch's data sets: no `__iter__`."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> int:
        if index >= 5:
            raise IndexError(index)
        return index


class Endless:
    def __len__(self) -> int:
        raise NotImplementedError("of unknown length")

    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


@pytest.mark.parametrize("data", [ByIndex(), Endless()])
def test_data_sets(data: Any) -> None:
    assert execute(square, data) == [0, 1, 4, 9, 16]
    assert list(stream(square, data, prefer_ordered=True)) == [0, 1, 4, 9, 16]
    assert list(iter(optimize(square, data).data)) == list(range(5))


@pytest.mark.parametrize("data", [np.array(5), 5, None, "text", square])
def test_what_is_no_list_is_refused(data: Any) -> None:
    with pytest.raises(InvalidInput, match="data: ") as raised:
        execute(square, data)
    assert raised.value.field == "data"


def test_arrays() -> None:
    import numpy as np

    assert execute(float, np.arange(4.0)) == [0.0, 1.0, 2.0, 3.0]


def test_each_item_is_run_exactly_once() -> None:
    seen: list[int] = []
    results = execute(lambda item: seen.append(item) or item, (item for item in range(5_000)), executor=None)
    assert results == list(range(5_000))
    assert sorted(seen) == results


def test_waiting_work_goes_to_threads() -> None:
    results, result = execute(sleep, [0.005] * 200, return_optimization_result=True)
    assert results == [0.005] * 200
    assert result.executor_type == "thread"
    assert result.n_jobs > 8
    assert result.report is not None
    assert result.report.items == 200
    assert result.report.sampled >= 1


def test_work_for_the_processor_is_spread_and_explained() -> None:
    results, result = execute(spin, [0.004] * 300, return_optimization_result=True, profile=True)
    assert results == [0.004] * 300
    assert result.profile is not None
    assert {each.executor for each in result.profile.estimates} == {"serial", "thread", "process"}
    assert "<- chosen" in result.explain()
    assert "took" in result.explain()


def test_tiny_work_starts_nothing() -> None:
    before = threading.active_count()
    results, result = execute(square, range(20), return_optimization_result=True)
    assert results == [item * item for item in range(20)]
    assert (result.executor_type, result.n_jobs) == ("serial", 1)
    assert threading.active_count() == before


class TestOptimize:
    def test_a_list_stays_as_it_is(self) -> None:
        data = list(range(100))
        result = optimize(square, data)
        assert result.data is data
        assert result.n_jobs >= 1
        assert result.chunksize >= 1
        assert result.executor_type == "serial"
        assert result.estimated_speedup >= 0.99
        assert result.reason
        assert result.profile is None

    def test_an_iterator_still_yields_every_item(self) -> None:
        result = optimize(square, iter(range(100)))
        assert list(result.data) == list(range(100))

    def test_no_more_items_are_run_than_said(self) -> None:
        seen: list[int] = []
        optimize(seen.append, range(1_000), sample_size=3)
        assert seen == [0, 1, 2]

    def test_an_earlier_dry_run_is_remembered(self) -> None:
        seen: list[int] = []

        def work(item: int) -> None:
            seen.append(item)

        optimize(work, range(100))
        first = len(seen)
        assert "cache" in optimize(work, range(100)).explain()
        assert len(seen) == first
        optimize(work, range(100), use_cache=False)
        assert len(seen) == 2 * first

    def test_items_of_another_kind_are_other_work(self) -> None:
        seen: list[Any] = []
        optimize(seen.append, [1] * 100)
        optimize(seen.append, ["x" * 10_000] * 100)
        assert seen[-1] == "x" * 10_000

    def test_a_failing_sample_is_told(self) -> None:
        result = optimize(refuse_odd, [1, 2, 3])
        assert any("Refused" in warning for warning in result.warnings)

    def test_progress(self) -> None:
        told: list[tuple[str, float]] = []
        optimize(square, [1], progress_callback=lambda what, share: told.append((what, share)))
        assert told[0][1] == 0.0
        assert told[-1][1] == 1.0

    def test_verbose(self, capsys: pytest.CaptureFixture[str]) -> None:
        optimize(square, range(100), verbose=True)
        captured = capsys.readouterr()
        assert captured.out == "", "stdout is for data"
        assert "square over 100 items" in captured.err


class TestTheCallersWord:
    def test_is_law(self) -> None:
        _, result = execute(
            square, range(50), executor="thread", n_jobs=3, chunksize=7, return_optimization_result=True
        )
        assert (result.executor_type, result.n_jobs, result.chunksize) == ("thread", 3, 7)
        assert result.report is not None
        assert result.report.sampled == 0, "nothing had to be measured"
        assert result.plan.source == "caller"

    def test_number_of_workers_alone(self) -> None:
        _, result = execute(spin, [0.001] * 100, n_jobs=2, return_optimization_result=True)
        assert result.n_jobs == 2
        assert execute(square, range(9), n_jobs=1) == [item * item for item in range(9)]

    def test_all_cores(self) -> None:
        assert execute(square, range(50), executor="thread", n_jobs=-1) == [item * item for item in range(50)]

    def test_that_cannot_be_is_refused_before_anything_runs(self) -> None:
        seen: list[int] = []
        with pytest.raises(InvalidInput, match="executor"):
            execute(seen.append, [1], executor="fork")  # type: ignore[call-overload]
        with pytest.raises(InvalidInput, match="did you mean retries"):
            execute(seen.append, [1], retrys=3)
        with pytest.raises(InvalidInput, match="func"):
            execute(3, [1])  # type: ignore[call-overload]
        with pytest.raises(InvalidInput, match="sample_size"):
            execute(seen.append, [1], sample_size=0)
        assert seen == []


class TestFailures:
    def test_in_the_sample(self) -> None:
        with pytest.raises(Refused) as raised:
            execute(refuse_odd, [0, 1, 2])
        assert any("item 1" in note for note in raised.value.__notes__)

    @pytest.mark.parametrize("kind", KINDS)
    def test_in_a_worker(self, kind: Any) -> None:
        with pytest.raises(Refused) as raised:
            execute(refuse_odd, [0] * 50 + [7] + [0] * 50, executor=kind, n_jobs=2)
        assert raised.value.item == 7
        assert any("item 50" in note for note in raised.value.__notes__)

    def test_may_be_left_out_or_returned(self) -> None:
        assert execute(refuse_odd, range(6), on_error="skip") == [0, 2, 4]
        returned = execute(refuse_odd, range(3), on_error="return")
        assert (returned[0], returned[2]) == (0, 2)
        assert returned[1].index == 1

    def test_of_the_input_itself(self) -> None:
        def broken() -> Iterator[int]:
            yield 1
            yield 2
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            execute(same, broken())


class TestWhatCannotBePickled:
    """Caught on every path: never a hang, never an error from inside multiprocessing."""

    def test_a_function_runs_here(self) -> None:
        lock = threading.Lock()

        def locked(item: int) -> float:
            with lock:
                return spin(0.002)

        results, result = execute(locked, [1] * 400, return_optimization_result=True)
        assert results == [0.002] * 400
        assert result.executor_type in ("serial", "thread")
        again = optimize(locked, [1] * 400, use_cache=False)
        assert again.executor_type in ("serial", "thread")
        # A busy machine may look as if threads were best; else it was the lock that ruled out processes.
        assert again.executor_type == "thread" or any("lock" in warning for warning in again.warnings)

    def test_items_and_results_too(self) -> None:
        locks = [threading.Lock() for _ in range(300)]
        results, result = execute(lambda lock: spin(0.002), locks, return_optimization_result=True)
        assert len(results) == 300
        assert result.executor_type in ("serial", "thread")
        assert any("item 0" in warning for warning in result.warnings)
        made, result = execute(
            lambda item: (spin(0.002), threading.Lock()), range(300), return_optimization_result=True
        )
        assert len(made) == 300
        assert result.executor_type in ("serial", "thread")

    def test_processes_that_were_asked_for_are_refused_with_the_part_that_is_to_blame(self) -> None:
        lock = threading.Lock()
        bound = functools.partial(_with, lock)
        for call in (
            lambda: execute(bound, range(10), executor="process"),
            lambda: execute(bound, range(10), executor="process", n_jobs=2),
            lambda: optimize(bound, range(10), executor="process", n_jobs=2),
            lambda: optimize(bound, range(10), executor="process"),
        ):
            with pytest.raises(NotPicklable, match="lock"):
                call()

    def test_lambdas_and_closures_can_travel(self) -> None:
        three = 3
        assert execute(lambda item: item * three, range(100), executor="process", n_jobs=2) == [
            item * 3 for item in range(100)
        ]


def _with(lock: Any, item: int) -> int:
    with lock:
        return item


def _inner(item: int) -> tuple[int, str, int]:
    results, result = execute(spin, [0.001] * 100, return_optimization_result=True, use_cache=False)
    return len(results), result.executor_type, item


@pytest.mark.parametrize("chunksize", [1, 5, 20])
def test_a_result_that_cannot_be_read_again_spoils_no_other(chunksize: int) -> None:
    results = execute(seal_three, range(20), executor="process", n_jobs=2, chunksize=chunksize, on_error="return")
    failed = results.pop(3)
    assert isinstance(failed.error, NotPicklable)
    assert "sealed" in str(failed.error)
    assert results == [0, 1, 2, *range(4, 20)]


def test_inside_a_worker_work_is_not_spread_again() -> None:
    for kind in ("thread", "process"):
        assert execute(_inner, [1, 2], executor=kind, n_jobs=2) == [  # type: ignore[call-overload]
            (100, "serial", 1),
            (100, "serial", 2),
        ]


def test_hooks() -> None:
    class Seen(ExecutionHooks):
        def __init__(self) -> None:
            self.events: list[object] = []

        def on_start(self, event: Started) -> None:
            self.events.append(event)

        def on_end(self, event: Ended) -> None:
            self.events.append(event)

    one, two = Seen(), Seen()
    execute(square, range(10), hooks=one, label="squares")
    execute(square, range(10), hooks=[one, two])
    assert len(one.events) == 4
    assert len(two.events) == 2
    assert isinstance(one.events[0], Started)
    assert one.events[0].label == "squares"


def test_a_pool_of_ones_own_is_used_again(pool: PoolManager) -> None:
    for _ in range(3):
        execute(square, range(100), executor="process", n_jobs=2, pool_manager=pool)
    assert pool.stats()["started"] == 2
    assert pool.stats()["reused"] == 4


def test_a_timeout_runs_nothing_on_the_callers_thread() -> None:
    threads = set(execute(_thread, range(50), timeout=30.0))
    assert threading.get_ident() not in threads


def _thread(item: int) -> int:
    return threading.get_ident()


def test_a_finished_checkpoint_is_read_and_nothing_is_run(tmp_path: Path) -> None:
    seen: list[int] = []

    def work(item: int) -> int:
        seen.append(item)
        return item * item

    path = tmp_path / "run.ckpt"
    first = execute(work, range(200), checkpoint=path, executor="thread", n_jobs=2)
    assert len(seen) == 200
    assert execute(work, range(200), checkpoint=path) == first
    assert len(seen) == 200


def test_fast_items_that_turn_slow() -> None:
    data = [0.0] * 50 + [0.004] * 400
    results, result = execute(spin, data, return_optimization_result=True)
    assert results == data
    assert result.report is not None
    if result.report.replanned:
        assert any("changed on the way" in note for note in result.report.plan.notes)


async def answer(item: int) -> int:
    return item


class Asking:
    async def __call__(self, item: int) -> int:
        return item


@pytest.mark.parametrize("func", [answer, Asking(), functools.partial(answer), Asking().__call__])
def test_an_async_function_is_refused_with_what_to_do(func: Any) -> None:
    with pytest.raises(InvalidInput, match=r"asyncio\.run") as raised:
        execute(func, range(3))
    assert raised.value.field == "func"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("checkpoint", 3),
        ("checkpoint", b"bytes"),
        ("progress", "yes"),
        ("label", None),
        ("retry_on", [ValueError]),
        ("timeout", 1e300),
        ("hooks", 3),
        ("hooks", print),
        ("hooks", ExecutionHooks),
        ("hooks", [print]),
        ("settings", 3),
    ],
)
def test_options_of_the_wrong_kind_are_named_before_anything_runs(field: str, value: Any) -> None:
    ran: list[int] = []
    with pytest.raises(InvalidInput, match=f"^{field}: ") as raised:
        stream(ran.append, iter(range(9)), **{field: value})
    assert raised.value.field == field
    if field != "settings":
        with pytest.raises(InvalidInput, match=f"^{field}: "):
            execute(ran.append, iter(range(9)), **{field: value})
    assert ran == []


@pytest.mark.parametrize(
    ("call", "wrong", "right"),
    [
        (execute, "n_job", "n_jobs"),
        (execute, "chunk_size", "chunksize"),
        (execute, "enable_ml_prediction", "use_ml_prediction"),
        (stream, "use_ml_prediction", "enable_ml_prediction"),
        (stream, "ordered", "prefer_ordered"),
        (execute, "max_workers", "n_jobs"),
        (execute, "backend", "executor"),
        (execute, "retrys", "retries"),
    ],
)
def test_a_misspelled_option_is_told_its_name(call: Any, wrong: str, right: str) -> None:
    with pytest.raises(InvalidInput, match=f"{wrong}: no such option; did you mean .*{right}"):
        call(square, [1], **{wrong: 1})


def test_one_exception_class_is_enough_to_retry_on() -> None:
    def broken(item: int) -> int:
        raise OSError(item)

    (failed,) = execute(broken, [1], on_error="return", retries=2, retry_on=OSError, backoff=0.0)
    assert failed.attempts == 3
