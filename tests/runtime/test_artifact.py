"""Model files by content: what can be served, and what is said of the rest."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import zipfile

import joblib
import msgspec
import numpy as np
import pytest
import skops.io
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput, NotSupported, Untrusted
from everloop.runtime.artifact import Trust, library_versions, load_session, read_model_file, save_model

X, Y = load_iris(return_X_y=True)


class OwnClassifier(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


def reopened(model, path, **options):
    saved = save_model(model, path, **options)
    manifest, payload = read_model_file(saved, trust=Trust())
    return manifest, load_session(manifest, payload, trust=Trust())


def test_save_and_read(tmp_path):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    manifest, session = reopened(model, tmp_path / "iris")
    assert (tmp_path / "iris.skops").exists()
    assert (manifest.runtime, manifest.task, manifest.classes, manifest.schema.named) == (
        "sklearn",
        "classification",
        [0, 1, 2],
        False,
    )
    assert len(manifest.schema.fields) == 4
    assert session.run(X).tolist() == model.predict(X).tolist()
    np.testing.assert_allclose(session.scores(X), model.predict_proba(X))
    assert manifest.libraries["scikit-learn"]


@pytest.mark.parametrize("model", [RandomForestClassifier(5), HistGradientBoostingClassifier(max_iter=5)])
def test_trees_need_no_trust(tmp_path, model):
    model.fit(X, Y)
    _, session = reopened(model, tmp_path / "m.skops")
    assert session.run(X).tolist() == model.predict(X).tolist()


def test_names(tmp_path):
    model = LinearRegression().fit(X, Y)
    manifest, session = reopened(model, tmp_path / "m.skops", feature_names=["a", "b", "c", "d"])
    assert manifest.schema.named
    assert manifest.schema.names == ("a", "b", "c", "d")
    assert session.run(X[:2]).shape == (2,)
    assert skops.io.load(tmp_path / "m.skops").predict(X[:1]) == model.predict(X[:1])
    with pytest.raises(InvalidInput, match="expected 4 names, got 2"):
        save_model(model, tmp_path / "n.skops", feature_names=["a", "b"])


def test_columns_of_text(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"city": ["here", "there", "here", "there"] * 10, "rooms": [1, 2, 3, 4] * 10})
    columns = ColumnTransformer([("city", OneHotEncoder(), ["city"]), ("rooms", StandardScaler(), ["rooms"])])
    model = make_pipeline(columns, LinearRegression()).fit(frame, [1.0, 2, 3, 4] * 10)
    manifest, session = reopened(model, tmp_path / "m.skops")
    assert [(f.name, f.kind) for f in manifest.schema.fields] == [("city", "text"), ("rooms", "number")]
    rows = manifest.schema.rows([{"city": "there", "rooms": 2}])
    assert session.run(manifest.schema.matrix(rows, session.dtype)).tolist() == pytest.approx([2.0])


def test_texts(tmp_path):
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        ["good film", "bad film"] * 5, ["pos", "neg"] * 5
    )
    manifest, session = reopened(model, tmp_path / "m.skops")
    assert [(f.name, f.kind) for f in manifest.schema.fields] == [("text", "text")]
    rows = manifest.schema.rows([{"text": "a good one"}, ["bad"]])
    assert session.run(manifest.schema.matrix(rows, session.dtype)).tolist() == ["pos", "neg"]


def test_what_cannot_be_saved(tmp_path):
    for model, error, told in (
        (LinearRegression(), InvalidInput, "not fitted"),
        (KMeans(2, n_init=1).fit(X), NotSupported, "neither"),
        (StandardScaler().fit(X), NotSupported, "cannot predict"),
        ("linear", InvalidInput, "there is no file linear"),
        (3, NotSupported, "a int cannot be registered"),
        (make_pipeline(FunctionTransformer(lambda x: x), LinearRegression()).fit(X, Y), Untrusted, "safe format"),
    ):
        with pytest.raises(error, match=told):
            save_model(model, tmp_path / "m.skops")


def test_unknown_types_are_listed_and_can_be_allowed(tmp_path):
    path = save_model(OwnClassifier().fit(X, Y), tmp_path / "m.skops")
    name = f"{OwnClassifier.__module__}.OwnClassifier"
    with pytest.raises(Untrusted, match=r"m\.skops.*OwnClassifier.*trust_types=\["):
        read_model_file(path, trust=Trust())
    if "-" not in OwnClassifier.__module__:
        manifest, _ = read_model_file(path, trust=Trust(types=(name,)))
        assert manifest.classes == [0, 1, 2]


def test_a_known_wrapper_makes_nothing_inside_it_known(tmp_path):
    model = make_pipeline(FunctionTransformer(functools.partial(os.fspath)), LinearRegression())
    path = tmp_path / "m.skops"
    skops.io.dump(model, path)
    with pytest.raises(Untrusted, match="fspath"):
        read_model_file(path, trust=Trust())


def test_pickles_need_trust(tmp_path):
    model = LogisticRegression(max_iter=500).fit(X, Y)
    (tmp_path / "a.skops").write_bytes(pickle.dumps(model))
    joblib.dump(model, tmp_path / "b.onnx")
    joblib.dump(model, tmp_path / "c.pkl", compress=3)
    for name in ("a.skops", "b.onnx", "c.pkl"):
        with pytest.raises(Untrusted, match=r"save_model.*--trust-pickle"):
            read_model_file(tmp_path / name, trust=Trust())
        manifest, payload = read_model_file(tmp_path / name, trust=Trust(pickle=True))
        with pytest.raises(Untrusted):
            load_session(manifest, payload, trust=Trust())
        session = load_session(manifest, payload, trust=Trust(pickle=True))
        assert session.run(X).tolist() == model.predict(X).tolist()


def _zip(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def _zipped(name):
    buffer = io.BytesIO()
    _zip(buffer, name)
    return buffer.getvalue()


def _folder(path, name):
    path.mkdir()
    (path / name).write_text("{}")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: _zip(p, "archive/data.pkl", "archive/version"), r"PyTorch.*everloop\.save_model"),
        (lambda p: p.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.more"), "PyTorch"),
        (lambda p: _zip(p, "config.json", "model.weights.h5"), "Keras"),
        (lambda p: _zip(p, "a.npy"), "arrays"),
        (lambda p: _zip(p, "readme.txt"), "zip archive"),
        (lambda p: _folder(p, "MLmodel"), "MLflow"),
        (lambda p: _folder(p, "saved_model.pb"), "TensorFlow"),
        (lambda p: _folder(p, "config.json"), "Transformers"),
        (lambda p: _folder(p, "other"), "a folder"),
        (lambda p: p.write_text("a,b\n1,2\n"), "a text file: give an ONNX"),
        (lambda p: p.write_text("ä" * 3000), "a text file"),
        (lambda p: p.write_text("<html>"), "web page"),
        (lambda p: p.write_bytes(b"binf" + b"x" * 40), "XGBoost.*save_model"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + b"x" * 40 + _zipped("schema.json")), "damaged zip"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\nxxxx"), "HDF5"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: p.write_bytes(b"PK\x03\x04 cut"), "damaged zip"),
        (lambda p: p.write_bytes(b"\xde\xad\xbe\xef" * 40), "not known"),
        (lambda p: p.write_bytes((20).to_bytes(8, "little") + b'{"w":{}}' + b" " * 40), "safetensors"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    ],
)
def test_everything_else_is_called_by_its_name(tmp_path, make, told):
    path = tmp_path / "model.onnx"
    make(path)
    with pytest.raises(NotSupported, match=told) as caught:
        read_model_file(path, trust=Trust())
    assert "model.onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("payload", "told"),
    [(json.dumps({"learner": {}}).encode(), "XGBoost"), (b"tree\nversion=v4\n", "LightGBM"), (b"CBM1", "CatBoost")],
)
def test_what_only_begins_like_a_model(tmp_path, payload, told):
    path = tmp_path / "model"
    path.write_bytes(payload)
    with pytest.raises(ArtifactCorrupt, match=told):
        read_model_file(path, trust=Trust())


def test_no_such_file(tmp_path):
    with pytest.raises(InvalidInput, match="there is no file"):
        read_model_file(tmp_path / "none.onnx", trust=Trust())


def test_a_skops_file_cut_or_changed_anywhere_is_an_error_of_ours(tmp_path):
    path = save_model(LinearRegression().fit(X, Y), tmp_path / "m.skops")
    payload = path.read_bytes()
    for i in range(0, len(payload), 211):
        for bad in (payload[:i], payload[:i] + bytes([payload[i] ^ 0x55]) + payload[i + 1 :]):
            path.write_bytes(bad)
            try:
                manifest, same = read_model_file(path, trust=Trust())
                load_session(manifest, same, trust=Trust())
            except EverloopError:
                continue


def _forge(estimator, change):
    tree = estimator.estimators_[0].tree_
    state = tree.__getstate__()
    nodes = state["nodes"].copy()
    change(nodes)
    state["nodes"] = nodes
    tree.__setstate__(state)
    return estimator


@pytest.mark.parametrize("field", ["left_child", "right_child", "feature"])
@pytest.mark.parametrize("value", [10**7, 0, -7])
def test_forged_trees_are_not_used(tmp_path, field, value):
    if field == "feature" and value == 0:
        value = 4

    def change(nodes):
        nodes[field][0] = value

    forest = _forge(RandomForestClassifier(2, random_state=0).fit(X, Y), change)
    path = save_model(forest, tmp_path / "m.skops")
    with pytest.raises(ArtifactCorrupt, match="point outside"):
        read_model_file(path, trust=Trust())


@pytest.mark.parametrize("field", ["left", "right", "feature_idx"])
def test_forged_boosted_trees_are_not_used(tmp_path, field):
    model = HistGradientBoostingClassifier(max_iter=2).fit(X, Y)
    model._predictors[0][0].nodes[field][0] = 10**6
    path = save_model(model, tmp_path / "m.skops")
    with pytest.raises(ArtifactCorrupt, match="point outside"):
        read_model_file(path, trust=Trust())


def test_a_forest_that_lies_about_its_width_is_not_used(tmp_path):
    forest = RandomForestClassifier(2, random_state=0).fit(X, Y)
    forest.n_features_in_ = 1
    path = save_model(forest, tmp_path / "m.skops")
    with pytest.raises(ArtifactCorrupt, match="not a tree over its features"):
        read_model_file(path, trust=Trust())


def test_library_versions():
    assert set(library_versions("numpy", "no-such-thing")) == {"numpy"}


@pytest.mark.parametrize("trust", [Trust(), Trust(True, ("a.B", "c.D"), ("*",), network=True)], ids=str)
def test_trust_goes_to_another_process_as_it_is(trust):
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(trust), type=Trust) == trust
