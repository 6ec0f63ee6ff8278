"""Errors that rise are noticed, soon and once; errors that do not are left in peace."""

from __future__ import annotations

import itertools
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput
from everloop.policy.drift.errors import DriftAlarm, ErrorDriftMonitor, loss_floor
from everloop.policy.promotion import judge
from everloop.policy.retraining import Progress, decide
from everloop.policy.windows import candidate_windows, choose, holdout_rows


def coins(seed: int, *runs: tuple[int, float]) -> list[float]:
    rng = np.random.default_rng(seed)
    return [float(rng.random() < rate) for count, rate in runs for _ in range(count)]


def first_alarm(monitor: ErrorDriftMonitor, losses: list[float]) -> tuple[int, DriftAlarm] | None:
    for i, loss in enumerate(losses):
        alarm = monitor.update([loss])
        if alarm is not None:
            return i, alarm
    return None


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.2, 0.5, 1.0])
def test_steady_errors_raise_no_alarm(rate: float) -> None:
    for seed in range(5):
        assert ErrorDriftMonitor("classification").update(coins(seed, (10_000, rate))) is None


def test_a_rise_is_found_soon_and_dated_well() -> None:
    delays, dates = [], []
    for seed in range(20):
        found = first_alarm(ErrorDriftMonitor("classification"), coins(seed, (5_000, 0.1), (1_000, 0.5)))
        assert found is not None
        at, alarm = found
        delays.append(at + 1 - 5_000)
        dates.append(at + 1 - alarm.offset - 5_000)
        assert len(alarm.detectors) >= 2
        assert alarm.before == pytest.approx(0.1, abs=0.03)
        assert alarm.after > 0.25
    assert min(delays) > 0
    assert np.median(delays) < 60
    assert np.median(np.abs(dates)) <= 10


def test_a_fall_raises_no_alarm() -> None:
    assert ErrorDriftMonitor("classification").update(coins(1, (3_000, 0.5), (3_000, 0.1))) is None
    rng = np.random.default_rng(1)
    assert (
        ErrorDriftMonitor("regression").update(np.abs(np.r_[rng.normal(0, 5, 3_000), rng.normal(0, 1, 3_000)])) is None
    )


def test_the_threshold_is_the_smallest_effect() -> None:
    small = coins(2, (5_000, 0.10), (20_000, 0.16))
    assert ErrorDriftMonitor("classification", threshold=0.2).update(small) is None
    assert ErrorDriftMonitor("classification", threshold=0.02).update(small) is not None


def test_the_same_change_is_told_once() -> None:
    monitor = ErrorDriftMonitor("classification")
    alarms = [i for i, loss in enumerate(coins(3, (3_000, 0.1), (5_000, 0.5))) if monitor.update([loss])]
    assert len(alarms) == 1


def test_a_slow_rise_is_found() -> None:
    rng = np.random.default_rng(4)
    losses = [float(rng.random() < 0.1 + 0.3 * i / 60_000) for i in range(60_000)]
    assert first_alarm(ErrorDriftMonitor("classification"), losses) is not None


def test_dependent_losses_are_not_taken_for_many() -> None:
    """Runs of equal losses, as in time series: plain ADWIN alarms 71 times on 20 such streams."""
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        loss, losses = 0.0, []
        for _ in range(5_000):
            if rng.random() > 0.6:
                loss = float(rng.random() < 0.25)
            losses.append(loss)
        monitor = ErrorDriftMonitor("classification")
        alarms += sum(monitor.update([loss]) is not None for loss in losses)
    assert alarms <= 15


@pytest.mark.parametrize("law", ["normal", "cauchy", "lognormal", "mostly exact"])
def test_absolute_errors_of_any_scale_and_tail(law: str) -> None:
    for scale, seed in itertools.product((1e-6, 1.0, 1e9), range(3)):
        rng = np.random.default_rng(seed)
        losses = {
            "normal": np.abs(rng.normal(size=13_000)),
            "cauchy": np.abs(rng.standard_cauchy(13_000)),
            "lognormal": rng.lognormal(0, 1.5, 13_000),
            "mostly exact": np.abs(rng.normal(size=13_000)) * (rng.random(13_000) < 0.4),
        }[law]
        losses[10_000:] *= 4
        monitor = ErrorDriftMonitor("regression")
        assert monitor.update(scale * losses[:10_000]) is None
        found = first_alarm(monitor, (scale * losses[10_000:]).tolist())
        assert found is not None


def test_a_change_right_after_a_fit_is_seen() -> None:
    """With ten held-out losses of the new model as reference, no warm-up is needed."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        monitor = ErrorDriftMonitor("regression")
        monitor.prime(np.abs(rng.normal(0, 0.1, 10)))
        found = first_alarm(monitor, np.abs(rng.uniform(0, 10, 50)).tolist())
        assert found is not None
        assert found[0] < 45


def test_unusable_answers_count_as_the_worst() -> None:
    monitor = ErrorDriftMonitor("regression")
    monitor.prime([0.1, 0.2, 0.15, 0.1, 0.12] * 4)
    alarm = monitor.update([math.nan, math.inf] * 30)
    assert alarm is not None
    assert math.isfinite(alarm.after)
    assert ErrorDriftMonitor("regression").update([math.nan] * 100) is None


def test_an_exact_model_does_not_drift_by_rounding() -> None:
    rng = np.random.default_rng(5)
    monitor = ErrorDriftMonitor("regression")
    monitor.prime(np.abs(rng.normal(0, 1e-15, 20)), floor=loss_floor(rng.normal(0, 3, 100)))
    assert monitor.update(np.abs(rng.normal(0, 1e-12, 2_000))) is None
    assert monitor.update(np.full(100, 0.5)) is not None


def test_all_exact_then_wrong() -> None:
    monitor = ErrorDriftMonitor("regression")
    assert monitor.update([0.0] * 200) is None
    assert monitor.update([1.0] * 50) is not None


@given(st.integers(0, 2**16), st.integers(1, 400))
@settings(max_examples=20)
def test_batches_change_nothing(seed: int, size: int) -> None:
    losses = coins(seed, (600, 0.1), (300, 0.6))
    one, many = ErrorDriftMonitor("classification"), ErrorDriftMonitor("classification")
    singly = [(i, alarm) for i, loss in enumerate(losses) if (alarm := one.update([loss]))]
    together = []
    for start in range(0, len(losses), size):
        batch = losses[start : start + size]
        if alarm := many.update(np.array(batch)):
            together.append((start + alarm.index, alarm.offset - (len(batch) - 1 - alarm.index)))
    assert set(together) <= {(i, alarm.offset) for i, alarm in singly}
    assert bool(together) == bool(singly)


@given(st.integers(0, 2**16), st.integers(0, 12_000), st.sampled_from(["classification", "regression"]))
@settings(max_examples=15)
def test_a_saved_monitor_goes_on_as_if_nothing_had_happened(seed: int, cut: int, task: str) -> None:
    losses = coins(seed, (10_000, 0.1), (2_500, 0.5))
    if task == "regression":
        rng = np.random.default_rng(seed)
        losses = [(1 + 4 * loss) * abs(rng.normal()) for loss in losses]
    monitor, restored = ErrorDriftMonitor(task), ErrorDriftMonitor(task)
    monitor.update(losses[:cut])
    restored.load(json.loads(json.dumps(monitor.dump())))
    assert (restored.examples, restored.mean) == (monitor.examples, monitor.mean)
    before, after = first_alarm(monitor, losses[cut:]), first_alarm(restored, losses[cut:])
    assert (before is None) == (after is None)
    if before and after:  # a long history is forgotten in part, and with it some of ADWIN's
        assert abs(before[0] - after[0]) <= 64


@pytest.mark.parametrize("state", [{}, {"format": 1, "task": "classification"}, {"format": 99}])
def test_a_damaged_save_is_refused(state: dict[str, object]) -> None:
    monitor = ErrorDriftMonitor("classification")
    monitor.update([1.0, 0.0])
    with pytest.raises(InvalidInput, match="not a saved drift monitor"):
        monitor.load(state)
    assert monitor.examples == 2


def test_a_senseless_threshold_is_refused() -> None:
    with pytest.raises(InvalidInput, match="drift_threshold"):
        ErrorDriftMonitor("regression", threshold=1.5)


def test_an_example_costs_microseconds() -> None:
    losses = coins(6, (20_000, 0.2))
    best = math.inf
    for _ in range(3):
        monitor = ErrorDriftMonitor("classification")
        start = time.thread_time()
        for loss in losses:
            monitor.update((loss,))
        best = min(best, time.thread_time() - start)
    assert best / len(losses) < 60e-6  # 3 on a quiet machine


def learn_the_sample(seed: int) -> float:
    """The in-process sample of a slope that doubles, by policy functions and least squares alone: 50 examples of y = x,
    present when learning starts, then 50 of y = 2x one by one. Returns the slope that serves in the end."""
    rng = np.random.default_rng(seed)
    xs = rng.uniform(0, 10, 100)
    ys = np.r_[xs[:50], 2 * xs[50:]] + rng.normal(0, 0.1, 100)

    def fit(lines: slice) -> tuple[float, float]:
        slope, bias = np.polyfit(xs[lines], ys[lines], 1)
        return float(slope), float(bias)

    def losses(model: tuple[float, float], lines: slice) -> np.ndarray:
        return np.abs(model[0] * xs[lines] + model[1] - ys[lines])

    monitor, progress, champion = ErrorDriftMonitor("regression", threshold=0.1), Progress(), None
    for end in range(50, 101):
        new = 50 if end == 50 else 1
        progress.examples, progress.new = end, progress.new + new
        if champion is not None:
            if progress.since_change is not None:
                progress.since_change += 1
            alarm = monitor.update(losses(champion, slice(end - 1, end)))
            if alarm is not None:
                progress.since_change, progress.fitted_since_change = alarm.offset, 0
        decision = decide(progress, min_samples=30, interval_sec=3, now=(end - 50) * 1e-4 if end < 100 else 5.0)
        if not decision.fit:
            continue
        progress.new, progress.last_fit = 0, (end - 50) * 1e-4
        progress.fitted_since_change = progress.since_change or 0
        held = holdout_rows(progress.since_change or end, 0.2)
        models = {
            length: fit(slice(end - length, end - held)) for length in candidate_windows(end, 30, progress.since_change)
        }
        judged = {length: losses(model, slice(end - held, end)) for length, model in models.items()}
        length = choose(judged)
        theirs = None if champion is None else losses(champion, slice(end - held, end))
        if judge(theirs, judged[length], recovering=decision.recovering).promote:
            champion, progress.champion = models[length], True
            monitor.prime(judged[length], floor=loss_floor(ys[:end]))
    assert champion is not None
    return champion[0]


def test_the_sample_learns_both_slopes() -> None:
    slopes = [learn_the_sample(seed) for seed in range(200)]
    assert sum(abs(slope - 2) <= 0.1 for slope in slopes) >= 199


def test_labels_near_the_end_of_the_range_have_no_floor() -> None:
    assert loss_floor([1e308, -1e308, 1.0]) == 0.0
    assert loss_floor([]) == 0.0
