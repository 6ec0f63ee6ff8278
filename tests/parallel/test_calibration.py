"""Confidence means what it says, and the threshold goes where it has to."""

from __future__ import annotations

import itertools
import json
import math
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.parallel.recorded import history_in, run

from everloop.core.errors import InvalidInput
from everloop.parallel.calibration import (
    Calibrator,
    Outcome,
    calibration_error,
    get_calibration_stats,
    isotonic,
    moved_threshold,
    reliability,
    track_prediction_accuracy,
)
from everloop.parallel.outcomes import NEWEST, Outcomes
from everloop.parallel.predictor import PredictionResult, Query, predict
from everloop.parallel.recording import learn

shares = st.floats(0, 1)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 10)), min_size=1, max_size=20))
def test_isotonic_is_the_nearest_rising_sequence(rows: list[tuple[float, float]]) -> None:
    from sklearn.isotonic import isotonic_regression

    values, weights = zip(*rows, strict=True)
    assert isotonic(values, weights) == pytest.approx(
        list(isotonic_regression(values, sample_weight=weights)), abs=1e-6
    )


@given(st.lists(st.tuples(shares, st.booleans()), max_size=200))
def test_calibration_keeps_the_order_and_stays_a_probability(outcomes: list[tuple[float, bool]]) -> None:
    calibrator = Calibrator(outcomes)
    told = [calibrator(step / 50) for step in range(51)]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(told))
    assert all(0 < value < 1 for value in told)


def test_without_outcomes_confidence_is_the_model_s() -> None:
    calibrator = Calibrator()
    for step in range(1, 20):
        assert calibrator(step / 20) == pytest.approx(step / 20, abs=1e-9)


@pytest.mark.parametrize("truth", [lambda raw: raw**2, lambda raw: math.sqrt(raw), lambda raw: 0.5 + 0.2 * raw])
def test_a_model_that_is_too_sure_or_not_sure_enough_is_corrected(truth: object) -> None:
    rng = random.Random(3)
    assert callable(truth)
    outcomes = [(raw, rng.random() < truth(raw)) for raw in (rng.random() for _ in range(2_000))]
    calibrator = Calibrator(outcomes)
    assert max(abs(calibrator(step / 20) - truth(step / 20)) for step in range(2, 19)) < 0.1


def test_the_calibration_error_is_that_of_its_definition() -> None:
    assert calibration_error([], []) == 0
    assert calibration_error([0.95] * 10, [True] * 10) == pytest.approx(0.05)
    assert calibration_error([0.95] * 10 + [0.15] * 30, [True] * 5 + [False] * 5 + [False] * 30) == pytest.approx(
        0.25 * 0.45 + 0.75 * 0.15
    )
    assert reliability([0.95, 0.97], [True, False]) == [(0.9, pytest.approx(0.96), 0.5, 2)]


def outcomes_of(confidence: float, hits: int, misses: int) -> list[Outcome]:
    return [Outcome(confidence, confidence, hit, 0.0) for hit in [True] * hits + [False] * misses]


def test_the_threshold_stays_until_there_is_something_to_go_by() -> None:
    assert moved_threshold(0.7, []) == 0.7
    assert moved_threshold(0.7, outcomes_of(0.9, 0, 19)) == 0.7
    assert moved_threshold(0.7, outcomes_of(0.3, 0, 100)) == 0.7, "of what was never let through nothing is known"


def test_the_threshold_rises_where_predictions_came_true_too_seldom() -> None:
    mixed = outcomes_of(0.75, 10, 50) + outcomes_of(0.85, 60, 5)
    assert 0.75 < moved_threshold(0.7, mixed) <= 0.85
    assert moved_threshold(0.7, outcomes_of(0.99, 0, 200)) == pytest.approx(0.9)


def test_the_threshold_falls_where_predictions_came_true_more_often_than_asked() -> None:
    assert moved_threshold(0.7, outcomes_of(0.62, 100, 2)) == pytest.approx(0.6, abs=0.03)


@given(shares, st.lists(st.builds(Outcome, shares, shares, st.booleans(), st.just(0.0)), max_size=100))
def test_the_threshold_never_moves_far(asked: float, outcomes: list[Outcome]) -> None:
    moved = moved_threshold(asked, outcomes)
    assert asked - 0.1 - 1e-9 <= moved <= max(asked, min(0.95, asked + 0.2)) + 1e-9


def test_outcomes_are_kept_and_shared_by_processes(tmp_path: Path) -> None:
    one, other = Outcomes(tmp_path / "outcomes.ndjson"), Outcomes(tmp_path / "outcomes.ndjson")
    for number in range(6):
        (one, other)[number % 2].add(Outcome(0.5, 0.6, number % 3 == 0, 0.1, "across"))
    assert one.load() == other.load() == Outcomes(one.path).load()
    assert len(one.load()) == 6
    assert one.calibrated(0.55, "across") < one.calibrated(0.55, "function"), "each basis has its own curve"


def test_torn_lines_are_passed_over(tmp_path: Path) -> None:
    outcomes = Outcomes(tmp_path / "outcomes.ndjson")
    outcomes.add(Outcome(0.5, 0.6, True, 0.1))
    with outcomes.path.open("a") as file:
        file.write('[0.5, 0.6, tr\n{"a": 1}\n[2, 0, 1, 0, "function"]\n[0.1, 0.1, 1, NaN, "function"]\n[0.3, 0')
    outcomes.add(Outcome(0.7, 0.8, False, 0.2))
    assert [row.raw for row in Outcomes(outcomes.path).load()] == [0.5, 0.7]


def test_the_file_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everloop.parallel.outcomes._LONGEST", 40_000)
    outcomes, other = Outcomes(tmp_path / "outcomes.ndjson"), Outcomes(tmp_path / "outcomes.ndjson")
    for number in range(2_500):
        outcomes.add(Outcome(number / 2_500, 0.5, True, 0.0))
    assert outcomes.path.stat().st_size < 80_000
    assert len(outcomes.load()) == NEWEST
    assert [row.raw for row in other.load()] == [row.raw for row in outcomes.load()]


def test_threads_add_at_once(tmp_path: Path) -> None:
    outcomes = Outcomes(tmp_path / "outcomes.ndjson")
    threads = [
        threading.Thread(target=lambda: [outcomes.add(Outcome(0.5, 0.5, True, 0.0)) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes.load()) == len(Outcomes(outcomes.path).load()) == 200


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outcomes = Outcomes(tmp_path / "file" / "outcomes.ndjson")
    outcomes.add(Outcome(0.5, 0.5, True, 0.0))
    assert len(outcomes.load()) == 1


def test_a_prediction_is_held_against_its_speedup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = history_in(tmp_path)
    promised = PredictionResult(2, 50, 0.8, predicted_speedup=2.0)
    assert track_prediction_accuracy(promised, 1.9, verbose=True, history=history) is True
    assert track_prediction_accuracy(promised, 1.2, history=history) is False
    assert "came true" in capsys.readouterr().out
    stats = get_calibration_stats(history)
    assert (stats["total_predictions"], stats["hit_rate"], stats["adjusted_threshold"]) == (2, 0.5, 0.7)
    with pytest.raises(InvalidInput, match="actual_speedup"):
        track_prediction_accuracy(promised, 0.0, history=history)


def test_nothing_tracked_is_told_as_nothing(tmp_path: Path) -> None:
    assert get_calibration_stats(history_in(tmp_path))["hit_rate"] is None


@pytest.mark.parametrize("noise", [0.03, 0.15, 0.4])
def test_whatever_the_noise_confidence_comes_true_as_often_as_it_says(tmp_path: Path, noise: float) -> None:
    """Functions whose times scatter by `noise` and by a factor of their own; each run is held against what was expected of it before
    it is learned from. Held out: the functions of the second half are other ones."""
    history, rng = history_in(tmp_path), random.Random(11)
    told: list[float] = []
    hits: list[bool] = []
    for function in range(40):
        own_noise = noise * math.exp(rng.gauss(0, 0.5))
        truth = {n_jobs: rng.uniform(0.5, 0.95) * n_jobs for n_jobs in (1, 2, 4)}
        item_time, size = 10 ** rng.uniform(-5, -2), 10 ** rng.uniform(2, 4)
        for _ in range(12):
            n_jobs, data_size = rng.choice(list(truth)), round(size * math.exp(rng.gauss(0, 0.4)))
            speedup = truth[n_jobs] * math.exp(rng.gauss(0, own_noise))
            sample = run(
                f"f{function}", n_jobs=n_jobs, speedup=speedup, data_size=data_size, item_time=item_time,
                at=history.clock.now(), item_seconds=item_time / speedup,
            )  # fmt: skip
            expected = predict(Query(f"f{function}", data_size, item_time, n_jobs=n_jobs), history)
            if function >= 20 and expected is not None:
                assert expected.item_seconds is not None
                told.append(expected.confidence)
                hits.append(abs(math.log(sample.wall_per_item / expected.item_seconds)) <= math.log(1.25))
            learn(sample, history)
    assert len(told) > 200
    assert calibration_error(told, hits) <= 0.1


def test_an_outcome_is_a_line_of_json(tmp_path: Path) -> None:
    outcomes = Outcomes(tmp_path / "outcomes.ndjson")
    outcomes.add(Outcome(0.51239, 0.6, True, -0.1))
    assert json.loads(outcomes.path.read_text()) == [0.5124, 0.6, 1, -0.1, "function"]
