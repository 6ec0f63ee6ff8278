"""What can be registered, and that its record brings it back."""

from __future__ import annotations

import numpy as np
import pytest
from river import linear_model as river_linear
from river import preprocessing
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from everloop.core.errors import InvalidInput, NotSupported, Untrusted
from everloop.learning.config import ModelParameters
from everloop.learning.learners.linear import LinearLearner
from everloop.learning.learners.make import KINDS, already_fitted, describe, from_record, make_learner
from everloop.runtime.artifact import Trust
from everloop.testing import Examples

TRUST = Trust(pickle=True)


@pytest.mark.parametrize("trust", [TRUST, Trust()], ids=["pickle", "safe"])
@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("linear", {"learning_rate": 0.5}),
        ("ridge", ModelParameters(regularization=2.0, with_bias=False)),
        ("logistic", None),
        ("auto", {"task": "regression"}),
        ("forest", {"n_estimators": 3}),
        ("boosting", None),
        (make_pipeline(StandardScaler(), Ridge(alpha=3.0)), None),
        (SGDClassifier(random_state=1), None),
    ],
)
def test_a_record_brings_it_back(model, parameters, trust):
    learner = make_learner(model, parameters, trust=trust)
    kind, kept, template = describe(learner)
    again = from_record(kind, kept, template, trust=trust)
    assert (again.kind, again.task, again.incremental) == (learner.kind, learner.task, learner.incremental)
    assert describe(again)[:2] == (kind, kept)
    examples = Examples.synthetic(learner.task or "regression", count=80)
    for each in (learner, again):
        each.fit(examples.schema, examples.target, examples.rows, examples.labels)
    assert again.predict(examples.rows) == learner.predict(examples.rows)


def test_river_and_own_learners_come_back_where_pickles_are_trusted():
    for model in (preprocessing.StandardScaler() | river_linear.LinearRegression(), LinearLearner("ridge")):
        learner = make_learner(model, trust=TRUST)
        kind, parameters, template = describe(learner)
        assert type(from_record(kind, parameters, template, trust=TRUST)) is type(learner)
    river = make_learner(river_linear.LinearRegression(), trust=Trust())
    with pytest.raises(Untrusted, match="trust_pickle=True"):
        describe(river)
    with pytest.raises(Untrusted, match="trust_pickle=True"):
        make_learner(LinearLearner("ridge"), trust=Trust())


def test_an_artifact_cannot_learn():
    assert from_record("artifact", {}, None, trust=Trust()) is None
    with pytest.raises(NotSupported, match="template"):
        from_record("estimator", {}, None, trust=Trust())


def test_equal_specifications_have_equal_parameters():
    def parameters(model):
        return describe(make_learner(model, trust=TRUST))[1]

    assert parameters(Ridge(2.0)) == parameters(Ridge(2.0)) != parameters(Ridge(3.0))
    assert parameters(FunctionTransformer() and make_pipeline(FunctionTransformer(lambda x: x), Ridge())) == parameters(
        make_pipeline(FunctionTransformer(lambda x: x), Ridge())
    )
    assert parameters(river_linear.LinearRegression(l2=0.1)) != parameters(river_linear.LinearRegression())


class NoMixin(BaseEstimator):
    def fit(self, X, y):
        return self

    def predict(self, X):
        return X[:, 0]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("lineer", "did you mean 'linear'"),
        ("xgboost", "there are linear|did you mean 'boosting'"),
        (StandardScaler(), "cannot predict"),
        (KMeans(), "neither"),
        (make_pipeline(StandardScaler(), KMeans()), "neither"),
        (NoMixin(), "RegressorMixin or ClassifierMixin"),
        (Ridge, r"give an instance, Ridge\("),
        (42, "a int cannot be registered: give a kind"),
        (lambda x: x, "cannot be registered"),
        (None, "cannot be registered"),
    ],
)
def test_what_cannot_be_registered_is_told(model, told):
    with pytest.raises(NotSupported, match=told):
        make_learner(model, trust=TRUST)


@pytest.mark.parametrize(
    ("kind", "parameters", "field"),
    [
        ("linear", {"learning_rte": 0.1}, "parameters.learning_rte"),
        ("linear", {"learning_rate": "fast"}, "parameters"),
        ("linear", {"learning_rate": float("nan")}, "parameters.learning_rate"),
        ("linear", {"regularization": float("inf")}, "parameters.regularization"),
        ("linear", {"max_iterations": 0}, "max_iterations"),
        ("auto", {"depth": 3}, "parameters.depth"),
        ("auto", {"task": "guessing"}, "parameters.task"),
        ("forest", {"trees": 3}, "parameters.trees"),
        ("forest", ModelParameters(), "parameters"),
        (Ridge(), {"alpha": 3}, "parameters"),
    ],
)
def test_wrong_parameters_are_named(kind, parameters, field):
    with pytest.raises(InvalidInput) as caught:
        make_learner(kind, parameters, trust=TRUST)
    assert caught.value.field == field


def test_numpy_numbers_are_fine_as_parameters():
    learner = make_learner("linear", {"learning_rate": np.float64(0.5), "max_iterations": np.int64(7)}, trust=TRUST)
    assert describe(learner)[1]["max_iterations"] == 7


def test_already_fitted():
    X = [[1.0], [2.0]]
    assert already_fitted(LinearRegression().fit(X, [1, 2]))
    assert already_fitted(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, [0, 1]))
    for model in (
        LinearRegression(),
        GaussianProcessRegressor(),
        make_pipeline(StandardScaler(), Ridge()),
        "linear",
        river_linear.LinearRegression(),
        Ridge,
    ):
        assert not already_fitted(model)


def test_a_fitted_estimator_answers_at_once_and_its_clone_does_not():
    model = LinearRegression().fit([[1.0], [2.0]], [10.0, 20.0])
    learner = make_learner(model, trust=Trust())
    manifest, _ = learner.freeze()
    assert manifest.schema.names == ("x0",)
    assert learner.predict([[3.0]]) == pytest.approx([30.0])
    assert not learner.clone().fitted


def test_all_kinds_can_be_made():
    assert [make_learner(kind, trust=Trust()).kind for kind in KINDS] == list(KINDS)
