"""Live quality by version and over all, since the first label and over the newest, beside the no-change baseline."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from everloop.learning.quality import KNOWN, MOST_VERSIONS, STALE, WINDOW, Quality, Scores, in_words

NUMBERS = st.floats(-1e6, 1e6)


def feed(quality: Quality, seen: list[tuple[Any, Any, int]], sizes: list[int] | None = None) -> None:
    start = 0
    for size in [*(sizes or []), len(seen)]:
        part = seen[start : start + size]
        if part:
            quality.update([s[0] for s in part], [s[1] for s in part], [s[2] for s in part])
        start += size


def again(quality: Quality) -> Quality:
    return Quality.load(msgspec.msgpack.decode(msgspec.msgpack.encode(quality.dump())))


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(1, 3)), min_size=2, max_size=60),
    st.lists(st.integers(0, 20), max_size=3),
)
def test_regression(seen: list[tuple[float, float, int]], sizes: list[int]) -> None:
    quality = Quality("regression")
    feed(quality, seen, sizes)
    labels, answers = np.array([s[0] for s in seen]), np.array([s[1] for s in seen])
    report = quality.report()
    errors = labels - answers
    for figures in (report, report["window"]):
        assert figures["n"] == len(seen)
        assert figures["mae"] == pytest.approx(np.abs(errors).mean())
        assert figures["rmse"] == pytest.approx(math.sqrt((errors**2).mean()))
        assert figures["baseline_mae"] == pytest.approx(np.abs(np.diff(labels)).mean())
        assert figures["baseline_rmse"] == pytest.approx(math.sqrt((np.diff(labels) ** 2).mean()))
        if labels.std() > 1:
            expected = 1 - (errors**2).sum() / ((labels - labels.mean()) ** 2).sum()
            assert figures["r2"] == pytest.approx(expected, rel=1e-9, abs=1e-6)
    for version in {s[2] for s in seen}:
        mine = [s for s in seen if s[2] == version]
        figures = quality.figures(version)
        assert figures["n"] == figures["window"]["n"] == len(mine)
        assert figures["mae"] == pytest.approx(np.mean([abs(s[0] - s[1]) for s in mine]))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=2, max_size=60),
    st.lists(st.integers(0, 20), max_size=3),
)
def test_classification(seen: list[tuple[str, str]], sizes: list[int]) -> None:
    quality = Quality("classification")
    feed(quality, [(*pair, 1) for pair in seen], sizes)
    report = quality.report()
    right = sum(label == answer for label, answer in seen)
    same = sum(a[0] == b[0] for a, b in itertools.pairwise(seen)) / (len(seen) - 1)
    for figures in (report, report["window"], quality.figures(1)):
        assert (figures["correct"], figures["accuracy"]) == (right, pytest.approx(right / len(seen)))
        assert figures["baseline_accuracy"] == pytest.approx(same)
        if same < 1:
            assert figures["kappa_temporal"] == pytest.approx((right / len(seen) - same) / (1 - same))
        assert "log_loss" not in figures
    if {answer for _, answer in seen} <= {label for label, _ in seen} and len({label for label, _ in seen}) > 1:
        assert report["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(*zip(*seen, strict=True)))


def scored(
    quality: Quality, rng: np.random.Generator, n: int, version: int, *, every: int = 1
) -> tuple[list[Any], np.ndarray]:
    """Feed a two-class stream, with the scores of one in `every` examples."""
    labels = rng.integers(0, 2, n).tolist()
    chance = np.clip(rng.normal(0.35 + 0.3 * np.array(labels), 0.2), 0.01, 0.99)
    at = np.arange(0, n, every)
    values = np.stack([1 - chance, chance], axis=1)
    answers = [int(c > 0.5) for c in chance]
    quality.update(labels, answers, [version] * n, {version: Scores(at, [0, 1], values[at])})
    return [labels[i] for i in at], values[at]


def test_scores() -> None:
    rng = np.random.default_rng(1)
    quality = Quality("classification")
    labels: list[Any] = []
    values = []
    for _ in range(8):
        more, probabilities = scored(quality, rng, 200, 3, every=2)
        labels += more
        values.append(probabilities)
    everything = np.concatenate(values)
    figures = again(quality).figures(3)
    assert (figures["n"], figures["scored"], figures["window"]["scored"]) == (1600, 800, 500)
    assert figures["log_loss"] == pytest.approx(log_loss(labels, everything))
    assert abs(figures["auc"] - roc_auc_score(labels, everything[:, 1])) <= figures["auc_error"]
    window = figures["window"]
    assert window["auc"] == pytest.approx(roc_auc_score(labels[-500:], everything[-500:, 1]))
    assert window["log_loss"] == pytest.approx(log_loss(labels[-500:], everything[-500:]))
    assert "auc_error" not in window
    # The labels are coins: the honest baseline comes to know it, and its hard answers tell nothing.
    assert figures["baseline_log_loss"] == pytest.approx(math.log(2), abs=0.01)
    assert figures["baseline_brier"] == pytest.approx(0.25, abs=0.01)
    assert figures["baseline_auc"] == pytest.approx(0.5, abs=0.03)


def test_the_baseline_of_a_stream_that_persists_is_sure_of_it() -> None:
    quality = Quality("classification")
    labels = ([0] * 50 + [1] * 50) * 10
    values = np.full((1000, 2), 0.5)
    quality.update(labels, [0] * 1000, [1] * 1000, {1: Scores(np.arange(1000), [0, 1], values)})
    figures = quality.figures(1)
    assert figures["log_loss"] == pytest.approx(math.log(2))
    assert figures["baseline_log_loss"] < 0.15
    assert figures["baseline_accuracy"] == pytest.approx(1 - 19 / 999)


def test_versions_without_scores_beside_one_that_has_them() -> None:
    quality = Quality("classification")
    rng = np.random.default_rng(2)
    quality.update([0, 1, 1], [0, 1, 0], [1, 1, 1])
    scored(quality, rng, 100, 2)
    quality.update([0, 1], [math.nan, None], [2, 2])
    report = again(quality).report()
    assert report["n"] == report["window"]["n"] == 105
    assert report["scored"] == report["window"]["scored"] == 100
    assert report["auc"] == pytest.approx(report["window"]["auc"], abs=0.01)
    assert "log_loss" not in report["versions"]["1"]
    assert report["versions"]["2"]["n"] == 102


def test_scores_of_several_classes_and_of_one_that_came_later() -> None:
    quality = Quality("classification")
    rng = np.random.default_rng(3)
    labels = rng.choice(["a", "b", "c", "new"], 400).tolist()
    values = rng.dirichlet([1, 1, 1], 400)
    answers = [["a", "b", "c"][i] for i in values.argmax(axis=1)]
    quality.update(labels, answers, [1] * 400, {1: Scores(np.arange(400), ["a", "b", "c"], values)})
    window = quality.figures(1)["window"]
    areas = [roc_auc_score([label == k for label in labels], values[:, i]) for i, k in enumerate("abc")]
    assert window["auc"] == pytest.approx(np.mean(areas))
    assert window["log_loss"] > 5, "a label that the model does not know costs the clip"


def test_the_window_forgets_and_the_whole_does_not() -> None:
    quality = Quality("classification")
    quality.update([1] * WINDOW, [0] * WINDOW, [1] * WINDOW)
    quality.update([1] * WINDOW, [1] * WINDOW, [2] * WINDOW)
    report = quality.report()
    assert (report["accuracy"], report["window"]["accuracy"]) == (0.5, 1.0)
    assert report["versions"]["1"]["accuracy"] == report["versions"]["1"]["window"]["accuracy"] == 0.0


def test_the_window_of_all_versions_is_of_the_newest_labels() -> None:
    quality = Quality("regression")
    for i in range(30):
        quality.update([0.0] * 100, [float(i)] * 100, [i % 3] * 100)
    report = quality.report()
    assert report["window"]["n"] == WINDOW
    assert report["window"]["mae"] == pytest.approx(np.mean(range(20, 30)))
    assert report["versions"]["0"]["window"]["mae"] == pytest.approx(np.mean(range(0, 30, 3)))


def test_memory_is_bounded() -> None:
    quality = Quality("classification")
    quality.update([0], [0], [1])
    for version in range(2, 30):
        quality.update([0, 1], [0, 0], [version] * 2)
    report = quality.report()
    assert list(report["versions"]) == [str(n) for n in range(30 - MOST_VERSIONS, 30)]
    assert report["n"] == quality.n == 57, "what was counted is not lost"
    quality.update([0] * (STALE + 10), [0] * (STALE + 10), [29] * (STALE + 10))
    assert quality.figures(28)["n"] == 2
    assert quality.figures(28)["window"] == {"n": 0}
    quality.update([f"class {i}" for i in range(3000)], [0] * 3000, [29] * 3000)
    figures = quality.figures(29)
    assert figures["accuracy"] == pytest.approx((1 + STALE + 10) / (2 + STALE + 10 + 3000))
    assert "balanced_accuracy" not in figures


def test_a_version_is_known_once() -> None:
    quality = Quality("regression")
    quality.update([1.0] * (KNOWN - 1), [1.0] * (KNOWN - 1), [1] * (KNOWN - 1))
    assert quality.newly_known() == []
    quality.update([1.0], [2.0], [1])
    ((version, figures),) = quality.newly_known()
    assert (version, figures["n"]) == (1, KNOWN)
    assert in_words(figures) == "MAE 0.02 (no-change 0), RMSE 0.1414"
    assert again(quality).newly_known() == quality.newly_known() == []


@settings(deadline=None)
@given(
    st.lists(st.tuples(NUMBERS, st.one_of(NUMBERS, st.just(math.nan), st.none()), st.just(1)), max_size=30),
    st.lists(st.tuples(NUMBERS, NUMBERS, st.just(2)), max_size=30),
)
def test_what_is_loaded_goes_on_as_what_was_dumped(
    before: list[tuple[float, Any, int]], after: list[tuple[float, float, int]]
) -> None:
    quality = Quality("regression")
    feed(quality, before)
    other = again(quality)
    feed(quality, after)
    feed(other, after)
    assert other.report() == quality.report()
    bad = sum(answer is None or answer != answer for _, answer, _ in before)
    assert quality.report().get("unusable", 0) == bad


@pytest.mark.parametrize("seed", range(3))
def test_scores_go_on_too(seed: int) -> None:
    quality = Quality("classification")
    scored(quality, np.random.default_rng(seed), 700, 1)
    other = again(quality)
    for each in (quality, other):
        rng = np.random.default_rng(seed + 10)
        scored(each, rng, 700, 1)
        scored(each, rng, 30, 2)
    assert other.report() == quality.report()
    assert msgspec.json.encode(quality.report())


def test_figures_of_an_older_format_start_anew() -> None:
    tally = [3, 1.0, 0.0, 0.0, 0.0, 1.0, 2, 0]
    old = {"task": "classification", "all": tally, "versions": {"1": tally}, "recent": [[1, 1, 0]], "last": 1}
    quality = Quality.load(old)
    assert quality.report() == {"n": 0, "window": {"n": 0}, "versions": {}}
    quality.update([1], [1], [1])
    assert quality.figures(1)["accuracy"] == 1.0


def test_reading_costs_nothing_while_nothing_changes() -> None:
    quality = Quality("regression")
    quality.update([1.0], [1.0], [1])
    assert quality.report() is quality.report()
