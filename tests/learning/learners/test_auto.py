"""`auto` and its families: the right kind of model wins, text and gaps are fine, one failing candidate is no failure."""

from __future__ import annotations

import random

import pytest

from everloop.core.errors import FitFailed, ModelUntrained, NotSupported
from everloop.core.schema import Field, Schema, Target
from everloop.learning.learners.make import make_learner
from everloop.runtime.artifact import Trust, load_session
from everloop.testing import Examples

NO_TRUST = Trust()


def test_a_line_is_left_to_the_light_one():
    examples = Examples.synthetic("regression", count=120)
    learner = make_learner("auto", trust=NO_TRUST)
    learner.fit(examples.schema, examples.target, examples.rows, examples.labels)
    assert learner.chosen == "linear"
    manifest, payload = learner.freeze()
    assert manifest.runtime == "linear"
    assert manifest.lineage["chosen"] == "linear"
    assert set(manifest.lineage["candidates"]) == {"linear", "ridge", "boosting", "forest"}
    assert load_session(manifest, payload, trust=NO_TRUST).run(
        examples.schema.matrix(examples.rows)
    ).tolist() == learner.predict(examples.rows)


def test_a_chessboard_is_not():
    rng = random.Random(1)
    rows = [[rng.random(), rng.random()] for _ in range(400)]
    labels = [bool((x > 0.5) ^ (y > 0.5)) for x, y in rows]
    learner = make_learner("auto", trust=NO_TRUST)
    learner.fit(Schema.unnamed(2), Target("classification", "boolean"), rows, labels)
    assert learner.chosen in ("boosting", "forest")
    right = sum(a == b for a, b in zip(learner.predict(rows), labels, strict=True))
    assert right > 380
    restored = learner.clone()
    assert restored.task is None
    restored.restore(learner.dump())
    assert restored.predict(rows) == learner.predict(rows)


@pytest.mark.parametrize("kind", ["auto", "forest", "boosting"])
def test_text_gaps_and_categories_never_seen(kind):
    schema = Schema((Field("city", "text", nullable=True), Field("rooms", nullable=True)), named=True)
    rows = [[["x", "y", "z", None][i % 4], None if i % 5 == 0 else float(i % 3)] for i in range(80)]
    labels = ["far" if row[0] == "x" else "near" for row in rows]
    learner = make_learner(kind, {"n_estimators": 5} if kind == "forest" else None, trust=NO_TRUST)
    learner.fit(schema, Target("classification", "text"), rows, labels)
    assert learner.predict(rows) == labels
    manifest, payload = learner.freeze()
    session = load_session(manifest, payload, trust=NO_TRUST)
    X = schema.matrix([["never seen", 1.0], [None, None], ["x", 2.0]], session.dtype)
    answers = session.run(X).tolist()
    assert set(answers) <= {"far", "near"}
    assert answers[2] == "far"


def test_few_examples_are_not_compared():
    learner = make_learner("auto", {"task": "regression"}, trust=NO_TRUST)
    learner.fit(Schema.unnamed(1), Target("regression"), [[1.0], [2.0], [3.0]], [2.0, 4.0, 6.0])
    assert (learner.chosen, learner.scores) == ("linear", {})


def test_refusals():
    learner = make_learner("auto", {"task": "regression"}, trust=NO_TRUST)
    with pytest.raises(FitFailed, match="for regression"):
        learner.fit(Schema.unnamed(1), Target("classification", "text"), [[1.0]], ["a"])
    with pytest.raises(FitFailed, match="no examples"):
        learner.fit(Schema.unnamed(1), Target("regression"), [], [])
    with pytest.raises(ModelUntrained):
        learner.predict([[1.0]])
    with pytest.raises(NotSupported):
        learner.learn([[1.0]], [1.0])
    failing = make_learner("forest", {"n_estimators": -1}, trust=NO_TRUST)
    with pytest.raises(FitFailed, match="n_estimators"):
        failing.fit(Schema.unnamed(1), Target("regression"), [[1.0], [2.0]], [1.0, 2.0])
