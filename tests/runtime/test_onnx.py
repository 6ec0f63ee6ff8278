"""ONNX files as converters write them, and as they should not."""

from __future__ import annotations

import threading

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skl2onnx import convert_sklearn, to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from everloop.core.errors import ArtifactCorrupt, InvalidInput, ModelFailed, NotSupported
from everloop.core.schema import Schema, Target
from everloop.runtime.artifact import Trust, load_session, read_model_file
from everloop.stores.ports import Manifest

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
NAMES = np.array(["setosa", "versicolor", "virginica"])


def opened(tmp_path, model):
    path = tmp_path / "model.bin"  # the name says nothing: content decides
    path.write_bytes(model.SerializeToString())
    manifest, payload = read_model_file(path, trust=Trust())
    assert payload == path.read_bytes()
    return manifest, load_session(manifest, payload, trust=Trust())


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("labels", [Y, NAMES[Y], Y == 0], ids=["integers", "texts", "two"])
def test_classifier(tmp_path, zipmap, labels):
    model = LogisticRegression(max_iter=500).fit(X, labels.astype(int) if labels.dtype == bool else labels)
    manifest, session = opened(tmp_path, to_onnx(model, X[:1], options={"zipmap": zipmap}))
    assert manifest.task == "classification"
    assert session.classes == model.classes_.tolist()
    assert session.target.kind == ("text" if labels is not Y and labels.dtype != bool else "integer")
    assert session.dtype is np.float32
    answers = session.run(X).tolist()
    assert answers == model.predict(X).tolist()
    assert type(answers[0]) in (int, str)
    np.testing.assert_allclose(session.scores(X), model.predict_proba(X), atol=1e-5)


def test_classes_of_models_whose_nodes_do_not_tell_them(tmp_path):
    manifest, session = opened(tmp_path, to_onnx(GaussianNB().fit(X, Y), X[:1]))
    assert manifest.classes == [0, 1, 2]
    assert session.scores(X[:5]).shape == (5, 3)
    manifest, session = opened(tmp_path, to_onnx(GaussianNB().fit(X, Y), X[:1], options={"zipmap": False}))
    assert session.run(X[:2]).tolist() == [0, 0]
    assert manifest.target.kind == "integer"


def test_boosting_keeps_its_labels(tmp_path):
    model = GradientBoostingClassifier(n_estimators=5).fit(X, NAMES[Y])
    _, session = opened(tmp_path, to_onnx(model, X[:1]))
    assert session.classes == NAMES.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_regressor(tmp_path, dtype):
    A, b = load_diabetes(return_X_y=True)
    A = A.astype(dtype)
    models = [LinearRegression(), RandomForestRegressor(5, random_state=0)]
    for model in models if dtype is np.float32 else models[:1]:  # the converter makes no forest of doubles
        model.fit(A, b)
        manifest, session = opened(tmp_path, to_onnx(model, A[:1]))
        assert manifest.task == "regression"
        assert session.classes is None
        assert session.dtype is dtype
        answers = session.run(A)
        assert answers.shape == (len(A),)
        assert answers.dtype == np.float64
        np.testing.assert_allclose(answers, model.predict(A), rtol=1e-4)
        assert session.scores(A) is None


def test_any_batch_size_and_none(tmp_path):
    _, session = opened(tmp_path, to_onnx(LogisticRegression(max_iter=500).fit(X, Y), X[:1]))
    for size in (1, 2, 7, 150):
        assert len(session.run(X[:size])) == size


def test_columns_as_inputs(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"age": X[:, 0], "rooms": (X[:, 1] > 3).astype(np.int64), "city": NAMES[Y]})
    columns = ColumnTransformer([("city", OneHotEncoder(handle_unknown="ignore"), ["city"])], remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(frame, Y)
    kinds = [
        ("age", FloatTensorType([None, 1])),
        ("rooms", Int64TensorType([None, 1])),
        ("city", StringTensorType([None, 1])),
    ]
    manifest, session = opened(tmp_path, convert_sklearn(model, initial_types=kinds))
    assert manifest.schema.named
    assert [(f.name, f.kind) for f in manifest.schema.fields] == [
        ("age", "number"),
        ("rooms", "number"),
        ("city", "text"),
    ]
    rows = manifest.schema.rows(frame.to_dict("records"))
    assert session.run(manifest.schema.matrix(rows)).tolist() == model.predict(frame).tolist()
    with pytest.raises(InvalidInput, match="rooms: the model takes whole numbers here"):
        session.run(manifest.schema.matrix([[1.0, 0.5, "setosa"]]))


def graph(inputs, outputs, nodes, initializers=()):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        list(initializers),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


F = TensorProto.FLOAT


def test_scores_only(tmp_path):
    model = graph([("x", F, [None, 3])], [("p", F, [None, 3])], [helper.make_node("Softmax", ["x"], ["p"])])
    manifest, session = opened(tmp_path, model)
    assert (manifest.task, manifest.classes) == ("classification", [0, 1, 2])
    assert session.run(np.eye(3, dtype=np.float32)).tolist() == [0, 1, 2]
    assert session.scores(np.eye(3, dtype=np.float32)).argmax(axis=1).tolist() == [0, 1, 2]


def test_images_are_rows_in_disguise(tmp_path):
    model = graph(
        [("x", F, [None, 1, 2, 3])],
        [("y", F, [None, 1])],
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("ReduceSum", ["flat", "axes"], ["y"], keepdims=1),
        ],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    manifest, session = opened(tmp_path, model)
    assert len(manifest.schema.fields) == 6
    assert session.run(np.arange(12.0).reshape(2, 6)).tolist() == [15.0, 51.0]


def test_a_fixed_batch_of_one_goes_row_by_row(tmp_path):
    model = graph([("x", F, [1, 3])], [("y", F, [1, 3])], [helper.make_node("Softmax", ["x"], ["y"])])
    _, session = opened(tmp_path, model)
    assert session.run(np.eye(3, dtype=np.float32)).tolist() == [0, 1, 2]
    assert session.scores(np.eye(3)).shape == (3, 3)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            graph([("x", F, [8, 3])], [("y", F, [8, 3])], [helper.make_node("Softmax", ["x"], ["y"])]),
            "batch is fixed at 8.*variable",
        ),
        (
            graph([("x", F, [None, None])], [("y", F, [None, None])], [helper.make_node("Relu", ["x"], ["y"])]),
            "fixed number of features",
        ),
        (graph([("x", F, [])], [("y", F, [])], [helper.make_node("Relu", ["x"], ["y"])]), "one row an example"),
        (
            graph([("x", F, [None, 2, 3])], [("y", F, [None, 2, 3])], [helper.make_node("Relu", ["x"], ["y"])]),
            r"no output .* it has y: tensor\(float\) \(\?, 2, 3\)",
        ),
    ],
)
def test_models_that_no_row_can_fill_are_asked_by_tensors(tmp_path, model, told):
    manifest, session = opened(tmp_path, model)
    assert (manifest.task, manifest.schema.fields) == ("tensors", ())
    with pytest.raises(NotSupported, match=told):
        session.schema.row([1.0])


def test_what_is_no_tensor_is_refused(tmp_path):
    complex64 = [("x", TensorProto.COMPLEX64, [None, 1])], [("y", TensorProto.COMPLEX64, [None, 1])]
    with pytest.raises((NotSupported, ArtifactCorrupt), match=r"tensor\(complex64\)"):
        opened(tmp_path, graph(*complex64, [helper.make_node("Identity", ["x"], ["y"])]))


def test_damage(tmp_path):
    payload = to_onnx(LinearRegression().fit(X, Y), X[:1]).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(payload[: len(payload) // 2])
    with pytest.raises(ArtifactCorrupt, match=r"m\.onnx.*ONNX Runtime cannot load"):
        read_model_file(path, trust=Trust())


def test_it_writes_nothing_to_the_terminal(tmp_path, capfd):
    _, session = opened(tmp_path, to_onnx(LinearRegression().fit(X, Y), X[:1]))
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(X[:, :2])
    assert capfd.readouterr() == ("", "")


def test_it_answers_several_threads_and_closes_twice(tmp_path):
    model = LogisticRegression(max_iter=500).fit(X, Y)
    _, session = opened(tmp_path, to_onnx(model, X[:1]))
    expected, wrong = model.predict(X).tolist(), []

    def ask(start):
        for size in range(1, 40):
            if session.run(X[start : start + size]).tolist() != expected[start : start + size]:
                wrong.append(start)

    threads = [threading.Thread(target=ask, args=(i * 20,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert wrong == []
    session.close()
    session.close()
    with pytest.raises(ModelFailed, match="closed"):
        session.run(X)


def test_labels_are_read_from_the_wire():
    from everloop.runtime.protobuf import class_labels

    node = helper.make_node("Whatever", ["x"], ["y"], classlabels_ints=[-3, 0, 1 << 40])
    model = graph([("x", F, [None, 1])], [("y", F, [None, 1])], [node])
    payload = model.SerializeToString()
    assert class_labels(payload) == [-3, 0, 1 << 40]
    for cut in range(len(payload)):
        class_labels(payload[:cut])  # damage ends in None or in what was read, never in another error
    assert class_labels(onnx.ModelProto().SerializeToString()) is None


def stored_elsewhere(location, where):
    tensor = TensorProto(name="w", data_type=F, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    ends = ([("x", F, [None, 4])], [("y", F, [None, 4])])
    if where == "initializer":
        return graph(*ends, [add], [tensor])
    if where == "constant":
        return graph(*ends, [helper.make_node("Constant", [], ["w"], value=tensor), add])
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["z"])],
        "then",
        [],
        [helper.make_tensor_value_info("z", F, None)],
        [tensor],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "else", [], [helper.make_tensor_value_info("z", F, None)]
    )
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)
    return graph(*ends, [branch], [condition])


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "*/_ORT_MEM_ADDR_/*"])
def test_a_file_that_names_another_reads_nothing_of_this_machine(tmp_path, monkeypatch, where, location):
    (tmp_path / "inner").mkdir()
    for folder in (tmp_path, tmp_path / "inner"):
        (folder / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path / "inner")
    payload = stored_elsewhere(location, where).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(payload)
    with pytest.raises(NotSupported, match="keeps its weights in another file"):
        read_model_file(tmp_path / "model.onnx", trust=Trust())
    for level in ("none", "all"):
        manifest = Manifest("onnx", "tensors", Schema(()), Target("tensors"), options={"graph": level})
        with pytest.raises(NotSupported, match="keeps its weights in another file"):
            load_session(manifest, payload, trust=Trust())


def test_a_feature_may_be_called_location(tmp_path):
    model = graph([("location", F, [None, 1])], [("y", F, [None, 1])], [helper.make_node("Neg", ["location"], ["y"])])
    _, session = opened(tmp_path, model)
    assert session.run(np.array([[2.0]])).tolist() == [-2.0]


@pytest.mark.parametrize("options", [{"graph": "most"}, {"graph": []}, {"threads": 0}])
def test_options_that_cannot_be(tmp_path, options):
    manifest, session = opened(tmp_path, to_onnx(LogisticRegression(max_iter=500).fit(X, Y), X[:1]))
    session.close()
    payload = (tmp_path / "model.bin").read_bytes()
    with pytest.raises(ArtifactCorrupt):
        load_session(msgspec.structs.replace(manifest, options=options), payload, trust=Trust())
