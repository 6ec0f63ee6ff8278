"""What is recorded of a run is what was measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.parallel.recorded import HERE, history_in, some_function

from everloop.parallel.history import History
from everloop.parallel.identity import func_hash
from everloop.parallel.plan import ChunkBounds, Plan
from everloop.parallel.predictor import PredictionResult
from everloop.parallel.recording import record_run
from everloop.parallel.report import RunReport
from everloop.parallel.samples import TrainingData

WORK = some_function(3)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return history_in(tmp_path)


def report(
    executor: Any = "process", n_jobs: int = 2, *, plan: dict[str, Any] | None = None, **measured: Any
) -> RunReport:
    """1,005 items of 1 ms, five of them in the dry run, the rest in 0.55 s; in the workers they looked like 1.1 ms each."""
    given: dict[str, Any] = {
        "items": 1_005, "wall_seconds": 0.55, "item_seconds": 1.105, "squares": 0.00122, "cpu_seconds": 1.1,
        "sampled": 5, "sampled_seconds": 0.005, "bytes_out": 10_000, "chunks": 20,
    }  # fmt: skip
    return RunReport(Plan(executor, n_jobs, 50, **(plan or {})), **{**given, **measured})


def recorded(history: History, ran: RunReport, **more: Any) -> TrainingData:
    sample = record_run(WORK, ran, history=history, **more)
    assert sample is not None
    return sample


def test_the_speedup_is_serial_time_over_wall_time_never_the_estimate(history: History) -> None:
    sample = recorded(history, report(plan={"predicted_speedup": 17.0}))
    assert sample.speedup == pytest.approx(0.001 / 0.00055)
    assert sample.item_seconds == pytest.approx(0.00055)
    assert sample.features.estimated_item_time == pytest.approx(0.001), "undisturbed, as the dry run saw it"
    assert (sample.func_hash, sample.fingerprint, sample.executor_type) == (func_hash(WORK), HERE, "process")
    assert sample.features.pickle_size == 10
    assert sample.worker_item_seconds == pytest.approx(0.0011), "as its worker saw it"
    assert sample.features.data_size == 1_000
    assert len(History(history.folder).load()) == 1


def test_threads_that_held_each_other_up_did_not_speed_anything_up(history: History) -> None:
    """1 s of computing under the GIL: four threads each saw items of 4 ms, the CPU 1 ms."""
    ran = report(
        "thread", 4, wall_seconds=1.0, item_seconds=4.0, cpu_seconds=1.0, items=1_000, sampled=0, sampled_seconds=0.0
    )
    assert recorded(history, ran).speedup == pytest.approx(1.0, rel=0.01)


def test_threads_that_waited_did(history: History) -> None:
    ran = report(
        "thread", 4, wall_seconds=0.25, item_seconds=1.0, cpu_seconds=0.01, items=1_000, sampled=0, sampled_seconds=0.0
    )
    sample = recorded(history, ran)
    assert sample.speedup == pytest.approx(4.0)
    assert sample.cpu_share == pytest.approx(0.01)


def test_a_serial_run_is_its_own_measure(history: History) -> None:
    sample = recorded(history, report("serial", 1, items=100, wall_seconds=0.2, item_seconds=0.2, sampled=0))
    assert sample.speedup == pytest.approx(1.0)
    assert sample.features.estimated_item_time == pytest.approx(0.002)


def test_a_run_that_the_dry_run_finished_was_serial(history: History) -> None:
    sample = recorded(history, report(items=5, wall_seconds=0.0, item_seconds=0.005, cpu_seconds=0.005))
    assert (sample.executor_type, sample.n_jobs, sample.features.data_size) == ("serial", 1, 5)
    assert sample.speedup == pytest.approx(1.0)


def test_noise_in_the_dry_run_does_not_make_one_run_look_better_than_another(history: History) -> None:
    first = recorded(history, report())
    again = recorded(history, report(sampled_seconds=0.0125))  # 2.5 times as long, with as much CPU time: the same work
    assert again.speedup == pytest.approx(first.speedup)
    other = recorded(history, report(sampled_seconds=0.02, wall_seconds=2.2, item_seconds=4.4, cpu_seconds=4.4))
    assert other.features.estimated_item_time == pytest.approx(0.004), "really other items"
    assert other.speedup == pytest.approx(first.speedup, rel=0.01)


def test_a_busy_machine_does_not_favour_serial_runs(history: History) -> None:
    """All walls twice as long, the CPU time the same: settings keep their order."""
    recorded(history, report())
    serial = report("serial", 1, items=1_000, sampled=0, sampled_seconds=0.0, wall_seconds=2.0, item_seconds=2.0)
    spread = report(items=1_000, sampled=0, sampled_seconds=0.0, wall_seconds=1.1, item_seconds=2.2)
    assert recorded(history, serial).speedup == pytest.approx(0.5)
    assert recorded(history, spread).speedup == pytest.approx(1 / 1.1)


def test_work_that_waits_is_known_by_its_wall_time(history: History) -> None:
    first = recorded(history, report("thread", 8, cpu_seconds=0.005))
    other = recorded(history, report("thread", 8, cpu_seconds=0.002, sampled_seconds=0.05, wall_seconds=5.5))
    assert other.features.estimated_item_time == pytest.approx(10 * first.features.estimated_item_time)


def test_few_items_of_unequal_length_do_not_either(history: History) -> None:
    mean = 0.001
    varied = {"squares": 1_005 * (mean**2) * (1 + 1.5**2), "item_seconds": 1_005 * mean, "cpu_seconds": 0.005}
    first = recorded(history, report("thread", **varied))
    again = recorded(history, report("thread", **varied, sampled_seconds=0.0125))
    assert again.speedup == pytest.approx(first.speedup)


def test_without_a_dry_run_the_remembered_item_time_counts(history: History) -> None:
    recorded(history, report())
    warm = recorded(history, report(items=1_000, sampled=0, sampled_seconds=0.0, wall_seconds=0.5))
    assert warm.speedup == pytest.approx(2.0)


def test_streams_keep_buffer_and_ordering_and_batches_do_not(history: History) -> None:
    plan = {"buffer_size": 16, "ordered": False, "adaptive": ChunkBounds(0.1)}
    stream = recorded(history, report(plan=plan, largest_chunk=77), streaming=True)
    assert (stream.is_streaming, stream.buffer_size, stream.use_ordered) == (True, 16, False)
    assert (stream.chunksize, stream.adaptive) == (77, ChunkBounds(0.1))
    batch = recorded(history, report(plan=plan))
    assert (batch.is_streaming, batch.buffer_size, batch.use_ordered, batch.chunksize) == (False, None, None, 50)


@pytest.mark.parametrize(
    ("what", "total"),
    [
        ({"items": 0, "sampled": 0}, None),
        ({"deaths": 1}, None),
        ({"failed": 200}, None),
        ({"paused_seconds": 0.1}, None),
        ({}, 10_000),
        ({"wall_seconds": 0.0}, None),
    ],
    ids=["nothing ran", "a worker died", "many failed", "waited for memory", "ended early", "no time"],
)
def test_a_run_that_says_little_about_its_settings_is_not_learned_from(
    history: History, what: dict[str, Any], total: int | None
) -> None:
    assert record_run(WORK, report(**what), total=total, history=history) is None
    assert history.load() == []


def test_a_resumed_run_is_learned_from(history: History) -> None:
    assert recorded(history, report(resumed=9_000), total=10_005).features.data_size == 1_000


def test_a_prediction_is_held_against_its_run(history: History) -> None:
    promised = PredictionResult(2, 50, 0.8, item_seconds=0.0006, raw_confidence=0.7)
    recorded(history, report(), prediction=promised)
    (outcome,) = history.outcomes.load()
    assert (outcome.raw, outcome.confidence, outcome.hit) == (0.7, 0.8, True)
    assert outcome.error == pytest.approx(math.log(0.00055 / 0.0006), abs=1e-3)
    recorded(history, report(wall_seconds=1.1), prediction=promised)
    assert [outcome.hit for outcome in history.outcomes.load()] == [True, False]


def test_a_run_that_was_not_predicted_is_held_against_what_would_have_been(history: History) -> None:
    for _ in range(5):
        recorded(history, report())
    assert [outcome.hit for outcome in history.outcomes.load()] == [True, True], "from the fourth run on"


def test_a_prediction_that_was_not_carried_out_is_not_blamed(history: History) -> None:
    promised = PredictionResult(8, 50, 0.8, item_seconds=1e-9, raw_confidence=0.7)
    recorded(history, report(), prediction=promised)
    recorded(
        history, report(), prediction=PredictionResult(2, 50, 0.8, item_seconds=1e-9, raw_confidence=0.7, explored=True)
    )
    assert history.outcomes.load() == []
