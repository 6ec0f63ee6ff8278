"""Streaming sums of probabilities against scikit-learn's functions."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from everloop.policy.scores import (
    CALIBRATION_BINS,
    CLIP,
    CURVE_BINS,
    MOST_CURVES,
    ScoreSums,
    bins_of,
    exact_auc,
    judge,
    mean_auc,
    probable,
)

CLASSES = list("abcdefghijklmnop")


def stream(seed: int, n: int, classes: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that know something of their labels; the sharper, the surer."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, classes, n).astype(np.int32)
    logits = sharpness * (rng.normal(size=(n, classes)) + np.eye(classes)[place])
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True), place


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 300),
    classes=st.integers(2, 12),
    sharpness=st.sampled_from([0.01, 0.3, 1.0, 5.0, 40.0]),
    cut=st.integers(0, 300),
)
def test_sums_are_those_of_the_whole(seed: int, n: int, classes: int, sharpness: float, cut: int) -> None:
    scores, place = stream(seed, n, classes, sharpness)
    names = CLASSES[:classes]
    labels = [names[i] for i in place]
    whole = ScoreSums()
    for part in (slice(0, cut), slice(cut, n)):
        sums = ScoreSums()
        sums.add(judge(scores[part], place[part]), names)
        stored = msgspec.msgpack.decode(msgspec.msgpack.encode(sums.dump()))
        whole.merge(ScoreSums.load(stored))
    figures = whole.figures()
    assert figures["scored"] == n
    assert figures["log_loss"] == pytest.approx(log_loss(labels, scores, labels=names))
    assert figures["brier"] == pytest.approx(
        brier_score_loss(labels, scores, labels=names)
        if classes > 2
        else brier_score_loss(labels, scores[:, 1], pos_label=names[1])
    )
    assert figures["calibration_error"] == pytest.approx(calibration_error(scores, place))
    exact = mean_auc(judge(scores, place))
    if classes > MOST_CURVES or len(set(labels)) < 2:
        assert exact is None
        assert "auc" not in figures
        return
    measured = {1} if classes == 2 else set(place)
    areas = [roc_auc_score(place == k, scores[:, k]) for k in measured]
    assert exact == pytest.approx(np.mean(areas))
    assert abs(figures["auc"] - exact) <= figures["auc_error"] + 1e-12


def calibration_error(scores: np.ndarray, place: np.ndarray) -> float:
    """As the paper has it: bin by bin."""
    top, hit = scores.max(axis=1), scores.argmax(axis=1) == place
    total = 0.0
    for i in range(CALIBRATION_BINS):
        low, high = i / CALIBRATION_BINS, (i + 1) / CALIBRATION_BINS
        rows = (top >= low) & ((top < high) | (i == CALIBRATION_BINS - 1))
        if rows.any():
            total += rows.mean() * abs(hit[rows].mean() - top[rows].mean())
    return total


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]), st.booleans()), min_size=1, max_size=40))
def test_exact_area_counts_ties_one_half(seen: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in seen])
    positive = np.array([right for _, right in seen])
    found = exact_auc(scores, positive)
    if positive.all() or not positive.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(positive, scores))


def test_the_area_of_a_long_stream_is_told_closely() -> None:
    for sharpness in (0.05, 1.0, 20.0):
        scores, place = stream(1, 20_000, 2, sharpness)
        sums = ScoreSums()
        sums.add(judge(scores, place), ["no", "yes"])
        figures = sums.figures()
        assert figures["auc_error"] < (0.002 if sharpness == 1.0 else 0.01)
        assert abs(figures["auc"] - roc_auc_score(place, scores[:, 1])) < 0.002


def test_bins_keep_the_order_and_separate_the_certain() -> None:
    scores = np.concatenate(
        [[0.0], np.logspace(-12, -1, 500), np.linspace(0.1, 0.9, 500), 1 - np.logspace(-1, -12, 500), [1.0]]
    )
    bins = bins_of(np.sort(scores))
    assert (np.diff(bins) >= 0).all()
    assert (bins.min(), bins.max()) == (0, CURVE_BINS - 1)
    assert bins_of(np.array([1e-6]))[0] != bins_of(np.array([1e-5]))[0]
    assert bins_of(np.array([0.5]))[0] != bins_of(np.array([0.503]))[0]


def test_a_label_that_the_model_does_not_know_was_given_nothing() -> None:
    sums = ScoreSums()
    sums.add(judge(np.array([[0.2, 0.8]]), np.array([-1], np.int32)), ["a", "b"])
    figures = sums.figures()
    assert figures["log_loss"] == pytest.approx(-np.log(CLIP))
    assert figures["brier"] == pytest.approx((0.04 + 0.64 + 1) / 2)
    assert "auc" not in figures


def test_models_with_other_classes_have_no_area_together() -> None:
    two, three = ScoreSums(), ScoreSums()
    scores, place = stream(1, 50, 2, 1.0)
    two.add(judge(scores, place), ["a", "b"])
    scores, place = stream(1, 50, 3, 1.0)
    three.add(judge(scores, place), ["a", "b", "c"])
    assert "auc" in two.figures()
    two.merge(three)
    figures = two.figures()
    assert "auc" not in figures
    assert figures["scored"] == 100


def test_what_is_no_probability_is_told() -> None:
    scores = np.array([[0.5, 0.5], [0.5, 0.4], [-3.0, 4.0], [np.nan, 0.5], [1.0, 1e-9], [0.0, 0.0]])
    assert probable(scores).tolist() == [True, False, False, False, True, False]
