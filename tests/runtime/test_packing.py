"""Whatever a person calls a model becomes an artifact that answers as it does."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from everloop.core.errors import InvalidInput, ModelUntrained, NotSupported, Untrusted
from everloop.core.schema import Schema, Target
from everloop.learning.learners.make import make_learner
from everloop.runtime.artifact import Trust, load_session, save_model
from everloop.runtime.packing import pack

X = np.random.default_rng(1).normal(size=(40, 2))
Y = np.where(X[:, 0] > 0, "yes", "no")
SAFE, TRUSTING = Trust(), Trust(pickle=True)


def answers(packed: tuple[Any, bytes], trust: Trust = SAFE) -> list[Any]:
    session = load_session(*packed, trust=trust)
    found: list[Any] = session.run(X.astype(session.dtype)).tolist()
    session.close()
    return found


def test_an_estimator_with_names_for_its_columns() -> None:
    model = LogisticRegression().fit(X, Y)
    packed = pack(model, trust=SAFE, feature_names=["a", "b"])
    assert packed[0].schema.names == ("a", "b")
    assert packed[0].classes == ["no", "yes"]
    assert answers(packed) == model.predict(X).tolist()
    with pytest.raises(InvalidInput, match="feature_names"):
        pack(model, trust=SAFE, feature_names=["a"])


def test_what_only_a_pickle_can_hold_needs_trust() -> None:
    model = make_pipeline(FunctionTransformer(lambda rows: rows), LogisticRegression()).fit(pd.DataFrame(X), Y)
    with pytest.raises(Untrusted):
        pack(model, trust=SAFE)


def test_a_file_its_path_and_its_bytes_are_one(tmp_path: Path) -> None:
    model = LogisticRegression().fit(X, Y)
    path = save_model(model, tmp_path / "m.skops")
    for given in (path, str(path), path.read_bytes(), memoryview(path.read_bytes())):
        assert answers(pack(given, trust=SAFE)) == model.predict(X).tolist()


def test_a_learner_is_frozen() -> None:
    learner = make_learner("logistic", trust=SAFE)
    with pytest.raises(ModelUntrained):
        pack(learner, trust=SAFE)
    learner.fit(Schema.unnamed(2), Target("classification", "text"), X.tolist(), Y.tolist())
    assert answers(pack(learner, trust=SAFE)) == learner.predict(X.tolist())


def test_river_tells_little_of_itself() -> None:
    from river import linear_model, naive_bayes

    binary = linear_model.LogisticRegression()
    many = naive_bayes.GaussianNB()
    with pytest.raises(InvalidInput, match="feature_names"):
        pack(binary, trust=TRUSTING)
    with pytest.raises(InvalidInput, match="classes"):
        pack(many, trust=TRUSTING, feature_names=["a", "b"])
    for (a, b), y in zip(X.tolist(), Y.tolist(), strict=True):
        binary.learn_one({"a": a, "b": b}, y == "yes")
        many.learn_one({"a": a, "b": b}, y)
    assert set(answers(pack(binary, trust=TRUSTING), TRUSTING)) == {False, True}
    named = answers(pack(binary, trust=TRUSTING, classes=["no", "yes"]), TRUSTING)
    assert named == ["yes" if binary.predict_one({"a": a, "b": b}) else "no" for a, b in X.tolist()]
    packed = pack(many, trust=TRUSTING, feature_names=["a", "b"], classes=["no", "yes"])
    assert answers(packed, TRUSTING) == [many.predict_one({"a": a, "b": b}) for a, b in X.tolist()]
    with pytest.raises(InvalidInput, match="two apart"):
        pack(binary, trust=TRUSTING, classes=["only one"])
    with pytest.raises(Untrusted):
        pack(binary, trust=SAFE)


def test_a_linear_river_model_takes_its_features_in_the_order_in_which_it_met_them() -> None:
    from river import linear_model, preprocessing

    scaled = preprocessing.StandardScaler() | linear_model.LinearRegression()
    softmax, encoded = linear_model.SoftmaxRegression(), preprocessing.OneHotEncoder() | linear_model.LinearRegression()
    for (z, a), y in zip(X.tolist(), Y.tolist(), strict=True):
        scaled.learn_one({"z": z, "a": a}, 3 * z - a)
        softmax.learn_one({"z": z, "a": a}, y)
        encoded.learn_one({"city": y}, z)
    manifest, payload = pack(pickle.dumps(scaled), trust=TRUSTING)
    assert manifest.schema.names == ("z", "a")
    assert answers((manifest, payload), TRUSTING) == [scaled.predict_one({"z": z, "a": a}) for z, a in X.tolist()]
    assert pack(softmax, trust=TRUSTING, classes=["no", "yes"])[0].schema.names == ("z", "a")
    with pytest.raises(InvalidInput, match="feature_names"):  # its weights are of what the encoder makes
        pack(encoded, trust=TRUSTING)


@pytest.mark.parametrize("model", [LogisticRegression, 7, [1, 2]])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(NotSupported):
        pack(model, trust=TRUSTING)
