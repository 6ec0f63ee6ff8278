"""Several forms of one model in one artifact: which one answers, and what is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from everloop.core.errors import ArtifactCorrupt, InvalidInput, NotSupported, Untrusted
from everloop.core.schema import Field, Schema, Target
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.by_size import combine
from everloop.runtime.linear import LinearModel
from everloop.runtime.members import MOST_LEVELS, pack_members
from everloop.stores.ports import Manifest

TRUST = Trust()


def form(bias, width=2, classes=None, nullable=False):
    """A linear model that says by its bias which one it is."""
    outputs = len(classes) if classes and len(classes) > 2 else 1
    model = LinearModel(np.zeros((outputs, width)), np.full(outputs, float(bias)), np.zeros(width))
    task = "regression" if classes is None else "classification"
    target = Target("regression") if classes is None else Target.infer(task, classes[0])
    schema = Schema(tuple(Field(f"x{i}", nullable=nullable) for i in range(width)))
    return Manifest("linear", task, schema, target, classes, libraries={f"lib{bias}": "1"}), model.pack()


def test_the_number_of_rows_decides_who_answers():
    manifest, payload = combine([(1, *form(1)), (8, *form(2)), (64, *form(3))])
    assert manifest.runtime == "by_size"
    assert manifest.options == {"from": [1, 8, 64], "runtimes": ["linear"] * 3}
    assert manifest.libraries == {"lib1": "1", "lib2": "1", "lib3": "1"}
    session = load_session(manifest, payload, trust=TRUST)
    told = {rows: set(session.run(np.zeros((rows, 2))).tolist()) for rows in (1, 7, 8, 63, 64, 500)}
    assert told == {1: {1.0}, 7: {1.0}, 8: {2.0}, 63: {2.0}, 64: {3.0}, 500: {3.0}}
    assert session.run(np.zeros((0, 2))).shape == (0,)
    assert session.compile_row()([1.0, 2.0]) == 1.0
    assert session.scores(np.zeros((1, 2))) is None
    session.close()
    session.close()


def test_probabilities_come_from_whom_the_answer_comes():
    session = load_session(
        *combine([(1, *form(-2, classes=["a", "b"])), (4, *form(2, classes=["a", "b"]))]), trust=TRUST
    )
    assert session.classes == ["a", "b"]
    assert session.run(np.zeros((1, 2))).tolist() == ["a"]
    assert session.run(np.zeros((4, 2))).tolist() == ["b"] * 4
    assert session.scores(np.zeros((1, 2)))[0, 1] < 0.5 < session.scores(np.zeros((4, 2)))[0, 1]


def test_a_value_may_be_missing_where_all_take_that():
    manifest, _ = combine([(1, *form(1, nullable=True)), (2, *form(1, nullable=True))])
    assert all(field.nullable for field in manifest.schema.fields)
    manifest, _ = combine([(1, *form(1, nullable=True)), (2, *form(1))])
    assert not any(field.nullable for field in manifest.schema.fields)


def test_forms_of_different_types_get_rows_of_their_own():
    from sklearn.tree import DecisionTreeClassifier

    from everloop.runtime.compiled import as_trained
    from everloop.runtime.packing import pack

    X = np.random.default_rng(0).normal(size=(50, 2))
    model = DecisionTreeClassifier(max_depth=2).fit(X, X[:, 0] > 0)
    manifest, payload = pack(model, trust=TRUST)
    linear = form(1, classes=[False, True])
    session = load_session(*combine([(1, *linear), (2, as_trained(manifest), payload)]), trust=TRUST)
    assert session.dtype is np.float64
    assert session.run(X[:1]).tolist() == [True]
    assert session.run(X).tolist() == model.predict(X).tolist()


@pytest.mark.parametrize("firsts", [[], [2], [1, 1], [1, 8, 4], [0, 1], [True], [1, 2.5]])
def test_sizes_ascend_from_one(firsts):
    with pytest.raises(InvalidInput, match="ascend"):
        combine([(first, *form(1)) for first in firsts])


def test_forms_that_take_or_answer_something_else():
    for other in (form(1, width=3), form(1, classes=["a", "b"])):
        with pytest.raises(NotSupported, match="stand in for each other"):
            combine([(1, *form(1)), (2, *other)])
    tensors = msgspec.structs.replace(form(1)[0], task="tensors", schema=Schema(()))
    with pytest.raises(NotSupported, match="tensors"):
        combine([(1, tensors, b""), (2, tensors, b"")])


def test_what_is_forged_is_refused():
    manifest, payload = combine([(1, *form(1)), (8, *form(2))])
    first, second = form(1), form(2)
    forged = [
        b"",
        b"EVMEMBER",
        payload[:30],
        payload[:-1],
        payload + b"x",
        pack_members({"from": [1]}, [first, second]),
        pack_members({"from": [8, 1]}, [first, second]),
        pack_members({"from": [True, 8]}, [first, second]),
        pack_members({}, [first, second]),
        pack_members({"from": [1, 8]}, [first, form(1, width=3)]),
        pack_members({"from": [1, 8]}, [first, (second[0], b"nothing")]),
        payload.replace(b'"bytes":', b'"bytes":-'),
        payload.replace(b'"level":1', b'"level":9'),
    ]
    for each in forged:
        with pytest.raises(ArtifactCorrupt):
            load_session(manifest, each, trust=TRUST)
    with pytest.raises(ArtifactCorrupt, match="manifest"):
        load_session(msgspec.structs.replace(manifest, schema=Schema.unnamed(3)), payload, trust=TRUST)


def test_what_would_be_refused_alone_is_refused_inside():
    import pickle

    pickled = msgspec.structs.replace(form(1)[0], runtime="sklearn"), pickle.dumps({"a": 1})
    with pytest.raises(Untrusted, match="member 2"):
        load_session(*combine([(1, *form(1)), (2, *pickled)]), trust=TRUST)


def test_nesting_ends():
    nested = form(1)
    for _ in range(MOST_LEVELS):
        nested = combine([(1, *nested), (2, *form(2))])
    assert load_session(*nested, trust=TRUST).run(np.zeros((1, 2))).tolist() == [1.0]
    with pytest.raises(NotSupported, match="levels"):
        combine([(1, *nested), (2, *form(2))])


def test_onnx_forms_keep_their_own_tensors(tmp_path):
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression

    from everloop.runtime.artifact import read_model_file
    from everloop.runtime.tensors import tensor_model

    X = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    artifacts = []
    for i, factor in enumerate((1.0, 2.0)):
        path = tmp_path / f"{i}.onnx"
        path.write_bytes(to_onnx(LinearRegression().fit(X, X[:, 0] * factor), X[:1]).SerializeToString())
        artifacts.append(read_model_file(path, trust=TRUST))
    alone = tensor_model(load_session(*artifacts[0], trust=TRUST)).signature
    session = load_session(*combine([(1, *artifacts[0]), (4, *artifacts[1])]), trust=TRUST)
    assert tensor_model(session).signature == alone
    output = alone.outputs[0].name
    for rows, factor in ((1, 1.0), (5, 2.0)):
        answers = tensor_model(session).infer([X[:rows]], [output])
        np.testing.assert_allclose(answers[output][:, 0], X[:rows, 0] * factor, atol=1e-5)
    mixed = load_session(*combine([(1, *form(1)), (4, *artifacts[1])]), trust=TRUST)
    assert tensor_model(mixed).signature != alone, "where they differ, tensors follow from the features"
