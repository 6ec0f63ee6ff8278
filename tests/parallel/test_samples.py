"""The codec of recorded runs: what is written is read, what is old is read, what is damaged is told."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.parallel.recorded import HERE, run

from everloop.parallel.features import NAMES, WorkloadFeatures
from everloop.parallel.plan import ChunkBounds
from everloop.parallel.samples import TrainingData, decode, encode

numbers = st.floats(1e-9, 1e9).map(lambda value: float(f"{value:.6g}"))
samples = st.builds(
    TrainingData,
    st.builds(WorkloadFeatures, st.integers(1, 10**9), numbers, st.integers(1, 512), st.integers(1, 1 << 45)),
    st.integers(1, 512),
    st.integers(1, 10**9),
    numbers,
    st.floats(0, 4e9),
    st.none() | st.integers(1, 10**9),
    st.none() | st.booleans(),
    st.booleans(),
    executor_type=st.sampled_from(["serial", "thread", "process", "ray", None]),
    func_hash=st.just("abc"),
    item_seconds=st.none() | numbers,
    cpu_share=st.none() | st.floats(0, 1).map(lambda value: float(f"{value:.6g}")),
    worker_item_seconds=st.none() | numbers,
    warm=st.none() | st.booleans(),
    fingerprint=st.sampled_from([None, HERE]),
    adaptive=st.none() | st.builds(ChunkBounds, st.floats(0.01, 9), st.floats(0.1, 1), st.just(1), st.none()),
)


@given(samples)
def test_what_is_written_is_read(sample: TrainingData) -> None:
    assert decode(encode(sample), "abc") == sample


def test_the_seeds_sample_constructs_as_printed() -> None:
    features = WorkloadFeatures(
        data_size=1000, estimated_item_time=0.01, physical_cores=4, available_memory=8 << 30, start_method="fork"
    )
    sample = TrainingData(
        features=features,
        n_jobs=4,
        chunksize=100,
        speedup=3.5,
        timestamp=1.0,
        buffer_size=12,
        use_ordered=True,
        is_streaming=True,
    )
    assert (sample.buffer_size, sample.use_ordered, sample.is_streaming) == (12, True, True)
    assert TrainingData(features=features, n_jobs=4, chunksize=100, speedup=3.5, timestamp=1.0).is_streaming is False


def test_a_file_has_about_five_hundred_bytes() -> None:
    full = run(
        buffer_size=12, use_ordered=True, is_streaming=True, item_seconds=0.00123456789, cpu_share=0.987654321,
        adaptive=ChunkBounds(),
        features={"pickle_size": 1234, "coefficient_of_variation": 0.123456789, "l3_cache_size": 1 << 25, "numa_nodes": 1},
    )  # fmt: skip
    assert 300 < len(encode(full)) < 700


def test_an_old_file_without_the_newer_fields_loads_and_unknown_fields_are_ignored() -> None:
    old = {
        "features": {
            "data_size": 100, "estimated_item_time": 0.01, "physical_cores": 4, "available_memory": 1e9, "colour": "red",
        },
        "n_jobs": 4, "chunksize": 10, "speedup": 3.1, "timestamp": 1.0, "mood": "good",
    }  # fmt: skip
    sample = decode(json.dumps(old).encode(), "f0")
    assert (sample.n_jobs, sample.is_streaming, sample.buffer_size, sample.executor_type) == (4, False, None, None)
    assert sample.func_hash == "f0"


GOOD = json.loads(encode(run()))


@pytest.mark.parametrize(
    "change",
    [
        {"n_jobs": 0}, {"n_jobs": "4"}, {"n_jobs": True}, {"chunksize": 1.5}, {"speedup": 0}, {"speedup": math.nan},
        {"speedup": None}, {"timestamp": math.inf}, {"features": {}}, {"features": []}, {"features": None},
        {"executor_type": "rocket"}, {"fingerprint": "x|y"}, {"fingerprint": 3}, {"adaptive": [1, 2]}, {"buffer_size": -1},
        {"item_seconds": -1.0}, {"cpu_share": -0.1}, {"cpu_item_seconds": math.nan}, {"speedup": 1e-320}, {"speedup": 10**400},
        {"timestamp": -1}, {"timestamp": 10**400}, {"warm": []}, {"use_ordered": "x"}, {"is_streaming": 2},
        {"adaptive": [0.2, 0.3, 1, -5]}, {"adaptive": [0.2, 0.3, "a", None]}, {"fingerprint": "a|0|2|3|4|5|b|c"},
        {"fingerprint": f"a|2|2|{10**30}|4|5|b|c"},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_have_been_a_run_is_told(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        decode(json.dumps({**GOOD, **change}).encode())


@pytest.mark.parametrize("feature", sorted(NAMES))
@pytest.mark.parametrize(
    "value", [-1, "x", [], {}, math.nan, math.inf, 1e308, 10**400], ids=lambda value: repr(value)[:8]
)
def test_a_feature_that_cannot_be_calculated_with_is_told(feature: str, value: Any) -> None:
    if feature == "start_method" and value == "x":
        return  # a name that this version does not know
    with pytest.raises(ValueError):
        decode(json.dumps({**GOOD, "features": {**GOOD["features"], feature: value}}).encode())


@given(st.binary(max_size=200))
def test_rubbish_is_told(payload: bytes) -> None:
    with pytest.raises(ValueError):
        decode(payload)


@given(st.integers(0, len(encode(run())) - 1))
def test_every_torn_file_is_told(length: int) -> None:
    with pytest.raises(ValueError):
        decode(encode(run())[:length])
