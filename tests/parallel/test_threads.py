"""Threads and the caller's own: what the contract suite does not ask of every executor."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from tests.parallel import workloads

from everloop.core.errors import InvalidInput, ItemTimeout
from everloop.parallel.executors.opening import open_executor
from everloop.parallel.work import Chunk


def test_all_of_them_work_at_once() -> None:
    all_here = threading.Barrier(4)
    executor = open_executor("thread", lambda _: all_here.wait(20) >= 0, 4)
    for number in range(4):
        executor.submit(Chunk(number, number, [None]))
    done: list[Any] = []
    while len(done) < 4:
        done += executor.collect()
    assert [each.values for each in done] == [[True]] * 4
    assert len({each.worker for each in done}) == 4
    executor.close()


def test_a_thread_whose_item_hangs_is_abandoned_and_replaced() -> None:
    free = threading.Event()

    def hang(item: int) -> int:
        if item < 0:
            free.wait(60)
        return item

    executor = open_executor("thread", hang, 1)
    executor.submit(Chunk(0, 0, [1, 2, -1, 4], timeout=0.05))
    (done,) = executor.collect()
    assert (done.values, done.count) == ([1, 2, None], 3)
    assert [failure.index for failure in done.failures] == [2]
    assert isinstance(done.failures[0].error, ItemTimeout)
    executor.submit(Chunk(1, 3, [4], timeout=0.05))
    (done,) = executor.collect()
    assert done.values == [4]
    free.set()
    executor.close()


def test_the_time_between_items_is_nobodys() -> None:
    """A thread that idled for longer than the timeout before its chunk came has not outstayed anything."""
    executor = open_executor("thread", lambda item: item, 1)
    executor.submit(Chunk(0, 0, [1], timeout=0.05))
    (done,) = executor.collect()
    (seat,) = executor._seats  # type: ignore[attr-defined]
    assert seat.begun == math.inf
    seat.chunk, seat.started = Chunk(1, 1, [2], timeout=0.05), 1
    seat.begun, seat.tally.values = -1.0, [2]
    assert executor._abandon(seat) is None, "it has come back after all"  # type: ignore[attr-defined]
    seat.chunk = None
    assert done.values == [1]
    executor.close()


def test_closing_does_not_wait_for_what_runs_and_that_stops_after_its_item() -> None:
    begun, free = threading.Event(), threading.Event()
    ran: list[int] = []

    def work(item: int) -> None:
        ran.append(item)
        begun.set()
        free.wait(60)

    executor = open_executor("thread", work, 1)
    executor.submit(Chunk(0, 0, [1, 2, 3]))
    assert begun.wait(20)
    executor.close(kill=True)
    free.set()
    for thread in threading.enumerate():
        if thread.name.startswith("everloop-worker"):
            thread.join(20)
    assert ran == [1]


def test_ctrl_c_is_the_callers_where_no_other_thread_runs_the_items() -> None:
    def interrupted(item: int) -> int:
        raise KeyboardInterrupt

    executor = open_executor("serial", interrupted, 1)
    executor.submit(Chunk(0, 0, [1]))
    with pytest.raises(KeyboardInterrupt):
        executor.collect()
    executor.close(kill=True)


def test_the_results_of_others_are_not_kept_alive_by_an_error() -> None:
    executor = open_executor("serial", workloads.refuse_odd, 1)
    executor.submit(Chunk(0, 0, [2, 3]))
    (done,) = executor.collect()
    trace = done.failures[0].error.__traceback__
    assert trace is not None
    assert trace.tb_frame.f_code.co_name == "refuse_odd"
    executor.close()


@pytest.mark.parametrize(("kind", "workers"), [("fork", 2), ("thread", 0)])
def test_what_there_is_not_is_told(kind: Any, workers: int) -> None:
    with pytest.raises(InvalidInput):
        open_executor(kind, workloads.same, workers)
