"""Labels on their way in: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from everloop.core.errors import Conflict, InvalidInput, ModelNotFound, PredictionNotFound
from everloop.learning.intake import Feedback, Intake
from everloop.stores.ports import Appended


def test_the_first_labels_fix_the_schema(room: Any) -> None:
    room.register("m", "linear")
    room.intake.accept_now("m", [Feedback(1.5, features={"age": 3, "height": 1.8})])
    record = room.registry.get("m")
    assert record.schema.names == ("age", "height")
    assert record.target.kind == "number"
    with pytest.raises(InvalidInput, match="did you mean 'height'") as error:
        room.intake.accept_now("m", [Feedback(1.5, features={"age": 3, "hieght": 1.8})])
    assert error.value.field == "features.hieght"
    with pytest.raises(InvalidInput, match="expected 2 features"):
        room.intake.accept_now("m", [Feedback(1.5, features=[1.0])])


@pytest.mark.parametrize(
    ("labels", "task", "kind"),
    [
        ([1.5], "regression", "number"),
        ([3, 2.5], "regression", "number"),
        ([np.float64(2)], "regression", "number"),
        ([1, 0], "classification", "integer"),
        (["spam"], "classification", "text"),
        ([True], "classification", "boolean"),
    ],
)
def test_without_a_task_the_labels_tell_it(room: Any, labels: list[Any], task: str, kind: str) -> None:
    room.registry.register("m", "auto", task=None)
    room.intake.accept_now("m", [Feedback(label, features=[1.0]) for label in labels])
    target = room.registry.get("m").target
    assert (target.task, target.kind) == (task, kind)


def test_a_bad_item_does_not_spoil_its_neighbours(room: Any, lines: Any) -> None:
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0))
    room.settle()
    (known,) = room.predict("m", [[5.0]])
    outcomes = room.intake.accept_now(
        "m",
        [
            Feedback(1.0, features=[1.0]),
            Feedback("one", features=[1.0]),
            Feedback(1.0, features=[1.0, 2.0]),
            Feedback(5.0, request_id=known),
            Feedback(5.0, request_id="lane-ffff"),
            Feedback(5.0, request_id="nonsense"),
            Feedback(5.0, request_id=known, features=[1.0]),
            Feedback(5.0),
            Feedback(float("nan"), features=[1.0]),
        ],
    ).outcomes
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [
        int, InvalidInput, InvalidInput, int, PredictionNotFound, PredictionNotFound, InvalidInput, InvalidInput, InvalidInput,
    ]  # fmt: skip
    assert outcomes[2].field == "examples[2].features"
    room.settle()
    assert room.loop.status("m").examples_learned == 62


def test_a_single_bad_item_is_raised_and_an_unknown_model_too(room: Any) -> None:
    room.register("fraud", "linear")
    with pytest.raises(InvalidInput, match="finite number"):
        room.intake.accept_now("fraud", [Feedback("x", features=[1.0])])
    with pytest.raises(ModelNotFound, match="did you mean 'fraud'"):
        room.intake.accept_now("frau", [Feedback(1.0, features=[1.0])])
    with pytest.raises(InvalidInput, match="at least one"):
        room.intake.accept_now("fraud", [])
    told: list[Any] = []
    room.intake.accept("fraud", [Feedback("x", features=[1.0]), Feedback("y", features=[1.0])], told.append)
    assert [type(o) for o in told[0].outcomes] == [InvalidInput, InvalidInput]


def test_a_label_by_request_id_counts_once(any_room: Any, lines: Any) -> None:
    room = any_room
    room.register("m", "linear")
    room.feed("m", *lines(60, 1.0))
    room.settle()
    (known,) = room.predict("m", [[5.0]])
    first = room.label("m", [known], [5.0])
    assert room.label("m", [known], [5.0]) == first
    assert isinstance(room.label("m", [known], [6.0])[0], Conflict)
    room.settle()
    assert room.loop.status("m").examples_learned == 61


def test_an_idempotency_key_counts_once(any_room: Any) -> None:
    room = any_room
    room.register("m", "linear")
    items = [Feedback(1.0, features=[1.0]), Feedback("bad", features=[1.0]), Feedback(2.0, features=[2.0])]
    first = room.intake.accept_now("m", items, idempotency_key="k", body="b")
    again = room.intake.accept_now("m", items, idempotency_key="k", body="b")
    assert again.duplicate
    assert [o for o in again.outcomes if isinstance(o, int)] == [o for o in first.outcomes if isinstance(o, int)]
    assert isinstance(again.outcomes[1], InvalidInput)
    assert room.journal.count_examples("m") == 2


def test_accept_answers_after_the_commit_and_wakes_the_learner(any_room: Any) -> None:
    room = any_room
    called: list[str] = []
    joined: list[int] = []
    intake = Intake(
        room.registry, room.journal, room.config, room.clock, wake=called.append, before_join=lambda: joined.append(1)
    )
    room.register("m", "linear")
    done = threading.Event()
    told: list[Any] = []

    def answer(outcome: Any) -> None:
        told.append((outcome, room.journal.count_examples("m")))
        done.set()

    intake.accept("m", [Feedback(1.0, features=[1.0])], answer)
    assert done.wait(10)
    outcome, committed = told[0]
    assert isinstance(outcome, Appended)
    assert committed == 1
    assert called == ["m"]
    assert not joined
    intake.accept("m", [Feedback(1.0, request_id="lane-1")], lambda _: None)
    assert joined


def test_a_model_registered_anew_gets_a_schema_anew(room: Any) -> None:
    room.register("m", "linear")
    room.feed("m", [[1.0]], [1.0])
    room.registry.unregister("m")
    room.register("m", "linear")
    room.feed("m", [[1.0, 2.0]], [1.0])
    assert len(room.registry.get("m").schema.fields) == 2
