"""The built-in kinds agree with scikit-learn, whatever the features look like, and use every parameter."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from everloop.core.errors import FitFailed, InvalidInput, ModelUntrained, NotSupported
from everloop.core.schema import Field, Schema, Target
from everloop.learning.config import ModelParameters
from everloop.learning.learners.linear import LinearLearner
from everloop.runtime.linear import LinearModel

RNG = np.random.default_rng(0)


def fitted(kind, X, y, **parameters):
    learner = LinearLearner(kind, ModelParameters(**parameters))
    rows, labels = np.asarray(X, float).tolist(), np.asarray(y).tolist()
    target = Target.infer(learner.task, labels[0])
    learner.fit(Schema.unnamed(len(rows[0])), target, rows, labels)
    return learner


def model_of(learner) -> LinearModel:
    return LinearModel.unpack(learner.freeze()[1])


@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_agrees_with_least_squares(with_bias):
    X, y = load_diabetes(return_X_y=True)
    ours, theirs = (
        model_of(fitted("linear", X, y, with_bias=with_bias)),
        LinearRegression(fit_intercept=with_bias).fit(X, y),
    )
    np.testing.assert_allclose(ours.weights[0], theirs.coef_, rtol=1e-3)
    np.testing.assert_allclose(ours.bias[0], theirs.intercept_, rtol=1e-3)


@pytest.mark.parametrize("slope", [1.0, 2.0, -1e-6, 1e6])
def test_a_slope_is_found(slope):
    x = np.random.default_rng(1).uniform(0, 10, (50, 1))
    found = model_of(fitted("linear", x, slope * x[:, 0]))
    assert found.weights[0, 0] == pytest.approx(slope, rel=1e-6)
    assert found.bias[0] == pytest.approx(0, abs=1e-6 * abs(slope))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("shape", [(200, 6), (20, 60)])
def test_ridge_agrees(alpha, shape):
    X = RNG.normal(size=shape) * np.logspace(-2, 2, shape[1])
    y = X[:, 0] * 30 + X[:, 3] + RNG.normal(size=shape[0]) + 7
    ours, theirs = model_of(fitted("ridge", X, y, regularization=alpha)), Ridge(alpha=alpha).fit(X, y)
    np.testing.assert_allclose(ours.weights[0], theirs.coef_, rtol=1e-3, atol=1e-6)
    assert ours.bias[0] == pytest.approx(theirs.intercept_, rel=1e-3)


def test_ridge_is_regularised_by_default_and_linear_is_not():
    x = np.arange(10.0)[:, None]
    assert model_of(fitted("ridge", x, x[:, 0])).weights[0, 0] == pytest.approx(Ridge().fit(x, x[:, 0]).coef_[0])
    assert model_of(fitted("linear", x, x[:, 0])).weights[0, 0] == pytest.approx(1)
    strong = model_of(fitted("linear", x, x[:, 0], regularization=100.0)).weights[0, 0]
    assert strong == pytest.approx(Ridge(100).fit(x, x[:, 0]).coef_[0])


def test_awkward_features_do_not_break_a_fit():
    X = RNG.normal(size=(300, 8)) * [1e-9, 1e9, 1, 1, 1, 1, 1, 1]
    X[:, 2] = 7  # constant
    X[:, 3] = 0.1  # constant, and not exact in binary
    X[:, 4] = 3 * X[:, 5] - 2  # collinear
    X[:, 6] = 1.7e9 + X[:, 6]  # a timestamp
    y = 1e9 * X[:, 0] + 1e-9 * X[:, 1] + X[:, 5] + (X[:, 6] - 1.7e9) + 4
    for kind in ("linear", "ridge"):
        answers = np.array(fitted(kind, X, y, regularization=0.0).predict(X.tolist()))
        np.testing.assert_allclose(answers, y, atol=1e-4)


def test_more_features_than_examples():
    X = RNG.normal(size=(20, 100))
    y = RNG.normal(size=20)
    np.testing.assert_allclose(fitted("linear", X, y).predict(X.tolist()), y, atol=1e-6)


def test_the_extremes_of_size():
    assert fitted("linear", [[3.0]], [5.0]).predict([[100.0]]) == [5.0]
    assert fitted("linear", [[1.0, 1.0]] * 5, [2.0] * 5).predict([[1.0, 1.0]]) == [2.0]
    with pytest.raises(FitFailed, match="too large"):
        fitted("linear", [[1e200], [-1e200], [3.0]], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("load", [load_breast_cancer, load_digits, load_iris])
def test_logistic_is_as_good_as_the_library(load):
    X, y = load(return_X_y=True)
    for seed in (3, 4):
        order = np.random.default_rng(seed).permutation(len(X))
        train, test = order[: len(X) * 7 // 10], order[len(X) * 7 // 10 :]
        # one common factor, with the penalty to match: the same problem, in which the library's solver gets there sooner
        scale = np.maximum(X[train].std(axis=0), 1e-9).mean()
        theirs = LogisticRegression(C=scale**2, max_iter=5000).fit(X[train] / scale, y[train])
        ours = (np.array(fitted("logistic", X[train], y[train]).predict(X[test].tolist())) == y[test]).mean()
        assert ours >= theirs.score(X[test] / scale, y[test]) - 0.0101


def test_logistic_finds_the_same_weights():
    X = RNG.normal(size=(400, 4)) * [1, 10, 0.1, 1] + 3
    y = (X[:, 0] - 3 + (X[:, 1] - 3) / 10 + RNG.normal(size=400) > 0).astype(int)
    ours = model_of(fitted("logistic", X, y, learning_rate=0.5, max_iterations=10_000))
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(ours.weights, theirs.coef_, rtol=1e-2, atol=1e-3)
    three = y + (X[:, 2] > 3)
    ours = model_of(fitted("logistic", X, three, learning_rate=0.5, max_iterations=10_000, regularization=10.0))
    theirs = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(X, three)
    np.testing.assert_allclose(ours.weights, theirs.coef_, rtol=1e-2, atol=1e-3)


def test_every_parameter_matters():
    X = RNG.normal(size=(100, 3)) + 5
    y = X @ [1.0, 2.0, 3.0] + 10
    base = model_of(fitted("linear", X, y))
    assert model_of(fitted("linear", X, y, with_bias=False)).bias[0] == 0.0 != base.bias[0]
    one = fitted("linear", X, y, max_iterations=1)
    assert one.iterations == 1
    np.testing.assert_allclose(
        model_of(one).weights, 0.01 * base.weights, rtol=1e-6
    )  # one step of a hundredth of the way
    np.testing.assert_allclose(
        model_of(fitted("linear", X, y, max_iterations=1, learning_rate=1.0)).weights, base.weights, rtol=1e-6
    )
    assert fitted("linear", X, y, learning_rate=0.5).iterations < fitted("linear", X, y).iterations < 1000
    assert not np.allclose(model_of(fitted("linear", X, y, regularization=50.0)).weights, base.weights)


def test_missing_values_are_taken_for_the_mean():
    schema = Schema((Field("a", nullable=True), Field("b")))
    rows = [[1.0, 1.0], [None, 2.0], [3.0, 3.0], [None, 4.0]]
    learner = LinearLearner("ridge")
    learner.fit(schema, Target("regression"), rows, [1.0, 2.0, 3.0, 4.0])
    assert model_of(learner).fill.tolist() == [2.0, 2.5]
    assert learner.predict([[None, 2.0]]) == learner.predict([[2.0, 2.0]])


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), min_size=1, max_size=30))
@example([(0.0, 0.0, 0.0), (1.0, 7.246115797253951e-160, 0.0)])
def test_whatever_the_numbers_the_fit_is_finite_and_no_worse_than_the_mean(numbers):
    X, y = [list(row[:2]) for row in numbers], [row[2] for row in numbers]
    answers = np.array(fitted("linear", X, y).predict(X))
    assert np.isfinite(answers).all()
    spread = np.sum((np.array(y) - np.mean(y)) ** 2)
    assert np.sum((answers - y) ** 2) <= spread * (1 + 1e-6) + 1e-6 * max(1.0, np.max(np.abs(y)) ** 2)


def test_refusals():
    schema, numbers = Schema.unnamed(1), Target("regression")
    with pytest.raises(FitFailed, match="no examples"):
        LinearLearner("linear").fit(schema, numbers, [], [])
    with pytest.raises(FitFailed, match=r"'city' is text.*'auto'"):
        LinearLearner("linear").fit(Schema((Field("city", "text"),)), numbers, [["x"]], [1.0])
    with pytest.raises(FitFailed, match="examples of another class"):
        LinearLearner("logistic").fit(schema, Target("classification", "text"), [[1.0], [2.0]], ["a", "a"])
    with pytest.raises(FitFailed, match="for regression"):
        LinearLearner("linear").fit(schema, Target("classification", "text"), [[1.0], [2.0]], ["a", "b"])
    with pytest.raises(ModelUntrained):
        LinearLearner("linear").predict([[1.0]])
    with pytest.raises(ModelUntrained):
        LinearLearner("linear").freeze()
    with pytest.raises(NotSupported):
        fitted("linear", [[1.0]], [1.0]).learn([[1.0]], [1.0])
    for wrong in ({"learning_rate": 0.0}, {"learning_rate": 1.5}, {"max_iterations": 0}, {"regularization": -1.0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            LinearLearner("linear", ModelParameters(**wrong))


def test_ten_thousand_rows_are_quick():
    X = RNG.normal(size=(10_000, 30)) * np.logspace(-3, 3, 30)
    y = X @ RNG.normal(size=30)
    rows, labels, schema = X.tolist(), y.tolist(), Schema.unnamed(30)
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        LinearLearner("linear").fit(schema, Target("regression"), rows, labels)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.3
