"""The cost model: what bounds what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.parallel.cost import CostModel, MachineCosts
from everloop.parallel.probe import Probe

FREE = MachineCosts(
    spawn_seconds=0.0,
    thread_seconds=0.0,
    process_chunk=0.0,
    process_item=0.0,
    thread_chunk=0.0,
    thread_item=0.0,
    serial_item=0.0,
    byte_seconds=0.0,
)
WORK = Probe(items=5, item_seconds=0.001, item_bytes=8, result_bytes=8)


def model(
    work: Probe = WORK, items: int = 10_000, costs: MachineCosts = FREE, cores: int = 4, idle: int = 0
) -> CostModel:
    return CostModel(work, items, costs, cores, idle)


def test_without_costs_work_is_divided_by_the_workers() -> None:
    assert model().estimate("serial", 1).seconds == pytest.approx(10.0)
    assert model().estimate("process", 4).seconds == pytest.approx(2.5, rel=0.01)


def test_more_workers_than_cores_gain_nothing_for_what_computes() -> None:
    eight = model().estimate("process", 8)
    assert eight.seconds == pytest.approx(2.5, rel=0.01)
    assert eight.bound == "4 cores"


def test_threads_that_hold_the_gil_gain_nothing() -> None:
    held = model().estimate("thread", 4)
    assert held.seconds == pytest.approx(10.0, rel=0.01)
    assert held.bound == "the GIL"
    assert model(replace(WORK, gil_share=0.25)).estimate("thread", 4).seconds == pytest.approx(2.5, rel=0.01)


def test_threads_that_wait_gain_beyond_the_cores() -> None:
    waits = model(replace(WORK, cpu_share=0.01))
    assert waits.estimate("thread", 32).seconds == pytest.approx(10 / 32, rel=0.05)
    assert waits.worker_counts("thread")[-1] == 32
    assert model().worker_counts("thread") == [2, 3, 4]


def test_starting_processes_takes_its_time_unless_they_are_there() -> None:
    costs = replace(FREE, spawn_seconds=0.1)
    assert model(costs=costs).estimate("process", 4).startup == pytest.approx(0.1)
    assert model(costs=costs).estimate("process", 8).startup == pytest.approx(0.2), "four cores start four at a time"
    assert model(costs=costs, idle=4).estimate("process", 4).startup == 0.0


def test_large_results_are_bound_by_who_takes_them_in() -> None:
    costs = replace(FREE, byte_seconds=1e-8)
    large = model(replace(WORK, result_bytes=1_000_000), costs=costs)
    estimate = large.estimate("process", 4)
    assert estimate.bound in ("the caller's thread", "4 cores")
    assert estimate.seconds > 10.0, "10 GB at 10 ns each: far more than the work itself"


def test_work_that_is_parallel_by_itself_gains_little() -> None:
    blas = model(replace(WORK, cores_used=4.0))
    assert blas.estimate("process", 4).seconds >= 10.0


def test_few_items_go_in_rounds() -> None:
    few = model(replace(WORK, item_seconds=1.0), items=9)
    assert few.estimate("process", 4).seconds == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_chunks_hide_their_dispatch(executor: str) -> None:
    costs = replace(FREE, process_chunk=1e-4, thread_chunk=1e-4)
    tiny = model(replace(WORK, item_seconds=1e-5), items=1_000_000, costs=costs).chunk(executor, 4)  # type: ignore[arg-type]
    assert tiny * 1e-5 >= 20 * 1e-4
    assert tiny * 1e-5 <= 0.2 * 1.001


def test_long_items_go_one_by_one() -> None:
    assert model(replace(WORK, item_seconds=0.5)).chunk("process", 4) == 1


def test_unequal_items_go_in_smaller_chunks() -> None:
    assert model(replace(WORK, coefficient_of_variation=1.5), 3_000).chunk("process", 4) < model(items=3_000).chunk(
        "process", 4
    )


def test_the_callers_chunk_size_stands() -> None:
    assert replace(model(), chunksize=7).estimate("process", 4).chunksize == 7


@given(
    item=st.floats(1e-7, 10.0),
    items=st.integers(1, 10**7),
    n=st.integers(2, 64),
    cores=st.integers(1, 64),
    cpu=st.floats(0.0, 1.0),
    gil=st.floats(0.0, 1.0),
    cv=st.floats(0.0, 3.0),
)
def test_no_estimate_beats_what_is_possible(
    item: float, items: int, n: int, cores: int, cpu: float, gil: float, cv: float
) -> None:
    work = Probe(5, item, coefficient_of_variation=cv, cpu_share=cpu, gil_share=gil, item_bytes=10, result_bytes=10)
    each = CostModel(work, items, MachineCosts(), cores)
    total = item * items
    for estimate in (each.estimate("thread", n), each.estimate("process", n)):
        assert estimate.seconds >= total / n
        assert estimate.seconds >= total * cpu / cores
        assert 1 <= estimate.chunksize <= items
    assert each.estimate("thread", n).seconds >= total * cpu * gil
    assert each.estimate("serial", 1).seconds >= total
