"""The contract, over every learner that there is; and that it notices learners which break it."""

from __future__ import annotations

import pytest
from river import compose, forest, linear_model, multiclass, naive_bayes, neighbors, preprocessing, tree
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from everloop.learning.learners.linear import LinearLearner
from everloop.learning.learners.make import KINDS, make_learner
from everloop.runtime.artifact import Trust
from everloop.testing import Examples, check_learner

TRUST = Trust(pickle=True)
ESTIMATORS = {
    "Ridge": Ridge,
    "SGDRegressor": lambda: make_sgd(SGDRegressor),
    "GradientBoostingRegressor": lambda: GradientBoostingRegressor(n_estimators=10, random_state=0),
    "KNeighborsRegressor": KNeighborsRegressor,
    "scaled Ridge": lambda: make_pipeline(StandardScaler(), Ridge()),
    "by columns": lambda: make_pipeline(ColumnTransformer([("s", StandardScaler(), ["small", "wide"])]), Ridge()),
    "LogisticRegression": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "SGDClassifier": lambda: make_sgd(SGDClassifier),
    "GaussianNB": GaussianNB,
    "RandomForestClassifier": lambda: RandomForestClassifier(10, random_state=0, n_jobs=2),
    "DecisionTreeClassifier": lambda: DecisionTreeClassifier(random_state=0),
    "SVC": SVC,
}
RIVER = {
    "LinearRegression": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    "HoeffdingTreeRegressor": tree.HoeffdingTreeRegressor,
    "ARFRegressor": lambda: forest.ARFRegressor(n_models=3, seed=1),
    "KNNRegressor": neighbors.KNNRegressor,
    "LogisticRegression": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "HoeffdingTreeClassifier": tree.HoeffdingTreeClassifier,
    "GaussianNB": naive_bayes.GaussianNB,
    "OneVsRest": lambda: compose.Pipeline(
        preprocessing.StandardScaler(), multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    ),
}
LABELS = {"integers": (0, 1), "texts": ("ham", "spam"), "booleans": (False, True)}


def make_sgd(cls):
    return cls(random_state=0, learning_rate="constant", eta0=1e-5)


def _labels(task):
    return [LABELS[name] for name in LABELS] if task == "classification" else [(0, 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_kinds(kind, task):
    own = make_learner(kind, trust=TRUST).task
    if own not in (None, task):
        assert own == LinearLearner(kind).task
        return
    small = {"n_estimators": 5} if kind == "forest" else {"max_iter": 5} if kind == "boosting" else {}
    for labels in _labels(task) if kind not in ("auto", "forest", "boosting") else [(0, 1)]:
        examples = Examples.synthetic(task, count=60, labels=labels)
        check_learner(lambda: make_learner(kind, small, trust=TRUST), examples=examples)


@pytest.mark.parametrize("trust", [TRUST, Trust()], ids=["pickle", "safe"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_scikit_learn(name, trust):
    task = make_learner(ESTIMATORS[name](), trust=trust).task
    for labels in _labels(task):
        examples = Examples.synthetic(task, count=120, labels=labels)
        check_learner(lambda: make_learner(ESTIMATORS[name](), trust=trust), examples=examples, trust=trust)


@pytest.mark.parametrize("name", RIVER)
def test_river(name):
    task = make_learner(RIVER[name](), trust=TRUST).task
    for labels in _labels(task):
        check_learner(
            lambda: make_learner(RIVER[name](), trust=TRUST), examples=Examples.synthetic(task, labels=labels)
        )


@pytest.mark.parametrize("model", ["logistic", RandomForestClassifier(5, random_state=0), naive_bayes.GaussianNB()])
def test_more_than_two_classes(model):
    examples = Examples.synthetic("classification", labels=("a", "b", "c"))
    check_learner(lambda: make_learner(model, trust=TRUST), examples=examples)


class Drifting(LinearLearner):
    """Answers something else at every call."""

    calls = 0.0

    def predict(self, rows):
        self.calls += 1
        return [answer + self.calls for answer in super().predict(rows)]


class Forgetful(LinearLearner):
    """Its clone has lost a parameter."""

    def clone(self):
        return Forgetful("ridge")


class Vandal(LinearLearner):
    """Sorts what it was given."""

    def fit(self, schema, target, rows, labels):
        super().fit(schema, target, rows, labels)
        rows[0].sort()


class Loose(RegressorMixin, BaseEstimator):
    """An estimator that draws new random numbers at every fit."""

    def fit(self, X, y):
        import numpy as np

        self.offset_ = np.random.default_rng().normal()
        return self

    def predict(self, X):
        return X[:, 0] + self.offset_


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Drifting("linear"), "changing the rows after the fit changed"),
        (lambda: Forgetful("ridge", parameters=_strong()), "clone has other parameters"),
        (lambda: Vandal("linear"), "fit changed the rows"),
        (lambda: make_learner(Loose(), trust=TRUST), "clone has other parameters|same fit twice"),
    ],
)
def test_breaches_are_noticed(make, told):
    with pytest.raises(AssertionError, match=told):
        check_learner(make)


def _strong():
    from everloop.learning.config import ModelParameters

    return ModelParameters(regularization=1000.0)
