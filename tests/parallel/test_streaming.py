"""`optimize_streaming` and `stream`: lazy, bounded, and what is learned on the way."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.parallel.test_api import spin
from tests.parallel.workloads import Refused, refuse_odd, square

from everloop.core.errors import InvalidInput, NotPicklable
from everloop.parallel import PoolManager, get_history, optimize_streaming, stream
from everloop.parallel.cache import forget

KINDS = ["serial", "thread", "process"]


class Counted(Iterator[int]):
    """An endless input that knows how far it was read."""

    def __init__(self) -> None:
        self.read = 0

    def __next__(self) -> int:
        self.read += 1
        return self.read - 1


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_the_results_of_a_generator_expression(kind: Any) -> None:
    results = stream(square, (item for item in range(2_000)), executor=kind, prefer_ordered=True)
    assert list(results) == [item * item for item in range(2_000)]


@pytest.mark.parametrize("kind", [None, "thread", "process"])
@pytest.mark.parametrize("ordered", [True, False])
def test_an_endless_input_is_read_no_further_than_the_buffer(kind: Any, ordered: bool) -> None:
    source = Counted()
    with stream(square, source, executor=kind, buffer_size=20, prefer_ordered=ordered) as results:
        for taken in range(1, 300):
            next(results)
            assert source.read - taken <= 20
    assert source.read <= 320


def test_the_buffer_that_is_told_holds_for_the_dry_run_too() -> None:
    source = Counted()
    with stream(square, source) as results:
        buffer = results.plan.buffer_size
        assert buffer is not None
        assert source.read <= buffer
        for _ in itertools.islice(results, 3 * buffer):
            pass
        assert results.report.most_in_flight <= buffer


def test_nothing_is_read_before_somebody_asks_except_the_sample() -> None:
    source = Counted()
    with stream(square, source, executor="thread", n_jobs=2):
        assert source.read == 0, "settled: nothing has to be measured"
    source = Counted()
    with stream(square, source, buffer_size=8):
        assert source.read <= 8


def test_results_may_come_as_they_are_ready() -> None:
    released = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            released.wait()
        return item

    results = stream(work, range(4), executor="thread", n_jobs=2, chunksize=1, prefer_ordered=False)
    assert next(results) != 0, "item 0 does not end before somebody has got another one"
    released.set()
    assert len(list(results)) == 3


def test_a_failure_comes_in_its_place() -> None:
    results = stream(refuse_odd, [0, 2, 4, 5, 6], executor="thread", n_jobs=2, prefer_ordered=True)
    assert list(itertools.islice(results, 3)) == [0, 2, 4]
    with pytest.raises(Refused):
        next(results)


def test_a_stream_that_is_closed_or_forgotten_frees_its_workers(pool: PoolManager) -> None:
    results = stream(square, Counted(), executor="process", n_jobs=2, pool_manager=pool)
    assert next(results) == 0
    results.close()
    assert pool.stats()["busy"] == 0
    results = stream(square, Counted(), executor="process", n_jobs=2, pool_manager=pool)
    assert next(results) == 0
    del results
    assert pool.stats()["busy"] == 0


def test_what_is_asked_for_stands() -> None:
    result = optimize_streaming(
        square, range(100), buffer_size=17, prefer_ordered=False, enable_adaptive_chunking=True, adaptation_rate=0.7
    )
    assert (result.buffer_size, result.use_ordered) == (17, False)
    assert result.use_adaptive_chunking
    assert result.adaptive_chunking_params["adaptation_rate"] == 0.7
    fixed = optimize_streaming(square, range(100), executor="thread", n_jobs=3, chunksize=5)
    assert (fixed.n_jobs, fixed.chunksize, fixed.executor_type) == (3, 5, "thread")
    assert not fixed.use_adaptive_chunking


def test_the_settings_of_a_result_run_it() -> None:
    source = (item for item in range(500))
    result = optimize_streaming(square, source, executor="thread", n_jobs=2)
    results = stream(square, result.data, settings=result)
    assert sorted(results) == [item * item for item in range(500)]
    assert results.plan.n_jobs == 2
    assert results.report.items == 500


def test_what_is_said_beside_the_settings_of_a_result_counts_for_more() -> None:
    settings = optimize_streaming(square, range(100), executor="thread", n_jobs=2)
    with stream(square, range(100), settings=settings, n_jobs=3, buffer_size=9, prefer_ordered=False) as results:
        assert (results.plan.executor, results.plan.n_jobs, results.plan.ordered) == ("thread", 3, False)
        assert (results.plan.buffer_size, results.plan.buffer_grows) == (9, False)
        assert sorted(results) == [item * item for item in range(100)]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"memory_threshold": 2.0}, "memory_threshold"),
        ({"prefer_ordered": "yes"}, "prefer_ordered"),
        ({"ml_confidence_threshold": -1}, "ml_confidence_threshold"),
        ({"estimated_item_time": 0}, "estimated_item_time"),
        ({"pool_manager": 5}, "pool_manager"),
        ({"history": "folder"}, "history"),
        ({"sample_size": True}, "sample_size"),
    ],
)
def test_settings_that_cannot_be_are_named_even_where_they_are_not_used(wrong: dict[str, Any], field: str) -> None:
    for call in (optimize_streaming, stream):
        with pytest.raises(InvalidInput) as raised:
            call(square, range(3), **wrong)
        assert raised.value.field == field


def test_an_iterator_keeps_every_item_through_a_dry_run() -> None:
    result = optimize_streaming(square, iter(range(100)), verbose=False)
    assert list(result.data) == list(range(100))


def test_backpressure_by_memory() -> None:
    result = optimize_streaming(square, range(10), enable_memory_backpressure=True, memory_threshold=0.7)
    assert result.memory_backpressure_enabled
    assert result.memory_threshold == 0.7
    assert not optimize_streaming(square, range(10)).memory_backpressure_enabled
    results = stream(square, range(50), enable_memory_backpressure=True, memory_threshold=0.999)
    assert sorted(results) == [item * item for item in range(50)]


def test_every_stream_is_recorded_unless_nobody_wants_it() -> None:
    assert list(stream(square, range(50), enable_online_learning=False)) != []
    assert get_history().load() == []
    list(stream(spin, [0.001] * 60, executor="thread", n_jobs=2, chunksize=3, buffer_size=12, prefer_ordered=False))
    (sample,) = get_history().load()
    assert sample.is_streaming
    assert (sample.executor_type, sample.n_jobs, sample.chunksize) == ("thread", 2, 3)
    assert (sample.buffer_size, sample.use_ordered) == (12, False)


class TestWhatCannotBePickled:
    def locked(self) -> Any:
        lock = threading.Lock()

        def work(item: float) -> float:
            with lock:
                return spin(item)

        return work

    def test_a_function_is_caught_by_optimize_streaming(self) -> None:
        assert optimize_streaming(self.locked(), [0.002] * 500).executor_type in ("serial", "thread")

    def test_and_by_a_stream_which_then_runs_here(self) -> None:
        results = stream(self.locked(), [0.002] * 300, prefer_ordered=True)
        assert list(results) == [0.002] * 300
        assert results.plan.executor in ("serial", "thread")

    def test_of_unknown_length_too(self) -> None:
        results = stream(self.locked(), (0.002 for _ in range(300)))
        assert list(results) == [0.002] * 300

    def test_processes_that_were_asked_for_are_refused_with_the_part_that_is_to_blame(self) -> None:
        bound = functools.partial(_with, threading.Lock())
        with pytest.raises(NotPicklable, match="lock"):
            optimize_streaming(bound, range(10), executor="process", n_jobs=2)
        with pytest.raises(NotPicklable, match="lock"):
            list(stream(bound, range(10), executor="process"))

    @pytest.mark.parametrize("streaming", [True, False])
    def test_where_the_history_says_processes(self, streaming: bool) -> None:
        from everloop.parallel import execute, optimize
        from everloop.parallel import update_model_from_execution as learn
        from everloop.parallel import update_model_from_streaming_execution as learn_stream

        work = self.locked()
        for _ in range(12):
            if streaming:
                learn_stream(work, 400, 0.002, 2, 20, 1.9, buffer_size=120, use_ordered=True)
            else:
                learn(work, 400, 0.002, 2, 20, 1.9)
        forget()
        if streaming:
            result: Any = optimize_streaming(
                work, [0.002] * 400, enable_ml_prediction=True, ml_confidence_threshold=0.1
            )
            results = list(stream(work, [0.002] * 400, enable_ml_prediction=True, ml_confidence_threshold=0.1))
        else:
            result = optimize(work, [0.002] * 400, use_ml_prediction=True, ml_confidence_threshold=0.1)
            results = execute(work, [0.002] * 400, use_ml_prediction=True, ml_confidence_threshold=0.1)
        assert result.executor_type in ("serial", "thread")
        assert any("lock" in warning for warning in result.warnings)
        assert results == [0.002] * 400


def _with(lock: Any, item: int) -> int:
    with lock:
        return item
