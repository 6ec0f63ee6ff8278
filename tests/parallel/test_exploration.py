"""Neighbours are tried seldom, cheaply, and never again once they were slow; and that finds what is faster."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.parallel.recorded import history_in, recorded, run

from everloop.parallel.exploration import DIMENSIONS, explore
from everloop.parallel.history import History
from everloop.parallel.plan import ChunkBounds
from everloop.parallel.predictor import PredictionResult, Query, StreamingPredictionResult, predict


@pytest.fixture
def history(tmp_path: Path) -> History:
    return history_in(tmp_path)


def predicted(history: History, **what: Any) -> PredictionResult:
    found = predict(Query("f0", what.pop("data_size", 1_000), None, **what), history)
    assert found is not None
    return found


def tried(history: History, prediction: PredictionResult, times: int = 400, **what: Any) -> Counter[tuple[Any, ...]]:
    """What is explored, how often."""
    experience = history.experience("f0")
    assert experience is not None
    given = {"rng": random.Random(1), "cores": 2, "past_seconds": experience.seconds, "rate": 1.0, **what}
    found: Counter[tuple[Any, ...]] = Counter()
    for _ in range(times):
        other = explore(prediction, **given)
        if other is not None:
            assert other.explored
            found[other.executor_type, other.n_jobs, other.chunksize, other.adaptive] += 1
    return found


def test_one_run_in_eight_at_most(history: History) -> None:
    recorded(history, 50)
    prediction, rng = predicted(history), random.Random(5)
    explored = sum(explore(prediction, rng=rng, cores=2, past_seconds=1e6) is not None for _ in range(4_000))
    assert 0.1 < explored / 4_000 < 0.15


def test_only_one_setting_changes_and_by_one_step(history: History) -> None:
    recorded(history, 50, chunksize=64)
    for kind, n_jobs, chunksize, _ in tried(history, predicted(history), past_seconds=1e9):
        changed = [kind != "process", n_jobs != 2 and kind != "serial", chunksize != 64]
        assert sum(changed) == 1
        assert chunksize in (32, 64, 128)


def test_what_the_past_cannot_pay_is_not_tried(history: History) -> None:
    recorded(history, 3)
    assert tried(history, predicted(history), past_seconds=0.0) == {}
    prediction = predicted(history, data_size=1_000)  # half a second
    assert prediction.predicted_seconds is not None
    cheap = tried(history, prediction, past_seconds=prediction.predicted_seconds * 3)
    assert {(kind, n_jobs) for kind, n_jobs, _, _ in cheap} == {("process", 2)}, (
        "chunks are cheap to try, workers are not"
    )


def test_what_was_tried_and_slow_is_left_alone(history: History) -> None:
    recorded(history, 30, chunksize=64, speedup=1.9)
    recorded(history, 4, chunksize=32, speedup=1.2)
    recorded(history, 4, chunksize=128, speedup=1.3)
    recorded(history, 4, executor="thread", chunksize=64, speedup=0.9)
    recorded(history, 4, executor="serial", n_jobs=1, chunksize=64, speedup=1.0)
    assert tried(history, predicted(history), past_seconds=1e9) == {}


def test_what_is_fixed_by_the_caller_is_not_tried(history: History) -> None:
    recorded(history, 30)
    assert tried(history, predicted(history), past_seconds=1e9, free=()) == {}
    kinds = tried(history, predicted(history), past_seconds=1e9, free={"executor"}, executors=("thread", "process"))
    assert {kind for kind, *_ in kinds} == {"thread"}


@pytest.mark.parametrize("n_jobs", [2, 4])
def test_a_number_of_workers_that_is_fixed_holds_for_other_kinds_of_worker_too(history: History, n_jobs: int) -> None:
    recorded(history, 50, n_jobs=n_jobs)
    found = tried(history, predicted(history), past_seconds=1e9, free={"executor"})
    assert {(kind, count) for kind, count, _, _ in found} == {("thread", n_jobs)}


def test_more_processes_than_cores_are_tried_for_long_items_only(history: History) -> None:
    recorded(history, 30, n_jobs=2, chunksize=2)
    found = tried(history, predicted(history), past_seconds=1e9, free={"n_jobs"})
    assert {(kind, n_jobs) for kind, n_jobs, *_ in found} == {("process", 4)}


def test_workers_are_otherwise_never_more_than_the_cores_unless_they_are_threads(history: History) -> None:
    recorded(history, 30, n_jobs=2)
    assert tried(history, predicted(history), past_seconds=1e9, free={"n_jobs"}) == {}
    recorded(history, 30, n_jobs=2, executor="thread", speedup=2.5)
    more = tried(history, predicted(history), past_seconds=1e9, free={"n_jobs"})
    assert {n_jobs for _, n_jobs, *_ in more} == {3}


def test_adaptive_chunking_explores_its_target(history: History) -> None:
    recorded(history, 30, adaptive=ChunkBounds(target_duration=0.2))
    found = tried(history, predicted(history), past_seconds=1e9, free={"chunksize"})
    assert {bounds.target_duration for *_, bounds in found} == {0.1, 0.4}


def test_streams_explore_their_buffer_and_ordering(history: History) -> None:
    recorded(history, 30, buffer_size=16, use_ordered=True, is_streaming=True, features={"pickle_size": 100})
    prediction = predicted(history, streaming=True)
    found = set()
    for seed in range(100):
        other = explore(prediction, rng=random.Random(seed), cores=2, past_seconds=1e9, rate=1.0)
        assert isinstance(other, StreamingPredictionResult)
        found.add((other.buffer_size, other.use_ordered))
    assert {(8, True), (32, True), (16, False)} <= found
    kept = explore(
        prediction, rng=random.Random(0), cores=2, past_seconds=1e9, rate=1.0, free=DIMENSIONS - {"use_ordered"}
    )
    assert isinstance(kept, StreamingPredictionResult)
    assert kept.use_ordered is True


def test_results_of_unknown_size_are_given_no_larger_buffer(history: History) -> None:
    recorded(history, 30, buffer_size=16, use_ordered=True, is_streaming=True)
    prediction = predicted(history, streaming=True)
    for seed in range(100):
        other = explore(prediction, rng=random.Random(seed), cores=2, past_seconds=1e9, rate=1.0)
        assert isinstance(other, StreamingPredictionResult)
        assert (other.buffer_size or 0) <= 16


def test_a_wrong_first_guess_is_not_repeated_for_ever(history: History) -> None:
    """The first runs all had chunks of 8; chunks of 128 are half as slow. Found by steps, at little cost."""
    rng = random.Random(2)

    def speedup(chunksize: int) -> float:
        return 1.9 / (1 + 6 / chunksize) * rng.uniform(0.97, 1.03)

    recorded(history, 3, chunksize=8, speedup=speedup(8))
    lost = 0.0
    for _ in range(300):
        prediction = predicted(history)
        experience = history.experience("f0")
        assert experience is not None
        chosen = explore(
            prediction, rng=rng, cores=2, past_seconds=experience.seconds, free={"chunksize"}, executors=("process",)
        )
        measured = speedup((chosen or prediction).chunksize)
        lost += max(0.0, prediction.predicted_speedup / measured - 1) if chosen else 0.0
        history.record(run(chunksize=(chosen or prediction).chunksize, speedup=measured, at=history.clock.now()))
    assert predicted(history).chunksize >= 64
    assert lost / 300 < 0.02
