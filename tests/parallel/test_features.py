from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.parallel import machine
from everloop.parallel.features import NAMES, WorkloadFeatures

WORKLOAD = WorkloadFeatures(1_000, 0.01, 4, 8 << 30)

workloads = st.builds(
    WorkloadFeatures,
    st.integers(1, 10**12),
    st.floats(1e-12, 1e6),
    st.integers(1, 1024),
    st.integers(1, 1 << 50),
    st.sampled_from(["fork", "spawn", "forkserver", "something else"]),
    st.none() | st.integers(0, 1 << 40),
    st.none() | st.floats(0, 1e3),
    st.none() | st.integers(0, 1 << 20),
    st.none() | st.integers(0, 1 << 40),
    st.none() | st.integers(1, 64),
    st.none() | st.floats(0, 1e4),
    st.none() | st.booleans(),
)


def test_there_are_twelve_with_the_topology_of_the_machine() -> None:
    assert len(NAMES) == 12
    assert {"l3_cache_size", "numa_nodes", "memory_bandwidth_gbps", "has_numa"} < set(NAMES)
    assert list(WORKLOAD.to_dict()) == list(NAMES)


@given(workloads, workloads)
def test_vectors_are_within_zero_and_one_and_the_distance_is_one(a: WorkloadFeatures, b: WorkloadFeatures) -> None:
    assert len(a.to_vector()) == 12
    assert all(0 <= value <= 1 for value in a.to_vector())
    assert a.distance(a) == 0
    assert a.distance(b) == pytest.approx(b.distance(a))
    assert 0 <= a.distance(b) <= 1


def test_orders_of_magnitude_count_alike() -> None:
    times = [replace(WORKLOAD, estimated_item_time=10.0**exponent) for exponent in (-4, -3, -2)]
    assert times[0].distance(times[1]) == pytest.approx(times[1].distance(times[2]))
    assert times[0].distance(times[2]) > times[0].distance(times[1])


def test_a_workload_here_has_this_machine_s_numbers() -> None:
    found = WorkloadFeatures.of(sorted, 10, 0.5, pickle_size=7)
    assert found.physical_cores == machine.here().physical_cores
    assert found.available_memory > 0
    assert (found.pickle_size, found.total_seconds) == (7, 5.0)
