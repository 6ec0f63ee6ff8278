"""scikit-learn to ONNX: the same answers, or a reason."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from everloop.core.errors import NotSupported
from everloop.optimization.graphs import LEVELS, at_level
from everloop.optimization.onnx import convert_artifact
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.packing import pack

TRUST = Trust()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6))
SCORE = X[:, 0] + X[:, 1] * X[:, 2]
KINDS = np.digitize(SCORE, [-0.5, 0.5])
NAMES = np.array(["low", "mid", "high"])[KINDS]


def converted(model, rows=X):
    manifest, payload = pack(model, trust=TRUST)
    listed = [list(row) for row in (rows.tolist() if isinstance(rows, np.ndarray) else rows)]
    made, graph = convert_artifact(manifest, payload, trust=TRUST, rows=listed)
    assert (made.runtime, made.schema, made.target, made.classes) == (
        "onnx",
        manifest.schema,
        manifest.target,
        manifest.classes,
    )
    return load_session(manifest, payload, trust=TRUST), load_session(made, graph, trust=TRUST), (made, graph)


def same(original, session, rows):
    X, Z = (each.schema.matrix(rows, each.dtype if each.schema.numeric else None) for each in (original, session))
    a, b = original.run(X), session.run(Z)
    if original.target.task == "regression":
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)
        return
    assert a.tolist() == b.tolist()
    assert [type(v) for v in a.tolist()] == [type(v) for v in b.tolist()]
    p, q = original.scores(X), session.scores(Z)
    assert (p is None) == (q is None)
    if p is not None:
        np.testing.assert_allclose(q, p, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (LogisticRegression(), KINDS),
        (LogisticRegression(), SCORE > 0),
        (LogisticRegression(), (SCORE > 0).astype(float)),
        (make_pipeline(StandardScaler(), SGDClassifier(random_state=0)), NAMES),
        (LinearSVC(random_state=0), KINDS),
        (SVC(), KINDS),
        (RandomForestClassifier(10, random_state=0), SCORE > 0),
        (ExtraTreesClassifier(5, random_state=0), NAMES),
        (GradientBoostingClassifier(n_estimators=5), KINDS),
        (HistGradientBoostingClassifier(max_iter=5), NAMES),
        (
            VotingClassifier(
                [("a", LogisticRegression()), ("b", RandomForestClassifier(3, random_state=0))], voting="soft"
            ),
            KINDS,
        ),
        (Ridge(), SCORE),
        (RandomForestRegressor(5, random_state=0), SCORE),
        (GradientBoostingRegressor(n_estimators=5), SCORE),
        (HistGradientBoostingRegressor(max_iter=5), SCORE),
        (
            make_pipeline(
                StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=500, tol=0.01, random_state=0)
            ),
            SCORE,
        ),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else str(value.dtype),
)
def test_answers_as_the_estimator_does(model, y):
    original, session, _ = converted(model.fit(X, y))
    same(original, session, X.tolist())
    same(original, session, X[:1].tolist())


def frame():
    cities = np.array(["Ulm", "Bonn", "Köln", None], dtype=object)[RNG.integers(0, 4, 300)]
    return pd.DataFrame({"age": X[:, 0] * 10, "rooms": KINDS.astype(float), "city": cities, "note": NAMES})


def test_a_pipeline_of_numbers_and_categories_with_gaps():
    data = frame()
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "rooms"]),
            ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]),
            ("note", OrdinalEncoder(), ["note"]),
        ]
    )
    rows = data.astype(object).where(data.notna(), None).to_numpy().tolist()
    rows[0][0] = None
    original, session, _ = converted(make_pipeline(columns, LogisticRegression()).fit(data, KINDS), rows)
    same(original, session, [*rows, [1.0, 2.0, "Mars", "low"], [1.0, 2.0, None, "mid"]])


TEXTS = [
    "Good service, I am happy",
    "ÄRGER über die straße",
    "not good, not happy",
    "",
    "never again don't go",
    "überaus happy Straße",
]


@pytest.mark.parametrize(
    "vectoriser", [TfidfVectorizer(), CountVectorizer(ngram_range=(1, 2)), TfidfVectorizer(stop_words="english")]
)
def test_text_is_split_as_scikit_learn_splits_it(vectoriser):
    texts = TEXTS * 20
    model = make_pipeline(vectoriser, LogisticRegression()).fit(texts, [1, 0, 0, 0, 0, 1] * 20)
    original, session, _ = converted(model, [[text] for text in TEXTS])
    unseen = ["I am good", "a b straße über", "HAPPY\nhappy", "", "x_1 ½ 日本語", "good-happy e-mail"]
    same(original, session, [[text] for text in unseen])


def test_doubles_where_floats_are_too_coarse():
    moments = 1.7e9 + np.arange(300.0).reshape(-1, 1)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(moments, moments[:, 0] > 1.7e9 + 150)
    original, session, _ = converted(model, moments)
    assert session.dtype is np.float64
    same(original, session, moments.tolist())


@pytest.mark.parametrize(
    ("model", "y", "why"),
    [
        (HistGradientBoostingRegressor(max_iter=3, categorical_features=[5]), SCORE, "splits categories into sets"),
        (HistGradientBoostingRegressor(max_iter=3, loss="poisson"), np.exp(SCORE), "exponential"),
        (TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), np.abs(SCORE), "skl2onnx"),
    ],
    ids=["categories", "poisson", "no converter"],
)
def test_a_reason_where_it_cannot(model, y, why):
    rows = X.copy()
    rows[:, 5] = KINDS
    manifest, payload = pack(model.fit(rows, y), trust=Trust(pickle=True))
    with pytest.raises(NotSupported, match=why):
        convert_artifact(manifest, payload, trust=Trust(pickle=True), rows=rows.tolist())


def test_vectorisers_that_onnx_cannot_follow():
    for vectoriser in (
        TfidfVectorizer(sublinear_tf=True),
        CountVectorizer(analyzer="char"),
        CountVectorizer(strip_accents="unicode"),
        CountVectorizer(token_pattern=r"\S+"),
        CountVectorizer(ngram_range=(1, 2), stop_words=["the"]),
    ):
        model = make_pipeline(vectoriser, LogisticRegression()).fit(TEXTS, [1, 0, 0, 0, 0, 1])
        manifest, payload = pack(model, trust=TRUST)
        with pytest.raises(NotSupported, match="Vectorizer"):
            convert_artifact(manifest, payload, trust=TRUST, rows=[[text] for text in TEXTS])


def test_a_graph_that_answers_otherwise_is_refused(monkeypatch):
    from everloop.optimization import onnx_sklearn

    manifest, payload = pack(LogisticRegression().fit(X, KINDS), trust=TRUST)
    other = LogisticRegression().fit(-X, KINDS)
    real = onnx_sklearn.graph_of
    monkeypatch.setattr(onnx_sklearn, "graph_of", lambda _estimator, schema, **how: real(other, schema, **how))
    with pytest.raises(NotSupported, match=r"answers otherwise: .* labels are others"):
        convert_artifact(manifest, payload, trust=TRUST, rows=X.tolist())


def test_the_estimator_keeps_what_it_is():
    model = LogisticRegression().fit(X, SCORE > 0)
    converted(model)
    assert model.classes_.dtype == bool


def test_graph_levels():
    model = make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=500, tol=0.1, random_state=0)
    ).fit(X, SCORE)
    original, _, (manifest, graph) = converted(model)
    for level in LEVELS:
        made, rewritten = at_level(manifest, graph, level)
        assert made.options["graph"] == ("all" if level == "all" else "none")
        same(original, load_session(made, rewritten, trust=TRUST), X.tolist())
    with pytest.raises(NotSupported, match="runtime 'sklearn'"):
        at_level(*pack(model, trust=TRUST), "basic")
