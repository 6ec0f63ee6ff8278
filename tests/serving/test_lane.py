"""A lane: answers in process, what it refuses, what it records, and how it goes away."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from everloop.core.errors import InvalidInput, ModelFailed
from everloop.core.schema import Field, Schema, Target
from everloop.core.types import Label
from everloop.policy.batching import UNMEASURED, BatchRules


@pytest.fixture
def linear(kit: Any) -> Any:
    kit.publish("m", [2.0, -1.0], 0.5)
    kit.reconciler.step()
    return kit.table.current.lanes["m"]


def test_a_small_model_answers_with_a_plain_float_and_its_version(linear: Any) -> None:
    answer = linear.answer([3.0, 1.0])
    assert (answer.prediction, type(answer.prediction), answer.model_version) == (5.5, float, 1)
    assert linear.compiled


@pytest.mark.parametrize(
    "features",
    [[3.0, 1.0], [3, 1], [3, True], (3.0, 1.0), np.array([3.0, 1.0]), np.array([3, 1]), [np.float64(3), np.float32(1)]],
    ids=repr,
)
def test_any_sequence_of_numbers_gives_the_same_answer(linear: Any, features: Any) -> None:
    answer = linear.answer(features).prediction
    assert (answer, type(answer)) == (5.5, float)


@pytest.mark.parametrize(
    ("features", "field", "said"),
    [
        ([1.0], "features", "expected 2 features"),
        ([1.0, 2.0, 3.0], "features", "got 3"),
        ([], "features", "got 0"),
        ([1.0, "2"], "features[1]", "expected a finite number, got '2'"),
        ([1.0, None], "features[1]", "a value is required"),
        ([float("nan"), 1.0], "features[0]", "a value is required"),
        ([float("inf"), 1.0], "features[0]", "expected a finite number"),
        ([10**400, 1.0], "features[0]", "expected a finite number"),
        ([1.0, [2.0]], "features[1]", "expected a finite number"),
        ([1.0, 1j], "features[1]", "expected a finite number"),
        ({"x0": 1.0, "x1": 2.0}, "features", "have no names"),
        ("12", "features", "expected a list"),
        (7, "features", "expected a list"),
        (None, "features", "expected a list"),
        (np.zeros((1, 2)), "features", "shape (1, 2)"),
    ],
    ids=repr,
)
def test_what_cannot_be_answered_is_named(linear: Any, features: Any, field: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        linear.answer(features)
    assert caught.value.field == field
    assert said in str(caught.value)


def test_an_object_that_computes_like_a_number_is_answered_and_spoils_no_neighbours_record(kit: Any) -> None:
    class Odd:
        def __rmul__(self, other: float) -> float:
            return other

    kit.publish("m", [2.0])
    kit.reconciler.step()
    before, odd, after = (kit.predictor.predict("m", [value]) for value in (1.0, Odd(), 3.0))
    assert [a.prediction for a in (before, odd, after)] == [2.0, 2.0, 6.0]
    kit.recorder.drain()
    done = kit.journal.append_now([Label("m", 0.0, 0.0, request_id=a.request_id) for a in (before, odd, after)])
    assert [isinstance(outcome, int) for outcome in done.outcomes] == [True, False, True]


def test_a_finite_input_with_an_infinite_answer_is_the_models_failure(kit: Any) -> None:
    kit.publish("m", [1e200])
    kit.reconciler.step()
    with pytest.raises(ModelFailed, match="not a finite number"):
        kit.predictor.predict("m", [1e200])
    assert kit.table.current.lanes["m"].counters().failed == 1


def test_a_list_changed_after_the_call_is_recorded_as_it_was(kit: Any, linear: Any) -> None:
    features = [1.0, 2.0]
    answer = linear.answer(features)
    features[0] = 99.0
    assert kit.recorded()[answer.request_id] == ([1.0, 2.0], answer.prediction)


def test_many_rows_are_answered_in_order_by_one_version(kit: Any, linear: Any) -> None:
    answer = linear.answer_rows([[1.0, 0.0], (0.0, 1.0), np.array([1.0, 1.0])])
    assert answer.predictions == [2.5, -0.5, 1.5]
    assert answer.model_version == 1
    recorded = kit.recorded()
    assert [recorded[f"{answer.request_id}#{i}"][1] for i in range(3)] == answer.predictions


def test_arrays_and_frames_are_rows(linear: Any) -> None:
    import pandas as pd

    X = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert linear.answer_rows(X).predictions == [2.5, -0.5]
    assert linear.answer_rows(X.astype(np.int32)).predictions == [2.5, -0.5]
    assert linear.answer_rows(pd.DataFrame(X, columns=["a", "b"])).predictions == [2.5, -0.5]


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([], "instances"),
        ([[1.0, 2.0], [1.0]], "instances[1]"),
        ([[1.0, 2.0], [1.0, float("nan")]], "instances[1][1]"),
        (np.zeros(3), "instances"),
        (np.zeros((0, 2)), "instances"),
        (np.array([[1.0, np.nan]]), "instances[0][1]"),
        (np.zeros((2, 3)), "instances[0]"),
        ({"a": 1}, "instances"),
        ("ab", "instances"),
        (5, "instances"),
    ],
    ids=repr,
)
def test_a_bad_row_is_named_with_its_place(linear: Any, rows: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        linear.answer_rows(rows)
    assert caught.value.field == field


def test_the_caller_may_change_the_predictions_it_was_given(kit: Any, linear: Any) -> None:
    answer = linear.answer_rows([[1.0, 0.0]])
    answer.predictions.clear()
    assert [prediction for _, prediction in kit.recorded().values()] == [2.5]


def test_names_and_text_go_through_the_schema(kit: Any, plain_session: Any) -> None:
    schema = Schema((Field("age"), Field("city", "text", nullable=True)), named=True)
    session = plain_session(
        schema=schema, dtype=object, answers=lambda X: np.array([len(str(city)) + age for age, city in X])
    )
    lane = kit.lane(session)
    assert lane.answer({"city": "Rome", "age": 40}).prediction == 44.0
    assert lane.answer([40, "Rome"]).prediction == 44.0
    with pytest.raises(InvalidInput, match="did you mean 'city'"):
        lane.answer({"citi": "Rome", "age": 40})
    assert [row for row, _ in kit.recorded().values()] == [[40.0, "Rome"], [40.0, "Rome"]]


def test_a_failing_row_of_a_request_is_named(kit: Any, plain_session: Any) -> None:
    def answers(X: Any) -> Any:
        if (X[:, 0] < 0).any():
            raise ZeroDivisionError("no")
        return X[:, 0]

    lane = kit.lane(plain_session(answers=answers))
    with pytest.raises(ModelFailed) as caught:
        lane.answer_rows([[float(i), 0.0] for i in range(5)] + [[-1.0, 0.0], [6.0, 0.0]])
    assert caught.value.field == "instances[5]"
    assert "ZeroDivisionError: no" in str(caught.value)


@pytest.mark.parametrize(
    "answers",
    [lambda X: X, lambda X: X[:0, 0], lambda X: X[:, 0] * np.nan, lambda X: 3.0, lambda X: None, lambda X: "ab"],
)
def test_an_unusable_answer_is_the_models_failure(kit: Any, plain_session: Any, answers: Any) -> None:
    lane = kit.lane(plain_session(answers=answers))
    with pytest.raises(ModelFailed):
        lane.answer([1.0, 2.0])


def test_class_labels_come_out_plain(kit: Any, plain_session: Any) -> None:
    target = Target("classification", "text")
    labels = np.array([np.str_("no"), np.str_("yes")], dtype=object)
    session = plain_session(target=target, answers=lambda X: labels[(X[:, 0] > 0).astype(int)])
    session.classes = ["no", "yes"]
    answer = kit.lane(session).answer([1.0, 0.0]).prediction
    assert (answer, type(answer)) == ("yes", str)


def test_more_rows_than_a_batch_may_have_run_in_slices(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(max_rows=4, queue_rows=8))
    answer = lane.answer_rows([[float(i), 0.0] for i in range(10)])
    assert answer.predictions == [float(i) for i in range(10)]
    assert session.batches == [4, 4, 2]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_that_is_recorded_is_the_models(kit: Any, plain_session: Any, share: float) -> None:
    lane = kit.lane(plain_session(), record=share)
    for i in range(1000):
        lane.answer([float(i), 0.0])
    assert len(kit.recorded()) == pytest.approx(1000 * share, abs=10)


def test_opening_measures_what_batches_cost(kit: Any, plain_session: Any) -> None:
    costs = kit.lane(plain_session()).costs
    assert costs.sizes == (1, 8, 64)
    assert all(seconds > 0 for seconds in costs.seconds)


def test_a_model_that_refuses_made_up_rows_still_opens(kit: Any, plain_session: Any) -> None:
    def answers(X: Any) -> Any:
        if (X == 0).all():
            raise ValueError("all zeros")
        return X[:, 0]

    lane = kit.lane(plain_session(answers=answers))
    assert lane.costs == UNMEASURED
    assert lane.answer([1.0, 0.0]).prediction == 1.0


def test_request_ids_are_unique_over_threads_and_lanes(kit: Any, plain_session: Any) -> None:
    lanes = [kit.lane(plain_session(), version=v) for v in (1, 2)]
    ids: list[str] = []

    def predict() -> None:
        mine = [lane.answer([1.0, 2.0]).request_id for _ in range(500) for lane in lanes]
        ids.extend(mine)

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == len(ids) == 4000
    assert set(kit.recorded()) == set(ids)
    assert sum(lane.predictions for lane in lanes) == 4000


def test_a_retired_lane_is_freed_without_the_garbage_collector(kit: Any, plain_session: Any) -> None:
    gc.disable()
    try:
        session = plain_session()
        lane = kit.lane(session)
        lane.answer([1.0, 2.0])
        kit.recorder.stop()
        gone = weakref.ref(lane)
        lane.retire()
        assert lane.closed
        assert not session.closed.is_set(), "somebody still holds the lane"
        del lane
        assert gone() is None
        assert session.closed.is_set()
    finally:
        gc.enable()


def test_a_call_in_flight_keeps_the_session_open(kit: Any, plain_session: Any) -> None:
    inside, go = threading.Event(), threading.Event()

    def answers(X: Any) -> Any:
        if X[0, 0] == 7:
            inside.set()
            assert go.wait(10)
            assert not session.closed.is_set()
        return X[:, 0]

    session = plain_session(answers=answers)
    lane = kit.lane(session)
    got: list[Any] = []
    thread = threading.Thread(target=lambda answer: got.append(answer([7.0, 0.0])), args=(lane.answer,))
    thread.start()
    assert inside.wait(10)
    lane.retire()
    del lane
    go.set()
    thread.join(10)
    assert got[0].prediction == 7.0
    del thread
    assert session.closed.wait(10)
