"""`check_learner`: the contract of a learner, run over any of them.

    from everloop.testing import check_learner

    def test_my_learner():
        check_learner(lambda: MyLearner(alpha=0.1))

Each check is a function of its own and takes a factory, so that none depends on what another left behind. They say what was
violated in plain words, as AssertionError.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from everloop.core.errors import FitFailed
from everloop.core.schema import Field, Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.learning.learners.base import Learner
from everloop.runtime.artifact import Trust, load_session

Make = Callable[[], Learner]


@dataclass(frozen=True)
class Examples:
    """What a learner is checked with."""

    schema: Schema
    target: Target
    rows: Sequence[Row]
    labels: Sequence[Scalar]

    @classmethod
    def synthetic(cls, task: Task, *, count: int = 240, labels: Sequence[Scalar] = (0, 1), seed: int = 7) -> Examples:
        """Three numeric fields of different scale; the label is linear in them, or one of `labels` by thirds of it."""
        rng = random.Random(seed)  # noqa: S311 - not for secrets
        schema = Schema(tuple(Field(name) for name in ("small", "wide", "plain")), named=True)
        rows: list[Row] = [[rng.gauss(0, 0.1), rng.gauss(50, 20), rng.random()] for _ in range(count)]
        values = [10 * a + 0.05 * (b - 50) + c for a, b, c in rows]
        if task == "regression":
            return cls(schema, Target("regression"), rows, values)
        edges = sorted(values)
        cuts = [edges[count * i // len(labels)] for i in range(1, len(labels))]
        chosen = [labels[sum(value >= cut for cut in cuts)] for value in values]
        return cls(schema, Target.infer("classification", labels[0]), rows, chosen)


def check_learner(make: Make, *, examples: Examples | None = None, trust: Trust | None = None) -> None:
    """Run the whole contract over the learners that `make` gives. `make` must give an unfitted one at every call.

    `examples` replaces the synthetic ones where the learner needs others (text, labels of its own); `trust` is what the artifacts
    are loaded with, pickles by default. Raises AssertionError at the first violation."""
    given = examples or Examples.synthetic(make().task or "regression")
    trusted = trust or Trust(pickle=True)
    check_declarations(make)
    check_inputs_stay(make, given)
    check_predictions_are_plain_and_pure(make, given)
    check_clone(make, given)
    check_deterministic(make, given)
    check_freeze(make, given, trusted)
    check_dump(make, given)
    if given.target.task == "classification":
        check_single_class(make, given)


def check_declarations(make: Make) -> None:
    learner = make()
    assert learner.kind, "a learner needs a kind"
    assert learner.task in (None, "regression", "classification"), f"unknown task {learner.task!r}"
    assert isinstance(learner.incremental, bool), "incremental is True or False"
    assert learner.weight in ("light", "heavy", "unknown"), f"unknown weight {learner.weight!r}"


def check_inputs_stay(make: Make, given: Examples) -> None:
    """Neither changes what it was given, nor sees later changes to it."""
    learner = make()
    rows, labels = copy.deepcopy(list(given.rows)), list(given.labels)
    learner.fit(given.schema, given.target, rows, labels)
    assert rows == list(given.rows), "fit changed the rows that it was given"
    assert labels == list(given.labels), "fit changed the labels that it was given"
    before = learner.predict(given.rows[:20])
    for row in rows:
        row.reverse()
    labels.reverse()
    assert _same(before, learner.predict(given.rows[:20])), "changing the rows after the fit changed the predictions"
    if learner.incremental:
        rows = copy.deepcopy(list(given.rows[:30]))
        learner.learn(rows, given.labels[:30])
        assert rows == list(given.rows[:30]), "learn changed the rows that it was given"


def check_predictions_are_plain_and_pure(make: Make, given: Examples) -> None:
    learner = _fitted(make, given)
    rows = copy.deepcopy(list(given.rows[:50]))
    first = learner.predict(rows)
    assert rows == list(given.rows[:50]), "predict changed the rows that it was given"
    assert isinstance(first, list), f"predict gives a list, not {type(first).__name__}"
    assert len(first) == len(rows), f"predict gave {len(first)} answers to {len(rows)} rows"
    for answer in first:
        if given.target.task == "regression":
            assert type(answer) is float, f"a regression answers plain floats, not {type(answer).__name__}"
        else:
            assert type(answer) is type(given.labels[0]), (
                f"labels are of type {type(given.labels[0]).__name__}, but an answer is of type {type(answer).__name__}"
            )
            assert answer in set(given.labels), f"answered {answer!r}, which is none of the labels"
    assert _same(first, learner.predict(rows)), "predicting changed the predictions"
    one_by_one = [learner.predict([row])[0] for row in rows]
    assert _close(first, one_by_one), "a row's answer depends on the rows beside it"


def check_clone(make: Make, given: Examples) -> None:
    original = _fitted(make, given)
    before = original.predict(given.rows[:20])
    clone = original.clone()
    assert type(clone) is type(original), "clone gives another type"
    assert (clone.kind, clone.incremental, clone.weight) == (original.kind, original.incremental, original.weight)
    try:
        clone.predict(given.rows[:1])
    except Exception:  # noqa: S110 - any refusal will do: what matters is that it does not answer
        pass
    else:
        raise AssertionError("a clone is unfitted, but it answers")
    assert clone.task == make().task, "a clone has exactly the parameters, and so the task, of a new learner"
    clone.fit(given.schema, given.target, given.rows[::-1], given.labels[::-1])
    assert _same(before, original.predict(given.rows[:20])), "fitting a clone changed the original"
    again = original.clone()
    again.fit(given.schema, given.target, given.rows, given.labels)
    assert _close(before, again.predict(given.rows[:20])), "a clone has other parameters: it learns something else"


def check_deterministic(make: Make, given: Examples) -> None:
    first, second = _fitted(make, given), _fitted(make, given)
    assert _close(first.predict(given.rows), second.predict(given.rows)), "the same fit twice gives different models"


def check_freeze(make: Make, given: Examples, trust: Trust) -> None:
    learner = _fitted(make, given)
    manifest, payload = learner.freeze()
    expected = learner.predict(given.rows)
    assert isinstance(payload, bytes), "an artifact is bytes"
    assert manifest.task == given.target.task, f"the manifest tells of task {manifest.task}"
    assert manifest.schema == given.schema, "the manifest has another schema than the fit"
    assert manifest.target == given.target, "the manifest has another target than the fit"
    session = load_session(manifest, payload, trust=trust)
    X = given.schema.matrix(given.rows, session.dtype)
    assert _close(expected, session.run(X).tolist()), "the loaded artifact answers differently from the learner"
    if given.target.task == "classification":
        assert session.classes is not None, "a classifier's session tells its classes"
        assert set(session.classes) >= set(expected), "the session answers labels that are none of its classes"
        scores = session.scores(X)
        if scores is not None:
            assert scores.shape == (len(X), len(session.classes)), "scores have one column a class"
    compile_row = getattr(session, "compile_row", None)
    if compile_row is not None:
        answer = compile_row()
        assert _close(expected, [answer(row) for row in given.rows]), "the compiled row answers differently"
    if learner.incremental:
        learner.learn(given.rows[::-1], given.labels[::-1])
    else:
        learner.fit(
            given.schema, given.target, given.rows[: len(given.rows) // 2], given.labels[: len(given.rows) // 2]
        )
    assert _close(expected, session.run(X).tolist()), "learning further changed a session that was already loaded"
    session.close()
    session.close()


def check_dump(make: Make, given: Examples) -> None:
    learner = _fitted(make, given)
    if learner.incremental:
        learner.learn(given.rows[:40], given.labels[:40])
    before = learner.predict(given.rows)
    restored = learner.clone()
    restored.restore(learner.dump())
    assert _close(before, restored.predict(given.rows)), "a restored learner answers differently"
    assert restored.freeze()[0] == learner.freeze()[0], "a restored learner freezes with another manifest"
    if learner.incremental:
        learner.learn(given.rows[40:80], given.labels[40:80])
        restored.learn(given.rows[40:80], given.labels[40:80])
        assert _close(learner.predict(given.rows), restored.predict(given.rows)), (
            "a restored learner learns differently: some of its state was not dumped"
        )
    empty = make()
    fresh = learner.clone()
    fresh.restore(empty.dump())
    fresh.fit(given.schema, given.target, given.rows, given.labels)
    assert len(fresh.predict(given.rows[:3])) == 3, "a learner restored from an unfitted one cannot be fitted"


def check_single_class(make: Make, given: Examples) -> None:
    """Examples of one class are no reason to crash, but to say that others are needed."""
    message = None
    try:
        make().fit(given.schema, given.target, given.rows[:20], [given.labels[0]] * 20)
    except FitFailed as error:
        message = error.message
    assert message is not None, "a fit on a single class must raise FitFailed"
    assert "class" in message, f"the message does not speak of classes: {message}"


def _fitted(make: Make, given: Examples) -> Learner:
    learner = make()
    learner.fit(given.schema, given.target, given.rows, given.labels)
    return learner


def _same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return list(left) == list(right)


def _close(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Labels equal; numbers up to a rounding that other batch sizes and orders of addition may bring."""
    if len(left) != len(right):
        return False
    return all(
        abs(a - b) <= 1e-9 * max(1.0, abs(a), abs(b)) if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(left, right, strict=True)
    )
