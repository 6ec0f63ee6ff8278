"""scikit-learn estimators as learners: what users hand over stays theirs, columns of text, classes that come later."""

from __future__ import annotations

import pickle

import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier, SGDRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from everloop.core.errors import FitFailed, ModelUntrained, NotSupported
from everloop.core.schema import Field, Schema, Target
from everloop.learning.learners.make import make_learner
from everloop.runtime.artifact import Trust, load_session
from everloop.testing import Examples, check_learner

TRUST = Trust(pickle=True)
MIXED = Schema((Field("city", "text", nullable=True), Field("rooms", nullable=True)), named=True)
ROWS = [[["here", "there", None][i % 3], None if i % 7 == 0 else float(i % 5)] for i in range(90)]
LABELS = [10.0 * (row[0] == "here") + (row[1] or 0.0) for row in ROWS]


def test_the_callers_object_is_never_touched():
    for model in (LinearRegression(), LinearRegression().fit([[1.0]], [1.0]), GaussianNB()):
        before = pickle.dumps(model)
        learner = make_learner(model, trust=TRUST)
        examples = Examples.synthetic(learner.task)
        learner.fit(examples.schema, examples.target, examples.rows, examples.labels)
        if learner.incremental:
            learner.learn(examples.rows, examples.labels)
        assert pickle.dumps(model) == before


@pytest.mark.parametrize("by", ["name", "kind"])
def test_columns_of_text_with_gaps(by):
    text, number = (
        (["city"], ["rooms"])
        if by == "name"
        else (make_column_selector(dtype_exclude="number"), make_column_selector(dtype_include="number"))
    )
    columns = ColumnTransformer(
        [
            ("text", OneHotEncoder(handle_unknown="ignore"), text),
            ("number", make_pipeline(SimpleImputer(), StandardScaler()), number),
        ]
    )
    examples = Examples(MIXED, Target("regression"), ROWS, LABELS)
    check_learner(lambda: make_learner(make_pipeline(columns, LinearRegression()), trust=TRUST), examples=examples)


@pytest.mark.parametrize("vectorizer", [TfidfVectorizer(), HashingVectorizer(n_features=64)])
def test_one_text(vectorizer):
    rows = [["good film"], ["bad film"], ["good show"], ["bad show"]] * 10
    examples = Examples(Schema((Field("review", "text"),)), Target("classification", "text"), rows, ["pos", "neg"] * 20)
    check_learner(
        lambda: make_learner(make_pipeline(vectorizer, LogisticRegression()), trust=Trust()), examples=examples
    )


def test_a_text_model_with_two_fields_says_what_to_do():
    learner = make_learner(make_pipeline(TfidfVectorizer(), LogisticRegression()), trust=TRUST)
    with pytest.raises(FitFailed, match=r"takes one text.*ColumnTransformer"):
        learner.fit(MIXED, Target("classification", "integer"), ROWS, [0, 1] * 45)


def test_a_class_that_appears_later():
    examples = Examples.synthetic("classification", labels=("a", "b", "c"))
    two = [i for i, label in enumerate(examples.labels) if label != "c"]
    for model in (SGDClassifier(random_state=0), GaussianNB()):
        learner = make_learner(model, trust=TRUST)
        learner.fit(
            examples.schema, examples.target, [examples.rows[i] for i in two], [examples.labels[i] for i in two]
        )
        learner.learn(examples.rows[:10], ["a"] * 10)
        restored = learner.clone()
        restored.restore(learner.dump())
        for each in (learner, restored):
            each.learn(examples.rows, examples.labels)
            manifest, payload = each.freeze()
            assert manifest.classes == ["a", "b", "c"]
            session = load_session(manifest, payload, trust=TRUST)
            X = examples.schema.matrix(examples.rows)
            assert "c" in session.run(X).tolist()
            assert session.scores(X) is None or session.scores(X).shape[1] == 3
        assert learner.predict(examples.rows) == restored.predict(examples.rows)


def test_learning_makes_it_better():
    examples = Examples.synthetic("regression", count=400)
    learner = make_learner(make_pipeline(StandardScaler(), SGDRegressor()), trust=TRUST)
    assert not learner.incremental  # a pipeline has no partial_fit
    learner = make_learner(GaussianNB(), trust=TRUST)
    examples = Examples.synthetic("classification", count=400)
    learner.fit(examples.schema, examples.target, examples.rows[:4], [0, 1, 0, 1])

    def right():
        return sum(a == b for a, b in zip(learner.predict(examples.rows), examples.labels, strict=True))

    before = right()
    learner.learn(examples.rows, examples.labels)
    assert right() > before


class Broken(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        raise RuntimeError("the disk of the library is on fire")

    def predict(self, X):
        return X[:, 0]


def test_the_librarys_own_message_is_passed_on():
    learner = make_learner(Broken(), trust=TRUST)
    with pytest.raises(FitFailed, match="Broken failed: RuntimeError: the disk of the library is on fire"):
        learner.fit(Schema.unnamed(1), Target("regression"), [[1.0]], [1.0])
    with pytest.raises(ModelUntrained):
        learner.predict([[1.0]])


def test_a_failed_fit_leaves_the_learner_as_it_was():
    examples = Examples.synthetic("classification")
    learner = make_learner(GaussianNB(), trust=TRUST)
    learner.fit(examples.schema, examples.target, examples.rows, examples.labels)
    before = learner.predict(examples.rows)
    with pytest.raises(FitFailed):
        learner.fit(examples.schema, examples.target, examples.rows[:5], [1] * 5)
    assert learner.predict(examples.rows) == before


def test_what_does_not_learn_says_so():
    learner = make_learner(LinearRegression(), trust=TRUST)
    learner.fit(Schema.unnamed(1), Target("regression"), [[1.0]], [1.0])
    with pytest.raises(NotSupported, match="no partial_fit"):
        learner.learn([[1.0]], [1.0])
