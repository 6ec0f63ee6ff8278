"""From run to run: what `execute` and `stream` record, and what the next ones make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.parallel.recorded import history_in, recorded
from tests.parallel.workloads import square

from everloop.parallel import (
    History,
    execute,
    get_calibration_stats,
    get_history,
    optimize_streaming,
    predict_parameters,
    stream,
    update_model_from_execution,
    update_model_from_streaming_execution,
)
from everloop.parallel.calibration import Outcome
from everloop.parallel.identity import func_hash
from everloop.parallel.plan import ChunkBounds


def test_a_run_is_recorded_as_it_was_measured_if_the_caller_wants_it() -> None:
    execute(square, range(40))
    assert get_history().load() == [], "not unless it is asked for"
    _, result = execute(
        square, range(40), executor="thread", n_jobs=2, enable_online_learning=True, return_optimization_result=True
    )
    (sample,) = get_history().load()
    assert result.report is not None
    assert (sample.executor_type, sample.n_jobs, sample.is_streaming) == ("thread", 2, False)
    assert sample.item_seconds == pytest.approx(result.report.wall_seconds / 40), "by the wall clock"
    assert sample.worker_item_seconds == pytest.approx(result.report.mean_item_seconds), "by the workers' own"


def test_chunks_are_recorded_as_they_were_and_not_as_adaptation_would_have_had_them() -> None:
    assert list(stream(square, range(400), executor="thread", n_jobs=2, buffer_size=6, prefer_ordered=True))
    (sample,) = get_history().load()
    assert sample.buffer_size == 6
    assert sample.chunksize <= 6


def test_after_some_runs_the_history_decides_and_nothing_is_run_for_it() -> None:
    for _ in range(6):
        update_model_from_execution(square, 200, 0.0002, 2, 20, 1.8, executor_type="thread")
    _, result = execute(
        square, range(200), use_ml_prediction=True, enable_online_learning=True, explore=False,
        return_optimization_result=True,
    )  # fmt: skip
    assert result.report is not None
    assert (result.plan.source, result.report.sampled) == ("history", 0)
    assert (result.executor_type, result.n_jobs) == ("thread", 2)
    assert "nothing was run to decide" in result.explain()
    assert get_calibration_stats()["total_predictions"] > 0, "held against what came of it"
    _, result = execute(square, range(200), return_optimization_result=True)
    assert result.plan.source != "history", "only where the caller wants it"


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("executor", ["thread", "process", "serial"])
def test_a_buffer_and_an_ordering_that_were_fast_are_carried_out(ordered: bool, executor: str) -> None:
    """37 is no rule of thumb's answer. A generator is read no further ahead than that."""
    for _ in range(8):
        update_model_from_streaming_execution(
            square, 2_000, 1e-5, 1 if executor == "serial" else 2, 5, 1.0, 37, ordered, executor_type=executor
        )
    read: list[int] = []
    furthest = 0
    with stream(
        square, (read.append(item) or item for item in range(2_000)), enable_ml_prediction=True,
        ml_confidence_threshold=0.1, explore=False,
    ) as results:  # fmt: skip
        assert (results.plan.source, results.plan.buffer_size, results.plan.ordered) == ("history", 37, ordered)
        found = []
        for result in results:
            furthest = max(furthest, len(read) - len(found))
            found.append(result)
        assert results.report.sampled == 0
    assert sorted(found) == [item * item for item in range(2_000)]
    assert furthest <= 37
    assert results.report.most_in_flight <= 37


def test_parameters_of_adaptive_chunking_that_were_fast_are_carried_out() -> None:
    for bounds, speedup in ((ChunkBounds(0.05, 0.6), 1.9), (ChunkBounds(0.8, 0.2), 1.2)):
        for _ in range(6):
            update_model_from_execution(square, 2_000, 1e-3, 2, 40, speedup, executor_type="thread", adaptive=bounds)
    asked: dict[str, Any] = {"ml_confidence_threshold": 0.1, "explore": False}
    _, result = execute(square, range(2_000), use_ml_prediction=True, return_optimization_result=True, **asked)
    assert (result.plan.source, result.plan.adaptive) == ("history", ChunkBounds(0.05, 0.6))
    with stream(square, range(2_000), enable_ml_prediction=True, **asked) as results:
        assert (results.plan.source, results.plan.adaptive) == ("history", ChunkBounds(0.05, 0.6))
    with stream(
        square, range(2_000), enable_ml_prediction=True, enable_adaptive_chunking=False, **asked
    ) as results:  # fmt: skip
        assert results.plan.adaptive is None, "what the caller says"
    told = optimize_streaming(
        square, range(2_000), enable_ml_prediction=True, ml_confidence_threshold=0.1, enable_adaptive_chunking=True
    )
    assert told.adaptive_chunking_params["adaptation_rate"] == 0.6


class Awkward:
    """Its attributes raise what nobody expects."""

    def __len__(self) -> int:
        raise RuntimeError("not connected")

    @property
    def nbytes(self) -> int:
        raise RuntimeError("not connected")


class Negative:
    nbytes = "many"

    def __len__(self) -> int:
        return -1  # noqa: PLE0303 - that is the point


@pytest.mark.parametrize("kind", [Awkward, Negative])
def test_items_and_bound_values_of_any_kind_can_be_worked_with(kind: type) -> None:
    bound = kind()

    def name_of(item: object) -> str:
        return type(item if item is not None else bound).__name__

    assert execute(name_of, [kind(), kind()]) == [kind.__name__] * 2
    assert list(stream(name_of, [kind()] * 3, prefer_ordered=True)) == [kind.__name__] * 3


def test_the_threshold_that_decides_is_the_one_that_has_moved(tmp_path: Path) -> None:
    """Confidence of 0.75 came true once in ten times: it is not enough any more for who asks for 0.7."""
    history = history_in(tmp_path)
    assert history.outcomes.threshold(0.7) == 0.7
    for number in range(60):
        history.outcomes.add(Outcome(0.75, 0.75, number % 10 == 0, 0.1))
        history.outcomes.add(Outcome(0.95, 0.95, True, 0.0))
    moved = history.outcomes.threshold(0.7)
    assert 0.75 < moved <= 0.9
    assert get_calibration_stats(history)["adjusted_threshold"] == moved
    assert History(tmp_path).outcomes.threshold(0.7) == moved, "in every process"


def test_and_what_is_sure_enough_for_the_callers_threshold_but_not_for_that_one_is_left_to_the_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = history_in(tmp_path)
    recorded(history, 5, func_hash=func_hash(square))
    found = predict_parameters(square, 1_000, history=history)
    assert found is not None
    monkeypatch.setattr(history.outcomes, "threshold", lambda asked: found.confidence + 0.01)
    assert predict_parameters(square, 1_000, history=history) is None
