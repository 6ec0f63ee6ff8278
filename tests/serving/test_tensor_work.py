"""Tensors of several requests in one run: put together, cut apart, blamed, keyed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api.oip_models import IRIS, X, distinct, iris, pooled, sums

from everloop.core.errors import EverloopError, InvalidInput, ModelFailed, NotSupported
from everloop.core.schema import Field, Schema, Target
from everloop.core.tensors import Tensor
from everloop.policy.batching import BatchRules
from everloop.runtime.artifact import Trust, load_session, read_model
from everloop.runtime.tensors import RowTensors
from everloop.serving.runner import Runner
from everloop.serving.tensor_work import TensorsAsked, TensorWork


class Rows:
    """A session of rows that does what `answers` says."""

    dtype = np.float64

    def __init__(self, schema: Schema, answers: Any, classes: list[Any] | None = None, kind: str = "number") -> None:
        task = "regression" if classes is None else "classification"
        self.schema, self.target, self.classes = schema, Target(task, kind), classes  # type: ignore[arg-type]
        self.answers = answers
        self.dtype = np.float64 if schema.numeric else object  # type: ignore[assignment]

    def run(self, given: Any) -> Any:
        return self.answers(given)

    def scores(self, given: Any) -> Any:
        return None if self.classes is None else np.full((len(given), len(self.classes)), 0.5)

    def close(self) -> None:
        return


def work_of(payload: bytes | Rows, rules: BatchRules | None = None) -> TensorWork:
    if isinstance(payload, bytes):
        manifest, _ = read_model(payload, "a test", trust=Trust(), field="body")
        session = load_session(manifest, payload, trust=Trust())
    else:
        session = payload  # type: ignore[assignment]
    return TensorWork(Runner(session, "m", 1, rules or BatchRules()))


def asked(work: TensorWork, outputs: tuple[str, ...] | None = None, **arrays: Any) -> TensorsAsked:
    specs = {spec.name: spec for spec in work.tensors.signature.inputs}
    tensors = [Tensor(name, specs[name].datatype, array) for name, array in arrays.items()]
    return TensorsAsked(work.tensors.take(tensors), outputs or work.outputs)


@settings(deadline=None, max_examples=40)
@given(
    requests=st.lists(
        st.tuples(
            st.integers(1, 4), st.integers(0, 3), st.sampled_from([("sum",), ("difference",), ("sum", "difference")])
        ),
        min_size=1,
        max_size=8,
    ),
    most=st.integers(1, 9),
)
def test_each_request_gets_its_own_whatever_ran_beside_it(requests: list[Any], most: int) -> None:
    work = SUMS
    work.runner.rules = BatchRules(max_rows=most)
    rng = np.random.default_rng(7)
    given_arrays = [
        (rng.normal(size=(rows, width)).astype(np.float32), rng.normal(size=(rows, width)).astype(np.float32))
        for rows, width, _ in requests
    ]
    payloads = [asked(work, outputs, a=a, b=b) for (a, b), (_, _, outputs) in zip(given_arrays, requests, strict=True)]
    answers = work.run(work.gather(payloads, [rows for rows, _, _ in requests]))
    assert work.sound(answers)
    start = 0
    for (a, b), (rows, _, outputs) in zip(given_arrays, requests, strict=True):
        part = work.part(answers, start, start + rows)
        for name, expected in (("sum", a + b), ("difference", a - b)):
            if name in outputs:
                np.testing.assert_array_equal(part[name], expected)
        start += rows


SUMS = work_of(sums())


def test_what_is_no_batch_runs_alone_once_that_is_known() -> None:
    work = work_of(distinct())
    payloads = [asked(work, x=np.array([[i, i], [i, i]], np.float32)) for i in range(3)]
    with pytest.raises(ModelFailed, match="shape"):
        work.run(work.gather(payloads, [2, 2, 2]))
    answers = work.run(work.gather(payloads, [2, 2, 2]))
    assert [work.part(answers, 2 * i, 2 * i + 2)["y"].tolist() for i in range(3)] == [[0.0], [1.0], [2.0]]


def test_inputs_of_different_rows_are_refused() -> None:
    """Put together with others' they would take their rows."""
    with pytest.raises(InvalidInput, match="same number of rows, got 1, 2"):
        asked(SUMS, a=np.zeros((2, 3), np.float32), b=np.zeros((1, 3), np.float32))


def test_an_axis_without_a_name_is_no_batch() -> None:
    assert not work_of(pooled()).tensors.batched
    assert SUMS.tensors.batched
    assert work_of(iris()).tensors.batched


def test_rows_are_recorded_with_their_answers_whatever_was_asked_for() -> None:
    work = work_of(iris())
    payloads = [asked(work, ("output_probability",), X=X[:2]), asked(work, ("output_label",), X=X[100:101])]
    answers = work.run(work.gather(payloads, [2, 1]))
    for start, stop, rows in ((0, 2, X[:2]), (2, 3, X[100:101])):
        found = work.recorded(answers, start, stop)
        assert found is not None
        np.testing.assert_array_equal(found.X, rows)
        assert found.values == IRIS.predict(rows).tolist()
    assert work_of(sums()).recorded is not None


def test_an_answer_that_is_no_number_is_blamed_on_its_row() -> None:
    work = work_of(Rows(Schema.unnamed(1), lambda given: np.where(given[:, 0] < 0, np.nan, given[:, 0])))
    bad = asked(work, features=np.array([[1.0], [-1.0]]))
    assert not work.sound(work.run(work.gather([bad], [2])))
    error = work.blame(bad, 2)
    assert error is not None
    assert "instances[1]" in error.message
    assert work.blame(asked(work, features=np.array([[1.0]])), 1) is None


@pytest.mark.parametrize(
    ("raised", "told"), [(InvalidInput, InvalidInput), (ModelFailed, ModelFailed), (NotSupported, ModelFailed)]
)
def test_what_a_session_refuses_is_the_callers_to_mend(raised: type[EverloopError], told: type[EverloopError]) -> None:
    def answers(_: Any) -> Any:
        raise raised("features.x0: not below zero", field="features.x0")

    work = work_of(Rows(Schema.unnamed(1), answers))
    error = work.blame(asked(work, features=np.array([[-1.0]])), 1)
    assert type(error) is told
    assert "features.x0: not below zero" in error.message


def test_keys_are_apart_where_inputs_or_outputs_are() -> None:
    a, b = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    payloads = [
        asked(SUMS, a=a, b=b),
        asked(SUMS, a=b, b=a),
        asked(SUMS, ("sum",), a=a, b=b),
        asked(SUMS, a=a.reshape(2, 1), b=b.reshape(2, 1)),
    ]
    assert len({SUMS.key(payload, 1) for payload in payloads}) == 4
    assert SUMS.key(payloads[0], 1) == SUMS.key(asked(SUMS, a=a.copy(), b=b.copy()), 1)


def test_no_row_has_the_key_of_tensors() -> None:
    """One part of the cache has both: numbers chosen so that they are the digest would bring back the answer to something else."""
    work = work_of(Rows(Schema.unnamed(2), lambda given: given.sum(axis=1)))
    keys = [work.key(asked(work, features=np.array([[float(i), 1.0]])), 1) for i in range(20)]
    for key in keys:
        assert key is not None
        assert len(key) % 8  # rows of numbers are eight bytes each
        assert not 0x90 <= key[0] <= 0x9F  # and those with text are MessagePack's lists of lists
        assert key[0] not in (0xDC, 0xDD)


def test_named_fields_of_both_kinds_are_columns() -> None:
    schema = Schema((Field("age"), Field("city", "text")), named=True)
    tensors = RowTensors(Rows(schema, lambda given: np.array([row[1] for row in given], object), ["a", "b"], "text"))  # type: ignore[arg-type]
    assert [(spec.name, spec.datatype, spec.shape) for spec in tensors.signature.inputs] == [
        ("age", "FP64", (-1,)),
        ("city", "BYTES", (-1,)),
    ]
    city = Tensor("city", "BYTES", np.array([[b"b"], ["a"]], object))
    arrays = tensors.take([city, Tensor("age", "INT8", np.array([3, 4], np.int8))])
    assert arrays[0].tolist() == [[3.0, "b"], [4.0, "a"]]
    answers = tensors.infer(arrays, ("prediction", "probabilities"))
    assert answers["prediction"].tolist() == ["b", "a"]
    assert answers["probabilities"].shape == (2, 2)
    for wrong, told in (
        ([city], "missing 'age'"),
        ([city, Tensor("age", "FP64", np.array([1.0]))], "same number of rows"),
        ([city, Tensor("age", "FP64", np.array([1.0, np.nan]))], "age"),
        ([city, Tensor("age", "FP64", np.ones((2, 2)))], "unexpected shape"),
        ([Tensor("city", "BYTES", np.array([b"\xff", b""], object)), Tensor("age", "FP64", np.ones(2))], "UTF-8"),
        ([city, city], "twice"),
    ):
        with pytest.raises(InvalidInput, match=told):
            tensors.take(wrong)


def test_a_missing_number_is_one_where_it_may_be() -> None:
    schema = Schema((Field("a", nullable=True), Field("b")))
    tensors = RowTensors(Rows(schema, lambda given: given[:, 0]))  # type: ignore[arg-type]
    (given_rows,) = tensors.take([Tensor("features", "FP32", np.array([[np.nan, 1.0]], np.float32))])
    assert np.isnan(given_rows[0, 0])
    for wrong in ([1.0, np.nan], [np.inf, 1.0]):
        with pytest.raises(InvalidInput, match="finite number"):
            tensors.take([Tensor("features", "FP64", np.array([wrong]))])
