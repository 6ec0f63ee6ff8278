"""River models frozen and loaded."""

from __future__ import annotations

import pytest
from river import anomaly, base, cluster, linear_model, preprocessing, tree

from everloop.core.errors import ArtifactCorrupt, NotSupported, Untrusted
from everloop.core.schema import Field, Schema, Target
from everloop.learning.learners.make import make_learner
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.sklearn import pickle_estimator
from everloop.stores.ports import Manifest

TRUST = Trust(pickle=True)
SCHEMA = Schema((Field("a"), Field("city", "text", nullable=True)), named=True)
ROWS = [[float(i % 7), ["x", "y", None][i % 3]] for i in range(60)]


def test_text_and_missing_values():
    model = preprocessing.OneHotEncoder() | linear_model.LinearRegression()
    learner = make_learner(model, trust=TRUST)
    learner.fit(SCHEMA, Target("regression"), ROWS, [1.0 if row[1] == "x" else 0.0 for row in ROWS])
    session = load_session(*learner.freeze(), trust=TRUST)
    answers = session.run(SCHEMA.matrix(ROWS, session.dtype)).tolist()
    assert answers == learner.predict(ROWS)
    assert answers[0] > answers[1]
    assert all(type(answer) is float for answer in answers)


def test_scores_follow_the_classes():
    learner = make_learner(preprocessing.StandardScaler() | linear_model.LogisticRegression(), trust=TRUST)
    schema = Schema.unnamed(1)
    rows = [[float(i % 10)] for i in range(200)]
    learner.fit(schema, Target("classification", "text"), rows, ["low" if x < 5 else "high" for (x,) in rows])
    session = load_session(*learner.freeze(), trust=TRUST)
    assert session.classes == ["high", "low"]
    scores = session.scores(schema.matrix([[0.0], [9.0]]))
    assert scores[0, 1] > 0.5 > scores[0, 0]
    assert scores.sum(axis=1).tolist() == pytest.approx([1, 1])
    assert session.run(schema.matrix([[0.0], [9.0]])).tolist() == ["low", "high"]


class Speechless(base.Regressor):
    """Has no answer, however much it learns."""

    def learn_one(self, x, y):
        pass

    def predict_one(self, x):
        return None


def test_an_answer_where_the_model_has_none():
    learner = make_learner(Speechless(), trust=TRUST)
    learner.fit(Schema.unnamed(1), Target("regression"), [[1.0], [2.0]], [10.0, 20.0])
    assert learner.predict([[1.0]]) == [15.0]
    session = load_session(*learner.freeze(), trust=TRUST)
    assert session.run(Schema.unnamed(1).matrix([[1.0]])).tolist() == [15.0]


@pytest.mark.parametrize("model", [anomaly.HalfSpaceTrees(), cluster.KMeans(), preprocessing.StandardScaler()])
def test_what_predicts_no_label(model):
    with pytest.raises(NotSupported, match="neither a classifier nor a regressor"):
        make_learner(model, trust=TRUST)


def test_trust():
    learner = make_learner(tree.HoeffdingTreeClassifier(), trust=Trust())
    learner.fit(Schema.unnamed(1), Target("classification", "integer"), [[1.0], [2.0]], [0, 1])
    with pytest.raises(Untrusted, match="trust_pickle=True"):
        learner.freeze()
    manifest = Manifest("river", "regression", Schema.unnamed(1), Target("regression"))
    with pytest.raises(Untrusted):
        load_session(manifest, pickle_estimator(1), trust=Trust())
    with pytest.raises(ArtifactCorrupt, match="expected a River model"):
        load_session(manifest, pickle_estimator(1), trust=TRUST)
    with pytest.raises(ArtifactCorrupt, match="cannot be read"):
        load_session(manifest, b"\x80garbage", trust=TRUST)
