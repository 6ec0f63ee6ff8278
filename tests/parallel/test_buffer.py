"""How far a run may read ahead."""

from __future__ import annotations

from everloop.parallel.buffer import Buffer
from everloop.parallel.ordering import InOrder, Segment
from everloop.parallel.plan import Plan
from everloop.parallel.report import RunReport


def buffer(**settings: int) -> tuple[Buffer, InOrder, RunReport]:
    plan, waiting = Plan("process", 2, 1, **settings), InOrder()  # type: ignore[arg-type]
    report = RunReport(plan)
    return Buffer(plan, report, waiting), waiting, report


def test_without_limits_everything_is_free() -> None:
    assert buffer()[0].free(1000, in_flight=5) == 1000


def test_a_chunk_gets_a_share_so_that_each_worker_can_have_two() -> None:
    assert buffer(buffer_size=40)[0].free(1000, in_flight=0) == 10
    assert buffer(buffer_size=3)[0].free(1000, in_flight=0) == 1


def test_the_limit_in_items_is_strict() -> None:
    free, _, report = buffer(buffer_size=40)
    free.took(38)
    assert free.free(5, in_flight=0) == 2
    free.took(2)
    assert free.free(5, in_flight=0) == 0
    free.handed_out(3)
    assert free.free(5, in_flight=0) == 3
    assert report.most_in_flight == 40


def test_crumbs_are_waited_with() -> None:
    free, _, _ = buffer(buffer_size=40)
    free.took(38)
    assert free.free(10, in_flight=1) == 0
    assert free.free(10, in_flight=0) == 2


def test_bytes_that_wait_count_exactly_and_those_to_come_by_the_mean() -> None:
    free, waiting, _ = buffer(buffer_bytes=1000, result_bytes=100)
    free.took(4)
    waiting.add(0, Segment(2, [1, 2], 500))
    assert free.free(1, in_flight=1) == 1  # 500 + 2 * 100
    waiting.add(2, Segment(1, [3], 450))
    assert free.free(1, in_flight=1) == 0


def test_growing_results_are_noticed_at_once_and_shrinking_ones_slowly() -> None:
    free, _, _ = buffer(buffer_bytes=1000, result_bytes=10)
    free.took(1)
    free.measured(1, 400)
    assert free.free(1, in_flight=1) == 1
    free.took(1)
    assert free.free(1, in_flight=1) == 0
    free.measured(1, 10)
    assert free.free(1, in_flight=1) == 1


def test_results_of_unknown_size_are_tried_one_a_worker() -> None:
    free, _, _ = buffer(buffer_bytes=1000)
    assert free.free(1, in_flight=0) == 1
    free.took(2)
    assert free.free(1, in_flight=0) == 0
