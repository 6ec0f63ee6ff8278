"""Every executor keeps the same contract: `parallel.executors.base`."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.parallel import workloads

from everloop.core.errors import ItemTimeout, NotPicklable
from everloop.parallel.executors.base import Executor
from everloop.parallel.executors.opening import open_executor
from everloop.parallel.work import KINDS, Chunk, Done, ExecutorKind

Open = Callable[..., Executor]
PICKLING = ("process", "ray")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[ExecutorKind]:
    if request.param == "ray":
        open_executor("ray", workloads.same, 1).close()  # which starts a local Ray
        import ray

        yield "ray"
        ray.shutdown()
    else:
        yield request.param


@pytest.fixture
def opened(kind: ExecutorKind) -> Iterator[Open]:
    executors: list[Executor] = []

    def opening(func: Callable[[Any], Any], workers: int | None = None) -> Executor:
        workers = workers or (1 if kind == "ray" else 2)  # an actor takes a second to start
        executors.append(open_executor(kind, func, workers))
        return executors[-1]

    yield opening
    for executor in executors:
        executor.close(kill=True)


def chunks_of(items: list[Any], size: int, **settings: Any) -> list[Chunk]:
    return [Chunk(n, at, items[at : at + size], **settings) for n, at in enumerate(range(0, len(items), size))]


def run_all(executor: Executor, chunks: list[Chunk]) -> list[Done]:
    """Whatever is handed back unfinished is sent again, as the engine does."""
    waiting, found = list(chunks), []
    number = len(chunks)
    while waiting or executor.running:
        while waiting and executor.room:
            executor.submit(waiting.pop(0))
        for done in executor.collect():
            chunk = done.chunk
            if done.count or done.lost:
                found.append(done)
            if not done.lost and done.count < len(chunk.items):
                rest = Chunk(number, chunk.first + done.count, chunk.items[done.count :], chunk.slice, chunk.timeout)
                waiting.append(rest)
                number += 1
    return found


def values_of(found: list[Done]) -> dict[int, Any]:
    values: dict[int, Any] = {}
    for done in found:
        for index, value in enumerate(done.values):
            assert done.chunk.first + index not in values, "an item was run twice"
            values[done.chunk.first + index] = value
    return values


@pytest.mark.parametrize("size", [1, 7, 100])
def test_every_item_comes_back_once_and_in_its_place(opened: Open, size: int) -> None:
    found = run_all(opened(workloads.square, 2), chunks_of(list(range(100)), size))
    assert values_of(found) == {n: n * n for n in range(100)}
    assert all(done.lost is None and not done.failures for done in found)


def test_what_is_measured_is_measured_around_the_items(opened: Open, kind: ExecutorKind) -> None:
    executor = opened(workloads.sleep)
    (done,) = run_all(executor, [Chunk(0, 0, [0.01, 0.02])])
    assert 0.03 <= done.seconds < 1.0
    assert 0.01**2 + 0.02**2 <= done.squares < 1.0
    assert done.cpu_seconds <= done.seconds
    assert (done.bytes_in > 0) == (done.bytes_out > 0) == (kind in PICKLING)


def test_nothing_is_awaited_where_nothing_runs(opened: Open) -> None:
    executor = opened(workloads.same)
    assert executor.running == 0
    assert executor.room >= 1
    assert executor.collect() == []


def test_collect_gives_up_in_time(opened: Open, kind: ExecutorKind) -> None:
    executor = opened(workloads.sleep)
    executor.submit(Chunk(0, 0, [0.2]))
    if kind != "serial":  # where the caller's thread itself runs the item, it cannot give up
        assert executor.collect(0.001) == []
    assert executor.running == 1
    assert [done.values for done in executor.collect()] == [[0.2]]


def test_a_slice_ends_a_chunk_early_but_not_before_its_first_item(opened: Open) -> None:
    executor = opened(workloads.sleep)
    executor.submit(Chunk(0, 0, [0.02, 0.02, 0.02], slice=0.001))
    (done,) = executor.collect()
    assert (done.count, done.values, done.lost) == (1, [0.02], None)
    found = run_all(executor, [Chunk(1, 0, [0.01] * 5, slice=0.015)])
    assert values_of(found) == dict.fromkeys(range(5), 0.01)
    assert len(found) > 1


def test_a_failed_item_spoils_no_other(opened: Open) -> None:
    (done,) = run_all(opened(workloads.refuse_odd), [Chunk(0, 0, list(range(5)))])
    assert done.values == [0, None, 2, None, 4]
    assert [failure.index for failure in done.failures] == [1, 3]
    error = done.failures[0].error
    assert type(error).__name__ == "Refused"
    assert (error.args, error.item, error.reason) == (("1 refused: odd",), 1, "odd")
    assert "in refuse_odd" in done.failures[0].traceback
    assert done.failures[0].item == 1


def test_the_traceback_of_another_process_is_the_cause(opened: Open, kind: ExecutorKind) -> None:
    (done,) = run_all(opened(workloads.refuse_odd), [Chunk(0, 0, [1])])
    cause = done.failures[0].error.__cause__
    assert ("in refuse_odd" in str(cause)) == (kind in PICKLING)


def test_an_exception_is_of_its_class_whatever_its_constructor_wants(opened: Open) -> None:
    (done,) = run_all(opened(workloads.stubborn_about_three), [Chunk(0, 0, [2, 3, 4])])
    assert done.values == [2, None, 4]
    (failure,) = done.failures
    assert type(failure.error) is workloads.Stubborn
    assert "3 is stubborn" in str(failure.error)


def test_an_item_that_wants_to_exit_ends_only_itself(opened: Open) -> None:
    executor = opened(workloads.exit_at_three)
    (done,) = run_all(executor, [Chunk(0, 0, [2, 3, 4])])
    assert done.values == [2, None, 4]
    assert isinstance(done.failures[0].error, SystemExit)
    assert values_of(run_all(executor, [Chunk(1, 0, [5])])) == {0: 5}


def test_a_result_that_cannot_travel_fails_alone(opened: Open, kind: ExecutorKind) -> None:
    (done,) = run_all(opened(workloads.lock_at_three), [Chunk(0, 0, [2, 3, 4])])
    if kind in PICKLING:
        assert done.values == [2, None, 4]
        (failure,) = done.failures
        assert failure.index == 1
        assert isinstance(failure.error, NotPicklable)
        assert "lock" in str(failure.error)
    else:
        assert done.values[0::2] == [2, 4]


def test_a_result_that_cannot_be_read_again_is_a_failure(opened: Open, kind: ExecutorKind) -> None:
    (done,) = run_all(opened(workloads.seal_three), [Chunk(0, 0, [3])])
    assert len(done.failures) == (kind in PICKLING)
    if done.failures:
        assert isinstance(done.failures[0].error, NotPicklable)
        assert "sealed" in str(done.failures[0].error)


def test_of_several_results_nobody_can_tell_which_cannot_be_read_again(opened: Open, kind: ExecutorKind) -> None:
    executor = opened(workloads.seal_three)
    executor.submit(Chunk(0, 0, [2, 3, 4]))
    (done,) = executor.collect()
    assert done.spoiled == (kind in PICKLING)
    assert done.count == (0 if done.spoiled else 3)
    assert not done.failures
    assert executor.running == 0


def test_an_item_that_cannot_travel_is_named_before_anything_is_sent(opened: Open, kind: ExecutorKind) -> None:
    executor = opened(workloads.same)
    chunk = Chunk(0, 10, [1, {"deep": [threading.Lock()]}, 3])
    if kind not in PICKLING:
        executor.submit(chunk)
        return
    with pytest.raises(NotPicklable, match=r"item 11.*\['deep'\].*lock"):
        executor.submit(chunk)
    assert executor.running == 0
    assert values_of(run_all(executor, [Chunk(1, 0, [1])])) == {0: 1}


def test_an_item_that_cannot_be_read_there_fails_alone(opened: Open, kind: ExecutorKind) -> None:
    (done,) = run_all(opened(workloads.same), [Chunk(0, 0, [1, workloads.Sealed(), 3])])
    assert done.values[0::2] == [1, 3]
    if kind in PICKLING:
        assert [failure.index for failure in done.failures] == [1]
        assert "sealed" in str(done.failures[0].error)


def test_a_function_that_cannot_travel_is_refused_with_the_part_that_cannot(opened: Open, kind: ExecutorKind) -> None:
    lock = threading.Lock()

    def locked(item: int) -> int:
        with lock:
            return item

    if kind in PICKLING:
        with pytest.raises(NotPicklable, match=r"locked.*'lock'.*executor='thread'"):
            opened(locked)
    else:
        assert values_of(run_all(opened(locked), [Chunk(0, 0, [1])])) == {0: 1}


@pytest.mark.parametrize("what", ["lambda", "closure", "partial", "method"])
def test_functions_of_every_kind_travel(opened: Open, what: str) -> None:
    add = 3

    def closure(item: int) -> int:
        return item + add

    class Adder:
        def add(self, item: int) -> int:
            return item + add

    func = {
        "lambda": lambda item: item + 3,
        "closure": closure,
        "partial": functools.partial(pow, 3),
        "method": Adder().add,
    }[what]
    expected = {0: 9} if what == "partial" else {0: 5}
    assert values_of(run_all(opened(func), [Chunk(0, 0, [2])])) == expected


def test_a_class_of_the_callers_comes_back_as_that_class(opened: Open) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    (done,) = run_all(opened(lambda point: Point(point.x + 1)), [Chunk(0, 0, [Point(1)])])
    assert type(done.values[0]) is Point
    assert done.values[0].x == 2


def test_arrays_come_back_whole_and_writable(opened: Open) -> None:
    found = values_of(run_all(opened(workloads.array), chunks_of(list(range(6)), 2)))
    for index, array in found.items():
        np.testing.assert_array_equal(array, np.full(1 << 17, float(index)))
        array[0] = -1.0


def test_large_items_and_large_results_at_once_block_nobody(opened: Open) -> None:
    """Both pipes are full at the same time: whoever waited for the other to read first would wait for ever."""
    items = [bytes([n]) * (3 << 20) for n in range(8)]
    executor = opened(workloads.same)
    for chunk in chunks_of(items, 1):
        executor.submit(chunk)  # whether there is room or not
    assert values_of(run_all(executor, [])) == dict(enumerate(items))


def test_an_item_that_outstays_its_timeout_fails_and_its_neighbours_do_not(opened: Open) -> None:
    executor = opened(workloads.sleep)
    found = run_all(executor, [Chunk(0, 0, [0.0, 1.5, 0.001], timeout=0.1)])
    assert values_of(found) == {0: 0.0, 1: None, 2: 0.001}
    (failure,) = [failure for done in found for failure in done.failures]
    assert isinstance(failure.error, ItemTimeout)
    assert "0.1 s" in str(failure.error)
    assert values_of(run_all(executor, [Chunk(5, 0, [0.0])])) == {0: 0.0}


def test_work_inside_a_worker_knows_that_it_is(opened: Open, kind: ExecutorKind) -> None:
    expected = 0 if kind == "serial" else 1
    assert values_of(run_all(opened(workloads.depth), [Chunk(0, 0, [None])])) == {0: expected}


def test_closing_drops_what_runs_and_can_be_repeated(opened: Open) -> None:
    executor = opened(workloads.sleep)
    executor.submit(Chunk(0, 0, [0.05]))
    executor.close(kill=True)
    executor.close()
    assert executor.running == 0
    assert executor.collect() == []


def test_no_slice_is_no_end(opened: Open) -> None:
    assert Chunk(0, 0, []).slice == math.inf
    (done,) = run_all(opened(workloads.same), [Chunk(0, 0, list(range(50_000)))])
    assert done.count == 50_000
