"""What is chosen for which work, and that a caller's word stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.parallel.cost import MachineCosts
from everloop.parallel.decision import Surroundings, Wishes, decide
from everloop.parallel.plan import Plan
from everloop.parallel.probe import Probe
from everloop.parallel.results import OptimizationResult, Profile, StreamingOptimizationResult

AROUND = Surroundings(cores=4, available_memory=8 << 30, costs=MachineCosts())
MS = Probe(items=5, item_seconds=0.001, item_bytes=8, result_bytes=8, gil_measured=True)


def plan(work: Probe, items: int | None, around: Surroundings = AROUND, **wishes: Any) -> Plan:
    return decide(work, items, Wishes(**wishes), around).plan


@pytest.mark.parametrize(
    ("name", "work", "items", "executor", "n_jobs"),
    [
        ("tiny", replace(MS, item_seconds=1e-5), 20, "serial", 1),
        ("less than a start takes", MS, 80, "serial", 1),
        ("a second of small items", replace(MS, item_seconds=1e-5), 200_000, "process", 4),
        ("a second of work", MS, 1_000, "process", 4),
        ("long items", replace(MS, item_seconds=0.05), 40, "process", 4),
        ("two long items", replace(MS, item_seconds=5.0), 2, "process", 2),
        ("five milliseconds of waiting", replace(MS, item_seconds=0.005, cpu_share=0.01), 400, "thread", 32),
        ("NumPy that lets the GIL go", replace(MS, gil_share=0.125, item_bytes=1 << 18), 2_000, "thread", 4),
        ("what cannot be pickled", replace(MS, obstacle="its lock"), 10_000, "serial", 1),
        ("what cannot be pickled and waits", replace(MS, obstacle="its lock", cpu_share=0.0), 10_000, "thread", 32),
        ("BLAS that has all cores already", replace(MS, cores_used=4.0, gil_share=0.1), 5_000, "serial", 1),
        ("results that cost more than the work", replace(MS, result_bytes=50_000_000), 1_000, "serial", 1),
    ],
)
def test_the_choice(name: str, work: Probe, items: int, executor: str, n_jobs: int) -> None:
    chosen = plan(work, items)
    assert (chosen.executor, chosen.n_jobs) == (executor, n_jobs), f"{name}: {chosen.reason}"


def test_workers_that_are_up_make_short_work_worth_spreading() -> None:
    assert plan(MS, 40).executor == "serial"
    assert plan(MS, 40, replace(AROUND, idle_workers=4)).executor == "process"


def test_an_input_of_unknown_length_is_taken_to_last() -> None:
    chosen = plan(MS, None)
    assert chosen.executor == "process"
    assert "not known" in chosen.notes[0]


def test_memory_bounds_the_workers() -> None:
    hungry = replace(MS, memory_bytes=3 << 30)
    chosen = plan(hungry, 10_000)
    assert chosen.n_jobs == 2
    assert any("3.22 GB" in note for note in chosen.notes)


def test_inside_a_worker_the_cores_are_taken() -> None:
    nested = replace(AROUND, nested=True)
    assert plan(MS, 100_000, nested).executor == "serial"
    assert plan(replace(MS, cpu_share=0.01), 1_000, nested).executor == "thread", "waiting takes no core"


def test_processes_for_what_waits_only_if_threads_are_not_preferred() -> None:
    waits = replace(MS, cpu_share=0.1)
    assert plan(waits, 100_000).executor == "thread"
    assert plan(waits, 100_000, prefer_threads_for_io=False, n_jobs=3).n_jobs == 3


def test_ray_only_for_a_cluster_that_is_larger_than_this_machine() -> None:
    kinds = {each.executor for each in decide(MS, 10**6, Wishes(), replace(AROUND, ray_cores=64)).estimates}
    assert "ray" in kinds
    assert "ray" not in {each.executor for each in decide(MS, 10**6, Wishes(), replace(AROUND, ray_cores=4)).estimates}


@given(
    executor=st.sampled_from(["thread", "process"]),
    n_jobs=st.integers(1, 50),
    chunksize=st.integers(1, 1000),
    buffer=st.integers(1, 1000),
    ordered=st.booleans(),
    seconds=st.floats(1e-6, 1.0),
)
def test_what_the_caller_says_stands(
    executor: Any, n_jobs: int, chunksize: int, buffer: int, ordered: bool, seconds: float
) -> None:
    work = replace(MS, item_seconds=seconds)
    chosen = plan(work, 1_000, executor=executor, n_jobs=n_jobs, chunksize=chunksize)
    assert (chosen.executor, chosen.n_jobs, chosen.chunksize) == (executor, n_jobs, chunksize)
    assert chosen.adaptive is None, "chunks of that size and no other"
    streamed = plan(
        work,
        None,
        executor=executor,
        n_jobs=n_jobs,
        streaming=True,
        buffer_size=buffer,
        ordered=ordered,
        adaptive=False,
    )
    assert (streamed.n_jobs, streamed.buffer_size, streamed.ordered) == (n_jobs, buffer, ordered)


def test_all_cores() -> None:
    assert plan(MS, 1_000, n_jobs=-1).n_jobs == 4
    assert plan(MS, 1_000_000, n_jobs=1).executor == "serial"


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"executor": "procces"}, "executor"),
        ({"n_jobs": 0}, "n_jobs"),
        ({"n_jobs": -2}, "n_jobs"),
        ({"n_jobs": 2.5}, "n_jobs"),
        ({"chunksize": 0}, "chunksize"),
        ({"buffer_size": True}, "buffer_size"),
        ({"target_chunk_duration": 0}, "target_chunk_duration"),
        ({"adaptation_rate": 1.5}, "adaptation_rate"),
    ],
)
def test_settings_that_cannot_be_are_named(wishes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=field) as refused:
        Wishes(**wishes)
    assert refused.value.field == field


class TestStreams:
    def test_equal_durations_keep_their_order(self) -> None:
        assert plan(MS, 1_000, streaming=True).ordered

    def test_unequal_ones_do_not_wait_for_each_other(self) -> None:
        assert not plan(replace(MS, coefficient_of_variation=0.8), 1_000, streaming=True).ordered

    def test_many_items_do_not_either(self) -> None:
        assert not plan(MS, 10_001, streaming=True).ordered

    def test_the_buffer_is_some_chunks_for_each_worker(self) -> None:
        chosen = plan(MS, 9_000, streaming=True)
        assert chosen.buffer_size == 3 * chosen.n_jobs * chosen.chunksize

    def test_the_buffer_takes_a_tenth_of_the_memory_at_most(self) -> None:
        chosen = plan(replace(MS, item_seconds=0.02, result_bytes=100 << 20), None, streaming=True, n_jobs=2)
        assert chosen.buffer_size == 8  # 8 GB / 10 / 100 MB
        assert chosen.buffer_bytes == (8 << 30) // 10
        assert chosen.chunksize <= 4, "each worker gets its part of it"

    def test_tiny_items_are_not_hoarded(self) -> None:
        chosen = plan(replace(MS, item_seconds=1e-8), None, streaming=True)
        assert chosen.executor == "serial"
        assert chosen.buffer_size is not None
        assert chosen.buffer_size <= 30_000

    def test_adaptive_only_if_wanted(self) -> None:
        assert plan(MS, 1_000, streaming=True, adaptive=False).adaptive is None
        bounds = plan(MS, 1_000, streaming=True, adaptation_rate=0.5, target_chunk_duration=0.1).adaptive
        assert bounds is not None
        assert (bounds.adaptation_rate, bounds.target_duration) == (0.5, 0.1)


def test_an_explanation_tells_what_was_found_compared_and_chosen() -> None:
    decision = decide(replace(MS, coefficient_of_variation=0.07), 1_000, Wishes(), AROUND)
    facts = Profile(MS, AROUND, decision.estimates, 0.01)
    told = OptimizationResult(decision.plan, "work", 1_000, ["a warning"], facts=facts).explain()
    for part in (
        "work over 1,000 items runs on 4 processes",
        "1 ms",
        "holds the GIL",
        "serial",
        "<- chosen",
        "! a warning",
    ):
        assert part in told, told


def test_a_streams_result_has_what_callers_look_for() -> None:
    decision = decide(MS, None, Wishes(streaming=True), AROUND)
    result = StreamingOptimizationResult(decision.plan, facts=Profile(MS, AROUND, (), 0.0))
    assert result.use_adaptive_chunking
    assert result.adaptive_chunking_params["target_chunk_duration"] == 0.2
    assert result.buffer_size == decision.plan.buffer_size
    assert result.estimated_item_time == 0.001
    assert result.pickle_size == 8
    assert result.coefficient_of_variation == 0.0
    assert "unknown length" in str(result)
