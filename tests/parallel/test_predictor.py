"""Predictions prefer what was fast, respect what is fixed, and are not made where experience does not reach."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.parallel.recorded import HERE, history_in, recorded, run, some_function

from everloop.core.errors import InvalidInput
from everloop.parallel import predictor
from everloop.parallel.constants import MIN_TRAINING_SAMPLES, STREAMING_BUFFER_MEMORY_FRACTION
from everloop.parallel.history import History
from everloop.parallel.identity import func_hash
from everloop.parallel.plan import ChunkBounds
from everloop.parallel.predictor import (
    PredictionResult,
    StreamingPredictionResult,
    predict_parameters,
    predict_streaming_parameters,
)
from everloop.parallel.recording import update_model_from_execution, update_model_from_streaming_execution

WORK = some_function(1)
NAME = func_hash(WORK)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return history_in(tmp_path)


def test_results_construct_as_the_seed_shows_them() -> None:
    plain = PredictionResult(4, 50, 0.85, "because", 12, 0.9)
    assert (plain.n_jobs, plain.chunksize, plain.confidence, plain.training_samples) == (4, 50, 0.85, 12)
    streaming = StreamingPredictionResult(
        n_jobs=4, chunksize=50, confidence=0.85, reason="because", training_samples=12
    )
    assert (streaming.buffer_size, streaming.use_ordered) == (12, True)
    chosen = StreamingPredictionResult(
        n_jobs=4, chunksize=50, confidence=0.85, reason="", training_samples=1, buffer_size=8, use_ordered=False
    )
    assert (chosen.buffer_size, chosen.use_ordered) == (8, False)
    assert StreamingPredictionResult(4, 50, 0.85, buffer_size=0).buffer_size == 12, "as the seed's `or`"


def test_without_experience_nothing_is_predicted(history: History) -> None:
    assert predict_parameters(WORK, 1_000, history=history) is None
    recorded(history, MIN_TRAINING_SAMPLES - 1, func_hash=NAME)
    assert predict_parameters(WORK, 1_000, 0.001, confidence_threshold=0.0, history=history) is None
    recorded(history, 1, func_hash=NAME)
    assert predict_parameters(WORK, 1_000, 0.001, history=history) is not None


def test_what_was_fast_wins_over_what_was_used(history: History) -> None:
    recorded(history, 20, func_hash=NAME, n_jobs=4, chunksize=500, speedup=1.1)
    recorded(history, 4, func_hash=NAME, n_jobs=2, chunksize=20, speedup=1.9)
    found = predict_parameters(WORK, 1_000, 0.001, 0.5, history=history)
    assert found is not None
    assert (found.n_jobs, found.chunksize) == (2, 20)
    assert found.predicted_speedup == pytest.approx(1.9, rel=0.15)


def test_a_neighbour_that_was_tried_once_and_is_as_good_does_not_unsettle_what_is_known(history: History) -> None:
    recorded(history, 8, func_hash=NAME, chunksize=64, speedup=1.80)
    recorded(history, 1, func_hash=NAME, chunksize=128, speedup=1.82)
    found = predict_parameters(WORK, 1_000, 0.001, history=history)
    assert found is not None
    assert found.chunksize == 64
    recorded(history, 3, func_hash=NAME, chunksize=128, speedup=1.95)
    better = predict_parameters(WORK, 1_000, 0.001, history=history)
    assert better is not None
    assert better.chunksize == 128


def test_a_neighbour_that_was_lucky_once_does_not_send_everybody_back_to_the_dry_run(history: History) -> None:
    recorded(history, 8, func_hash=NAME, chunksize=64, speedup=1.80)
    recorded(history, 1, func_hash=NAME, chunksize=128, speedup=2.05)
    found = predict_parameters(WORK, 1_000, 0.001, history=history)
    assert found is not None
    assert found.chunksize == 64
    unsure = predict_parameters(WORK, 1_000, 0.001, 0.0, history=history)
    assert unsure is not None
    assert unsure.chunksize == 128, "who does not mind gets what looks fastest"


def test_the_time_that_is_promised_is_the_one_that_was_measured(history: History) -> None:
    recorded(history, 10, func_hash=NAME, speedup=1.6, item_time=0.002, item_seconds=0.002 / 1.6)
    found = predict_parameters(WORK, 1_000, history=history)
    assert found is not None
    assert found.item_seconds == pytest.approx(0.00125, rel=1e-6)
    assert found.predicted_seconds == pytest.approx(1.25, rel=1e-6)


def test_a_remembered_item_time_is_not_overruled_by_the_default(history: History) -> None:
    recorded(history, 5, func_hash=NAME, item_time=5e-6)
    found = predict_parameters(WORK, 1_000, history=history)
    assert found is not None
    assert found.serial_item_seconds == pytest.approx(5e-6, rel=1e-6)


def test_a_caller_who_says_ten_milliseconds_may_mean_it(history: History) -> None:
    """The default of the signature is no claim; the same number from a caller is."""
    recorded(history, 20, func_hash=NAME, item_time=5e-6)
    assert predict_parameters(WORK, 1_000, history=history) is not None
    assert predict_parameters(WORK, 1_000, float("0.010"), 0.0, history=history) is None, "2,000 times what was seen"
    assert (
        predict_streaming_parameters(WORK, 1_000, estimated_item_time=1e-2, confidence_threshold=0.0, history=history)
        is None
    )


@pytest.mark.parametrize(("size", "item_time"), [(1_000_000, 0.001), (1_000, 1.0), (100_000, 0.01 * 1.01)])
def test_a_workload_a_thousand_times_larger_than_any_seen_is_not_predicted(
    history: History, size: int, item_time: float
) -> None:
    recorded(history, 100, func_hash=NAME)  # 1,000 items of 1 ms
    for threshold in (0.7, 0.0):
        assert predict_parameters(WORK, size, item_time, threshold, history=history) is None
        assert predict_streaming_parameters(WORK, size, item_time, threshold, history=history) is None


def test_neither_is_it_for_a_function_that_never_ran(history: History) -> None:
    for number in range(20):
        recorded(history, 5, func_hash=f"f{number}")
    stranger = some_function(77)
    assert predict_parameters(stranger, 1_000, 0.001, 0.0, history=history) is not None
    assert predict_parameters(stranger, 1_000_000, 0.001, 0.0, history=history) is None
    assert predict_parameters(stranger, 1_000, 1.0, 0.0, history=history) is None


def test_confidence_falls_on_the_way_there(history: History) -> None:
    recorded(history, 20, func_hash=NAME)
    told = []
    for size in (1_000, 3_000, 10_000, 30_000, 100_000):
        found = predict_parameters(WORK, size, 0.001, 0.0, history=history)
        told.append(0.0 if found is None else found.confidence)
    assert told == sorted(told, reverse=True)
    assert told[0] > 0.8 > 0.5 > told[-1]


def test_a_function_that_never_ran_is_predicted_from_many_alike_and_not_from_one(history: History) -> None:
    stranger = some_function(78)
    recorded(history, 50, func_hash="f0")
    assert predict_parameters(stranger, 1_000, 0.001, history=history) is None, "one other function is no evidence"
    for number in range(30):
        recorded(history, 5, func_hash=f"g{number}", speedup=1.8 + 0.01 * (number % 5))
    found = predict_parameters(stranger, 1_000, 0.001, history=history)
    assert found is not None
    assert (found.basis, found.n_jobs) == ("across", 2)
    # ... and by what is like it: items of another duration have been fast with other settings.
    for number in range(30):
        recorded(
            history, 5, func_hash=f"h{number}", item_time=1e-6, data_size=100, executor="serial", n_jobs=1, speedup=1.0
        )
    tiny = predict_parameters(stranger, 100, 1e-6, history=history)
    assert tiny is not None
    assert tiny.executor_type == "serial"


def test_work_that_waits_is_not_predicted_from_work_that_computes(history: History) -> None:
    for number in range(15):
        recorded(history, 4, func_hash=f"c{number}", cpu_share=1.0, executor="process", speedup=1.8)
        recorded(history, 4, func_hash=f"w{number}", cpu_share=0.02, executor="thread", n_jobs=16, speedup=14.0)
    waiting = predict_parameters(some_function(5), 1_000, 0.001, 0.0, cpu_share=0.0, history=history)
    computing = predict_parameters(some_function(5), 1_000, 0.001, 0.0, cpu_share=0.98, history=history)
    assert waiting is not None
    assert computing is not None
    assert (waiting.executor_type, computing.executor_type) == ("thread", "process")


def test_what_the_caller_fixed_always_wins(history: History) -> None:
    recorded(history, 6, func_hash=NAME, n_jobs=4, chunksize=50, speedup=3.0)
    recorded(history, 6, func_hash=NAME, n_jobs=2, chunksize=400, speedup=1.9)
    recorded(history, 6, func_hash=NAME, n_jobs=2, chunksize=50, executor="thread", speedup=1.1)

    def predicted(**fixed: Any) -> PredictionResult | None:
        return predict_parameters(WORK, 1_000, 0.001, 0.5, history=history, **fixed)

    def speed(**fixed: Any) -> float:
        found = predicted(**fixed)
        assert found is not None
        for name, value in fixed.items():
            if name == "executors":
                assert found.executor_type in value
            else:
                assert getattr(found, name) == value
        return found.predicted_speedup

    assert speed() > speed(n_jobs=2) > speed(executors=["thread"])
    assert speed(chunksize=450) == pytest.approx(1.9, rel=0.1), "what was measured with about such chunks"
    assert predicted(n_jobs=7) is None, "never tried: the dry run takes over"


def test_settings_fit_the_size_that_is_asked_for(history: History) -> None:
    recorded(history, 6, func_hash=NAME, n_jobs=4, chunksize=100, data_size=1_000)
    found = predict_parameters(WORK, 300, 0.001, 0.3, history=history)
    assert found is not None
    assert found.chunksize == 75, "no worker goes without"
    tiny = predictor.predict(predictor.Query(NAME, 3, None), history)
    assert tiny is None or tiny.n_jobs <= 3


def test_chunks_last_as_long_where_items_take_longer(history: History) -> None:
    recorded(history, 8, func_hash=NAME, chunksize=100, data_size=10_000, item_time=0.001)
    longer = predict_parameters(WORK, 2_500, 0.005, 0.0, history=history)
    assert longer is not None
    assert longer.chunksize == pytest.approx(20, abs=1)


def test_streams_learn_their_buffer_and_ordering(history: History) -> None:
    for buffer, ordered, speedup in ((8, True, 1.2), (64, True, 1.5), (64, False, 1.9), (256, False, 1.6)):
        recorded(
            history,
            4,
            func_hash=NAME,
            speedup=speedup,
            chunksize=4,
            buffer_size=buffer,
            use_ordered=ordered,
            is_streaming=True,
        )
    found = predict_streaming_parameters(WORK, 1_000, 0.001, 0.5, history=history)
    assert found is not None
    assert (found.buffer_size, found.use_ordered, found.buffer_learned) == (64, False, True)
    in_order = predict_streaming_parameters(WORK, 1_000, 0.001, 0.5, prefer_ordered=True, history=history)
    assert in_order is not None
    assert (in_order.buffer_size, in_order.use_ordered) == (64, True)
    assert in_order.predicted_speedup == pytest.approx(1.5, rel=0.1), "and promises what order costs"
    fixed = predict_streaming_parameters(WORK, 1_000, 0.001, 0.5, buffer_size=5, history=history)
    assert fixed is not None
    assert fixed.buffer_size == 5


def test_a_buffer_that_was_fast_yields_to_the_memory_that_there_is(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "available_memory", lambda: 100 << 20)
    recorded(history, 5, func_hash=NAME, chunksize=1, buffer_size=64, use_ordered=True, is_streaming=True)
    found = predict_streaming_parameters(WORK, 1_000, 0.001, pickle_size=1 << 20, history=history)
    assert found is not None
    assert found.buffer_size == int(100 * STREAMING_BUFFER_MEMORY_FRACTION)
    huge = predict_streaming_parameters(WORK, 1_000, 0.001, pickle_size=1 << 30, history=history)
    assert huge is not None
    assert huge.buffer_size == 1


def test_a_stream_of_a_function_that_ran_in_batches_gets_the_rules_of_thumb(history: History) -> None:
    recorded(history, 5, func_hash=NAME, n_jobs=2, chunksize=1)
    few = predict_streaming_parameters(WORK, 1_000, 0.001, history=history)
    assert few is not None
    assert (few.buffer_size, few.use_ordered, few.buffer_learned) == (6, True, False)
    varied = predict_streaming_parameters(WORK, 1_000, 0.001, coefficient_of_variation=0.8, history=history)
    assert varied is not None
    assert varied.use_ordered is False
    many = predict_streaming_parameters(WORK, 10_001, 0.001, 0.0, history=history)
    assert many is not None
    assert many.use_ordered is False
    asked = predict_streaming_parameters(WORK, 10_001, 0.001, 0.0, prefer_ordered=True, history=history)
    assert asked is not None
    assert asked.use_ordered is True


def test_a_stream_without_a_known_end_is_predicted(history: History) -> None:
    recorded(history, 5, func_hash=NAME, buffer_size=12, use_ordered=True, is_streaming=True)
    found = predict_streaming_parameters(WORK, None, None, history=history)
    assert found is not None
    assert found.predicted_seconds is None
    assert found.item_seconds


def test_parameters_of_adaptive_chunking_are_predicted(history: History) -> None:
    slow, fast = ChunkBounds(target_duration=1.0), ChunkBounds(target_duration=0.1, adaptation_rate=0.5)
    recorded(history, 4, func_hash=NAME, adaptive=slow, speedup=1.3)
    recorded(history, 4, func_hash=NAME, adaptive=fast, speedup=1.9)
    found = predict_parameters(WORK, 1_000, 0.001, 0.5, history=history)
    assert found is not None
    assert found.adaptive == fast
    assert found.adaptive_chunking_params["adaptation_rate"] == 0.5
    fixed = predict_parameters(WORK, 1_000, 0.001, 0.0, chunksize=50, history=history)
    assert fixed is not None
    assert fixed.adaptive is None
    assert fixed.adaptive_chunking_params == {}


def test_the_adaptation_rate_that_was_fast_is_predicted(history: History) -> None:
    recorded(history, 4, func_hash=NAME, adaptive=ChunkBounds(adaptation_rate=0.3), speedup=1.9)
    recorded(history, 4, func_hash=NAME, adaptive=ChunkBounds(adaptation_rate=0.9), speedup=1.3)
    found = predict_parameters(WORK, 1_000, 0.001, 0.5, history=history)
    assert found is not None
    assert found.adaptive is not None
    assert found.adaptive.adaptation_rate == 0.3


def test_workers_that_must_be_started_first_are_counted(history: History) -> None:
    """0.1 s of work: two warm workers halve it, cold ones double it."""
    work: dict[str, Any] = {"func_hash": NAME, "data_size": 100}
    recorded(history, 5, executor="serial", n_jobs=1, speedup=1.0, **work)
    recorded(history, 5, speedup=1.9, warm=True, **work)
    warm = predict_parameters(WORK, 100, 0.001, 0.0, warm=True, history=history)
    cold = predict_parameters(WORK, 100, 0.001, 0.0, warm=False, spawn_seconds=0.2, history=history)
    assert warm is not None
    assert cold is not None
    assert (warm.executor_type, cold.executor_type) == ("process", "serial")


def test_and_left_out_of_what_a_cold_run_taught_once_they_are_warm(history: History) -> None:
    recorded(history, 5, func_hash=NAME, data_size=1_000, speedup=1.25, warm=False)
    found = predict_parameters(WORK, 1_000, 0.001, 0.0, warm=True, spawn_seconds=0.3, history=history)
    assert found is not None
    assert found.predicted_speedup == pytest.approx(2.0, rel=0.01)


def test_a_new_machine_starts_with_what_another_has_learned(history: History) -> None:
    there = replace(HERE, cores=HERE.cores * 2, physical_cores=HERE.physical_cores * 2, cpu_model="A bigger one")
    recorded(history, 30, func_hash=NAME, n_jobs=there.cores, speedup=there.cores * 0.9, fingerprint=there)
    found = predict_parameters(WORK, 1_000, 0.001, 0.0, history=history)
    assert found is not None
    assert found.n_jobs == HERE.cores
    confidence_of_strangers = found.confidence
    recorded(history, 5, func_hash=NAME, n_jobs=HERE.cores, speedup=HERE.cores * 0.8)
    here = predict_parameters(WORK, 1_000, 0.001, 0.0, history=history)
    assert here is not None
    assert here.confidence > confidence_of_strangers


def test_so_it_does_with_files_of_older_versions_which_say_how_many_physical_cores_there_were(history: History) -> None:
    cores = HERE.physical_cores
    there = {"physical_cores": 32 * cores}
    recorded(
        history,
        20,
        func_hash=NAME,
        n_jobs=32 * cores,
        speedup=20.0 * cores,
        fingerprint=None,
        executor=None,
        features=there,
    )
    recorded(
        history,
        20,
        func_hash="f0",
        n_jobs=32 * cores,
        speedup=20.0 * cores,
        fingerprint=None,
        executor=None,
        features=there,
    )
    for function in (WORK, some_function(55)):
        found = predict_parameters(function, 1_000, 0.001, 0.0, history=history)
        assert found is not None
        assert found.n_jobs == cores
    here = {"physical_cores": cores}
    recorded(history, 20, func_hash="f1", n_jobs=5, fingerprint=None, executor=None, features=here)
    same = predictor.predict(predictor.Query("f1", 1_000, None), history)
    assert same is not None
    assert same.n_jobs == 5, "no other machine: as it was"


def test_a_buffer_of_another_machine_is_as_large_for_each_worker(history: History) -> None:
    there = replace(HERE, cores=HERE.cores * 32, physical_cores=HERE.physical_cores * 32)
    recorded(
        history, 20, func_hash=NAME, n_jobs=there.cores, speedup=20.0, fingerprint=there, chunksize=10,
        buffer_size=there.cores * 30, use_ordered=True, is_streaming=True,
    )  # fmt: skip
    found = predict_streaming_parameters(WORK, 1_000, 0.001, 0.0, history=history)
    assert found is not None
    assert (found.n_jobs, found.buffer_size) == (HERE.cores, HERE.cores * 30)


def test_the_flow_of_the_seed(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    kept: dict[str, Any] = {"data_size": 1_000, "estimated_item_time": 0.001, "history": history}
    for _ in range(5):
        assert update_model_from_execution(WORK, actual_n_jobs=4, actual_chunksize=50, actual_speedup=3.4, **kept)
    for _ in range(5):
        assert update_model_from_streaming_execution(
            func=WORK, actual_n_jobs=4, actual_chunksize=50, actual_speedup=3.5, buffer_size=12, use_ordered=True,
            pickle_size=100, coefficient_of_variation=0.1, verbose=True, **kept,
        )  # fmt: skip
    found = predict_streaming_parameters(WORK, verbose=True, **kept)
    assert found is not None
    assert (found.n_jobs, found.chunksize, found.buffer_size, found.use_ordered) == (4, 50, 12, True)
    assert found.confidence >= 0.7
    assert "3.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [
        {"data_size": -1}, {"data_size": 1.5}, {"data_size": True}, {"data_size": "many"}, {"estimated_item_time": 0.0},
        {"estimated_item_time": math.nan}, {"estimated_item_time": "long"}, {"confidence_threshold": 1.5},
        {"confidence_threshold": "high"}, {"pickle_size": -1}, {"coefficient_of_variation": math.inf}, {"cpu_share": -1},
        {"n_jobs": 0}, {"chunksize": 0}, {"executors": ["rocket"]}, {"spawn_seconds": -1.0}, {"func": 3},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_named(history: History, given: dict[str, Any]) -> None:
    recorded(history, 5, func_hash=NAME)
    with pytest.raises(InvalidInput) as raised:
        predict_parameters(**{"func": WORK, "data_size": 10, **given}, history=history)
    assert raised.value.field == next(iter(given))


def test_nothing_to_do_is_nothing_to_predict(history: History) -> None:
    recorded(history, 5, func_hash=NAME)
    assert predict_parameters(WORK, 0, history=history) is None
    assert predict_streaming_parameters(WORK, 0, history=history) is None


@pytest.mark.parametrize(
    "given",
    [
        {"data_size": -1}, {"data_size": 1.5}, {"estimated_item_time": -1.0}, {"estimated_item_time": "long"}, {"actual_n_jobs": 0},
        {"actual_n_jobs": True}, {"actual_chunksize": 0}, {"actual_speedup": 0}, {"actual_speedup": "fast"}, {"actual_speedup": math.inf},
        {"buffer_size": 0}, {"buffer_size": None}, {"use_ordered": None}, {"use_ordered": "yes"}, {"pickle_size": -1},
        {"pickle_size": "x"}, {"coefficient_of_variation": -0.1}, {"coefficient_of_variation": math.nan}, {"executor_type": "rocket"},
        {"func": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_that_cannot_have_been_is_named_and_not_taught(history: History, given: dict[str, Any]) -> None:
    run: dict[str, Any] = {
        "func": WORK, "data_size": 10, "estimated_item_time": 0.1, "actual_n_jobs": 2, "actual_chunksize": 1, "actual_speedup": 1.9,
        "buffer_size": 6, "use_ordered": True, "history": history,
    }  # fmt: skip
    with pytest.raises(InvalidInput) as raised:
        update_model_from_streaming_execution(**{**run, **given})
    assert raised.value.field == next(iter(given))
    assert history.load() == []


def test_numpy_s_numbers_are_numbers(history: History) -> None:
    import numpy as np

    for _ in range(5):
        assert update_model_from_streaming_execution(
            WORK, np.int64(1_000), np.float32(0.001), np.int32(2), np.int64(50), np.float64(1.8), np.int64(6),
            np.bool_(True), np.int64(100), np.float32(0.1), history=history,
        )  # fmt: skip
    found = predict_streaming_parameters(WORK, np.int64(1_000), np.float32(0.001), history=History(history.folder))
    assert found is not None
    assert (found.n_jobs, found.buffer_size, found.use_ordered) == (2, 6, True)


def test_verbose_tells_what_was_predicted_or_why_nothing_was(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(function: Callable[[Any], Any] = WORK, size: int = 1_000, **given: Any) -> str:
        predict_streaming_parameters(function, size, verbose=True, history=history, **given)
        return capsys.readouterr().err

    assert "0 runs are recorded, 3 are needed; a dry run decides" in said()
    recorded(history, 8, func_hash=NAME, n_jobs=4, chunksize=50, buffer_size=12, use_ordered=True, is_streaming=True)
    told = said()
    assert "n_jobs=4, chunksize=50, buffer_size=12, in order; confidence 9" in told
    assert "8 runs of this function" in told
    assert "a dry run decides" not in told
    assert "threshold 100%" in said(confidence_threshold=1.0)
    assert "a thousand times more than any of the 8 runs of this function" in said(size=10**7)
    assert "or had the settings that are asked for" in said(n_jobs=7)
    assert "there are no items" in said(size=0)
    assert "a dry run decides" in said(some_function(88), size=1_000)


def test_what_says_nothing_is_not_taught(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    """Results whose item time is not known say 0.0."""
    assert not update_model_from_execution(WORK, 100, 0.0, 2, 1, 1.9, verbose=True, history=history)
    assert not update_model_from_execution(WORK, 0, 0.1, 2, 1, 1.9, verbose=True, history=history)
    assert history.load() == []
    said = capsys.readouterr().err
    assert "what an item takes" in said
    assert "no items" in said


def test_threads_predict_while_others_record(history: History) -> None:
    recorded(history, 5, func_hash=NAME)
    errors: list[BaseException] = []

    def attempt(work: Callable[[int], object]) -> None:
        try:
            for number in range(200):
                work(number)
        except BaseException as error:
            errors.append(error)

    record = lambda n: history.record(run(NAME, chunksize=n + 1, data_size=10 + n * 7))  # noqa: E731
    known = lambda _: predict_parameters(WORK, 1_000, 0.001, 0.0, history=history)  # noqa: E731
    unknown = lambda _: predict_parameters(some_function(9), 1_000, 0.001, 0.0, history=history)  # noqa: E731
    threads = [threading.Thread(target=attempt, args=(work,)) for work in (record, known, unknown)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_prediction_reads_no_file(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(history, 10, func_hash=NAME)
    predict_parameters(WORK, 1_000, 0.001, history=history)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a warm prediction opened a file")

    for name in ("read_bytes", "read_text", "open"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr("os.listdir", refuse)
    assert predict_parameters(WORK, 1_000, 0.001, history=history) is not None
