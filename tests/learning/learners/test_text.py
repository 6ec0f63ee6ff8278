"""What a text model learns from feedback, and what it does not forget."""

from __future__ import annotations

import random

import pytest

from everloop.core.errors import FitFailed, ModelUntrained
from everloop.core.schema import Schema
from everloop.learning.learners import text as module
from everloop.learning.learners.make import describe, from_record
from everloop.learning.learners.text import TextLearner, start
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.text import SCHEMA, TARGET, manifest_of
from everloop.runtime.text_model import Tables, pack_text, unpack_text
from everloop.runtime.text_reading import NUMBERS
from everloop.testing import check_learner
from everloop.testing.checks import Examples

LABELS = ("negative", "neutral", "positive")
RATED = 2000.0
"""The curvature of a word that very many rated texts had."""


def base() -> TextLearner:
    features = {"awful": (2.0, 0.0, -2.0), "lovely": (-2.0, 0.0, 2.0), "sick": (1.0, 0.0, -1.0)}
    numbers = [(0.0, 0.5, 0.0) if name == "one" else (0.0, 0.0, 0.0) for name in NUMBERS]
    curvatures = {"awful": RATED, "lovely": RATED, "sick": 20.0}
    made = Tables(features, curvatures, {}, (3, 5), numbers, [RATED] * len(NUMBERS), {"awful": -2.0, "lovely": 2.0})
    return start(manifest_of(LABELS, axis=("negative", "positive")), pack_text(made))


def examples(count: int = 240) -> Examples:
    rng = random.Random(3)
    words = {
        "negative": ["awful", "broken", "slow"],
        "neutral": ["box", "arrived", "monday"],
        "positive": ["lovely", "quick", "neat"],
    }
    labels = [rng.choice(LABELS) for _ in range(count)]
    rows = [[f"the {rng.choice(words[label])} {rng.choice(['thing', 'one', 'part'])}"] for label in labels]
    return Examples(SCHEMA, TARGET, rows, labels)


def test_the_contract_of_a_learner() -> None:
    check_learner(lambda: base().clone(), examples=examples(), trust=Trust())


def test_it_answers_at_once_as_the_artifact_does() -> None:
    learner = base()
    assert learner.predict([["awful"], ["lovely"], ["box"]]) == ["negative", "positive", "neutral"]
    with pytest.raises(ModelUntrained):
        learner.clone().predict([["awful"]])


def test_a_few_labels_teach_a_new_word_and_leave_what_was_known() -> None:
    learner = base()
    learner.learn([["zorbly thing"]] * 12, ["positive"] * 12)
    assert learner.predict([["zorbly"], ["awful"], ["lovely"], ["box"]]) == [
        "positive",
        "negative",
        "positive",
        "neutral",
    ]


def test_a_word_that_few_had_moves_sooner_than_one_that_many_had() -> None:
    learner = base()
    learner.learn([["a sick beat"], ["an awful beat"]] * 20, ["positive"] * 40)
    features = unpack_text(learner.freeze()[1]).features
    assert features["sick"][2] + 1.0 > 10 * (features["awful"][2] + 2.0) > 0
    assert learner.predict([["so awful now"]]) == ["negative"]


def test_a_fit_begins_at_the_artifact() -> None:
    learner = base()
    learner.learn([["lovely"]] * 300, ["negative"] * 300)
    given = Examples(SCHEMA, TARGET, [["zorbly"], ["box"]] * 20, ["positive", "neutral"] * 20)
    learner.fit(given.schema, given.target, given.rows, given.labels)
    assert learner.predict([["lovely"], ["zorbly"], ["awful"]]) == ["positive", "positive", "negative"]


def test_a_label_that_nobody_had_becomes_a_class() -> None:
    learner = base()
    assert learner.predict([["spam offer"]]) == ["neutral"]
    learner.learn([["spam offer"]] * 60, ["junk"] * 60)
    assert learner.predict([["spam offer"], ["awful"]]) == ["junk", "negative"]
    manifest, payload = learner.freeze()
    assert manifest.classes == [*LABELS, "junk"]
    assert load_session(manifest, payload, trust=Trust()).classes == [*LABELS, "junk"]
    again = learner.clone()
    again.restore(learner.dump())
    assert again.predict([["spam offer"], ["awful"]]) == ["junk", "negative"]


def test_what_it_learns_beside_the_artifact_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NEW", 10)
    learner = base()
    before = len(learner.dump())
    learner.learn([[f"new{chr(97 + i)}{'x' * 500} word{chr(97 + i)}"] for i in range(20)], ["positive"] * 20)
    assert len(learner.dump()) - before < 2000
    monkeypatch.setattr(module, "MOST_CLASSES", 3)
    with pytest.raises(FitFailed, match="at most 3 classes"):
        learner.learn([["box"]], ["junk"])


def test_it_is_rebuilt_from_a_record_that_holds_no_pickle() -> None:
    learner = base()
    kind, parameters, template = describe(learner)
    assert (kind, parameters) == ("text", {})
    rebuilt = from_record(kind, parameters, template, trust=Trust())
    assert isinstance(rebuilt, TextLearner)
    assert rebuilt.predict([["awful"], ["lovely"]]) == ["negative", "positive"]


def test_other_rows_are_refused() -> None:
    with pytest.raises(FitFailed, match="one field named text"):
        base().fit(Schema.of_names(["words"]), TARGET, [["a"], ["b"]], ["negative", "positive"])
