"""Compiled estimators answer as the estimators do: trees to the last bit, linear models to the last digits."""

from __future__ import annotations

import logging
import warnings

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.linear_model import HuberRegressor, LinearRegression, LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PolynomialFeatures, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC, LinearSVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from everloop.core.errors import NotSupported
from everloop.core.schema import Field, Schema
from everloop.optimization.compiling import compile_artifact
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.compiled import as_trained, compile_estimator
from everloop.runtime.linear_folding import fold_linear
from everloop.runtime.sklearn import SklearnSession, dump_estimator, manifest_of
from everloop.runtime.tree_reading import read_trees

TRUST = Trust()
rng = np.random.default_rng(6)
X = (rng.normal(size=(300, 6)) * [1, 10, 0.1, 3, 1, 40] + [0, 5, -1, 20, 0, -90]).round(2)
Z = (X - X.mean(axis=0)) / X.std(axis=0)
VALUE = Z[:, 0] * 2 + Z[:, 1] * Z[:, 2]
TWO = np.where(VALUE > 0, "yes", "no")
THREE = np.digitize(VALUE, [-1, 1]) * 5
ASKED = (rng.normal(size=(700, 6)) * X.std(axis=0) + X.mean(axis=0)).round(2)
HOLES = np.where(rng.random(X.shape) < 0.1, np.nan, X)
ASKED_HOLES = np.where(rng.random(ASKED.shape) < 0.1, np.nan, ASKED)

LINEAR = [
    (LogisticRegression(max_iter=2000), TWO),
    (make_pipeline(StandardScaler(), LogisticRegression()), THREE),
    (make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)), THREE),
    (make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)), TWO),
    (make_pipeline(MinMaxScaler(), LinearSVC()), TWO),
    (make_pipeline(RobustScaler(), SVC(kernel="linear")), TWO),
    (RidgeClassifier(), THREE),
    (LinearDiscriminantAnalysis(), THREE),
    (LinearRegression(), VALUE),
    (make_pipeline(StandardScaler(), PCA(3, whiten=True), LinearRegression()), VALUE),
    (make_pipeline(MaxAbsScaler(), VarianceThreshold(0.001), HuberRegressor()), VALUE),
    (make_pipeline(StandardScaler(), "passthrough", LinearSVR()), VALUE),
]
TREES = [
    (DecisionTreeClassifier(), THREE),
    (DecisionTreeRegressor(max_depth=5), VALUE),
    (RandomForestClassifier(7, max_depth=5, random_state=0), TWO),
    (RandomForestRegressor(5, max_depth=5, random_state=0), VALUE),
    (ExtraTreesClassifier(5, max_depth=4, random_state=0), THREE),
    (GradientBoostingClassifier(n_estimators=15), TWO),
    (GradientBoostingClassifier(n_estimators=6), THREE),
    (GradientBoostingRegressor(n_estimators=15, init="zero"), VALUE),
    (HistGradientBoostingClassifier(max_iter=8), TWO),
    (HistGradientBoostingClassifier(max_iter=4), THREE),
    (HistGradientBoostingRegressor(max_iter=8, loss="poisson"), np.abs(VALUE)),
    (make_pipeline(StandardScaler(), MinMaxScaler(), GradientBoostingClassifier(n_estimators=8)), TWO),
    (make_pipeline(VarianceThreshold(0.1), RobustScaler(), HistGradientBoostingRegressor(max_iter=4)), VALUE),
]
GAPS = [
    (make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()), TWO),
    (make_pipeline(StandardScaler(), SimpleImputer(strategy="median"), LogisticRegression()), THREE),
    (make_pipeline(SimpleImputer(), StandardScaler(), GradientBoostingClassifier(n_estimators=5)), TWO),
    (HistGradientBoostingClassifier(max_iter=5), TWO),
    (RandomForestClassifier(4, max_depth=4, random_state=0), THREE),
    (DecisionTreeRegressor(max_depth=4), VALUE),
]


def name_of(case):
    model = case[0]
    return "-".join(type(part).__name__ for _, part in getattr(model, "steps", [("", model)]))


def fitted(model, rows, labels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(rows, labels)


def both(model, rows, labels):
    """The estimator itself, and what its artifact opens as."""
    fitted(model, rows, labels)
    manifest, payload = manifest_of(model), dump_estimator(model, TRUST)
    itself = load_session(as_trained(manifest), payload, trust=TRUST)
    assert isinstance(itself, SklearnSession)
    return itself, load_session(manifest, payload, trust=TRUST), (manifest, payload)


def in_parts(session, rows):
    """However many at once: each answer is that row's own."""
    return np.concatenate([session.run(rows[:1]), session.run(rows[1:9]), session.run(rows[9:])])


@pytest.mark.parametrize("case", LINEAR, ids=name_of)
def test_linear_models_and_what_stands_before_them(case):
    itself, compiled, artifact = both(case[0], X, case[1])
    assert type(compiled).__name__ == "LinearSession"
    expected, answers = itself.run(ASKED), in_parts(compiled, ASKED)
    if itself.classes is None:
        np.testing.assert_allclose(answers, expected, rtol=1e-9, atol=1e-9)
    else:
        assert answers.tolist() == expected.tolist()
        assert compiled.scored == itself.scored
        if itself.scored:
            np.testing.assert_allclose(compiled.scores(ASKED), itself.scores(ASKED), atol=1e-12)
        else:
            assert compiled.scores(ASKED) is None
    row = compiled.compile_row()
    assert [row(each) for each in ASKED[:50].tolist()] == answers[:50].tolist()
    manifest, payload = compile_artifact(*artifact, trust=TRUST)
    assert manifest.runtime == "linear"
    again = load_session(manifest, payload, trust=TRUST)
    assert again.run(ASKED).tolist() == compiled.run(ASKED).tolist()
    assert compile_artifact(*artifact, trust=TRUST)[1] == payload, "the same model is the same bytes"


@pytest.mark.parametrize("case", TREES, ids=name_of)
def test_trees_answer_to_the_last_bit(case):
    itself, compiled, artifact = both(case[0], X, case[1])
    manifest, payload = compile_artifact(*artifact, trust=TRUST)
    assert manifest.runtime == "tree"
    again = load_session(manifest, payload, trust=TRUST)
    edges = np.concatenate([ASKED, X, np.nextafter(X, -np.inf), np.nextafter(X, np.inf), X.astype(np.float32)])
    expected = itself.run(edges).tolist()
    row = compiled.compile_row()
    assert [row(each) for each in edges.tolist()] == expected
    for session in (compiled, again):
        assert in_parts(session, edges).tolist() == expected
    if itself.classes is not None:
        np.testing.assert_allclose(compiled.scores(edges), itself.scores(edges), rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(again.scores(edges), itself.scores(edges), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("case", GAPS, ids=name_of)
def test_missing_values_go_where_the_estimator_sends_them(case):
    itself, compiled, _ = both(case[0], HOLES, case[1])
    assert not isinstance(compiled, SklearnSession)
    expected = itself.run(ASKED_HOLES).tolist()
    assert in_parts(compiled, ASKED_HOLES).tolist() == expected
    holes = ASKED_HOLES[np.isnan(ASKED_HOLES).any(axis=1)][:20]
    assert [compiled.run(each[None]).tolist() for each in holes] == [itself.run(each[None]).tolist() for each in holes]
    row = compiled.compile_row()
    if itself.classes is None:  # a regression may also say it by no number, and is then asked again
        np.testing.assert_array_equal(np.isnan(_or_nan(row, holes[0].tolist())), True)
    else:
        with pytest.raises(ValueError, match="finite"):
            row(holes[0].tolist())


def _or_nan(row, values):
    try:
        return row(values)
    except ValueError:
        return np.nan


class Derived(LogisticRegression):
    """May predict in another way."""


@pytest.mark.parametrize(
    ("model", "labels", "why"),
    [
        (RandomForestClassifier(60, random_state=0), rng.integers(0, 2, 300), "nodes"),
        (make_pipeline(PolynomialFeatures(2), LinearRegression()), VALUE, "PolynomialFeatures"),
        (make_pipeline(MinMaxScaler(clip=True), LinearRegression()), VALUE, "clips"),
        (make_pipeline(StandardScaler(), PCA(2), DecisionTreeRegressor()), VALUE, "projection"),
        (make_pipeline(StandardScaler(), SVC(kernel="linear")), THREE, "vote"),
        (make_pipeline(StandardScaler(), SGDClassifier(loss="modified_huber")), TWO, "modified_huber"),
        (GradientBoostingClassifier(n_estimators=2, loss="exponential"), TWO, "exponential"),
        (GradientBoostingRegressor(n_estimators=2, init=LinearRegression()), VALUE, "LinearRegression"),
        (HistGradientBoostingClassifier(max_iter=2), np.full(300, "only"), "one class"),
        (Derived(max_iter=2000), TWO, "Derived"),
        (DecisionTreeRegressor(), np.stack([VALUE, VALUE], 1), "several values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_compiled_says_why(model, labels, why):
    fitted(model, X, labels)
    if np.ndim(labels) == 2:
        with pytest.raises(NotSupported, match=why):
            read_trees(model)
        return
    with pytest.raises(NotSupported, match=why):
        compile_estimator(manifest_of(model), model)


def test_features_far_from_zero_keep_their_digits():
    far = X + 1e10
    model = fitted(make_pipeline(StandardScaler(), LinearRegression()), far, VALUE)
    with pytest.raises(NotSupported, match="millionth"):
        compile_estimator(manifest_of(model), model)


@settings(max_examples=25)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(-6, 6), min_size=2, max_size=6),
    st.sampled_from([0.0, 1.0, 100.0]),
    st.booleans(),
    st.sampled_from([PCA, TruncatedSVD]),
    st.booleans(),
    st.sampled_from([StandardScaler(), StandardScaler(with_mean=False), "passthrough"]),
    st.sampled_from([StandardScaler(), "passthrough"]),
)
def test_folding_keeps_the_digits_or_is_refused(seed, scales, away, turned, components, whiten, behind, before):
    random = np.random.default_rng(seed)
    rows = (random.normal(size=(60, len(scales))) + away * random.normal(size=len(scales))) * 10.0 ** np.array(scales)
    if turned:
        rows = rows @ np.linalg.qr(random.normal(size=(len(scales), len(scales))))[0]
    options = {"whiten": whiten} if components is PCA else {}
    step = components(len(scales) - 1, random_state=0, **options)
    model = make_pipeline(before, step, behind, LinearRegression()).fit(rows, random.normal(size=60))
    try:
        folded, _ = fold_linear(model)
    except NotSupported as why:
        assert "digits" in why.message or "finite" in why.message  # noqa: PT017 - either is right
        return
    wanted = model.predict(rows)
    answers = rows @ folded.weights[0] + folded.bias[0]
    np.testing.assert_allclose(answers, wanted, rtol=0, atol=1e-8 * np.abs(wanted - wanted.mean()).max())


def test_a_component_that_is_lost_beside_the_others_is_not_folded():
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    rows = (Z * [1, 1, 1, 1e5, 1e-5, 1e-5]) @ turned
    model = make_pipeline(TruncatedSVD(5, random_state=0), StandardScaler(with_mean=False), LinearRegression())
    with pytest.raises(NotSupported, match="component varies by less than a millionth"):
        fold_linear(model.fit(rows, VALUE))
    assert fold_linear(make_pipeline(TruncatedSVD(5, random_state=0), LinearRegression()).fit(X, VALUE))


def test_weights_beyond_numbers_stay_with_the_estimator():
    model = fitted(LinearRegression(), X, VALUE)
    model.coef_ = model.coef_ * np.inf
    with pytest.raises(NotSupported, match="finite"):
        compile_estimator(manifest_of(model), model)
    trees = fitted(GradientBoostingRegressor(n_estimators=2), X, VALUE)
    trees.learning_rate = np.inf
    with pytest.raises(NotSupported, match="does not hold"):
        compile_estimator(manifest_of(trees), trees)


def test_a_model_without_an_imputer_fills_nothing():
    model = fitted(LinearRegression(), X, VALUE)
    fields = tuple(Field(f"x{i}", nullable=True) for i in range(6))
    with pytest.raises(NotSupported, match="imputer"):
        compile_estimator(msgspec.structs.replace(manifest_of(model), schema=Schema(fields)), model)


def test_an_estimator_of_another_scikit_learn_answers_itself(caplog):
    model = fitted(GradientBoostingClassifier(n_estimators=3), X, TWO)
    manifest, payload = manifest_of(model), dump_estimator(model, TRUST)
    del model.init_
    with pytest.raises(NotSupported, match="not as this scikit-learn fits it"):
        compile_estimator(manifest, model)
    with caplog.at_level(logging.DEBUG):
        other = fitted(make_pipeline(PolynomialFeatures(2), LinearRegression()), X, VALUE)
        session = load_session(manifest_of(other), dump_estimator(other, TRUST), trust=TRUST)
    assert isinstance(session, SklearnSession)
    assert "PolynomialFeatures" in caplog.text
    assert not isinstance(load_session(manifest, payload, trust=TRUST), SklearnSession)


SMALL = fitted(make_pipeline(StandardScaler(), DecisionTreeRegressor(max_depth=6)), X, VALUE)
ROW = read_trees(SMALL)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(-1e30, 1e30, allow_nan=False, width=64), min_size=6, max_size=6))
def test_any_row_takes_the_way_that_scaled_and_rounded_it_would_take(values):
    from everloop.runtime.tree import _Walk

    row = np.array([values])
    assert _Walk(ROW)(row)[0, 0] == SMALL.predict(row)[0]


def boosted():
    import lightgbm
    import xgboost

    number, none, cats = np.digitize(VALUE, [-1, 1]), HOLES, np.abs(HOLES.round())
    small = {"n_estimators": 6, "max_depth": 3}
    quiet = {**small, "verbose": -1, "min_child_samples": 2}
    return [
        (xgboost.XGBClassifier(**small), none, (number > 0).astype(int), 0),
        (xgboost.XGBClassifier(**small), none, number, 0),
        (xgboost.XGBRegressor(**small), none, VALUE, 1e-5),
        (xgboost.XGBRegressor(**small, objective="count:poisson"), none, np.abs(VALUE), 1e-5),
        (xgboost.XGBRFRegressor(**small), none, VALUE, 1e-5),
        (lightgbm.LGBMClassifier(**quiet), none, TWO, 0),
        (lightgbm.LGBMClassifier(**quiet), X, number, 0),
        (lightgbm.LGBMRegressor(**quiet), X, VALUE, 0),
        (lightgbm.LGBMRegressor(**quiet, boosting_type="rf", subsample=0.5, subsample_freq=1), none, VALUE, 0),
        (lightgbm.LGBMRegressor(**quiet, objective="gamma"), none, np.abs(VALUE) + 0.1, 1e-15),
        (lightgbm.LGBMRegressor(**quiet, zero_as_missing=True), cats, VALUE, "zeros"),
        (xgboost.XGBRegressor(**small, booster="gblinear"), X, VALUE, "linear"),
        (xgboost.XGBRegressor(**small, booster="dart"), X, VALUE, "dart"),
        (xgboost.XGBRegressor(**small, objective="reg:logistic"), X, VALUE > 0, "reg:logistic"),
        (lightgbm.LGBMRegressor(**quiet, reg_sqrt=True), X, np.abs(VALUE), "sqrt"),
    ]


@pytest.mark.parametrize("place", range(15))
def test_small_models_of_xgboost_and_lightgbm(place):
    from everloop.runtime.packing import pack

    model, rows, labels, expected = boosted()[place]
    artifact = pack(fitted(model, rows, labels), trust=TRUST)
    if isinstance(expected, str):
        with pytest.raises(NotSupported, match=expected):
            compile_artifact(*artifact, trust=TRUST)
        return
    manifest, payload = compile_artifact(*artifact, trust=TRUST)
    assert manifest.runtime == "tree"
    itself, compiled = load_session(*artifact, trust=TRUST), load_session(manifest, payload, trust=TRUST)
    asked = np.concatenate([ASKED_HOLES, ASKED, X, np.zeros((1, 6))])
    before, after = itself.run(asked.astype(itself.dtype)), in_parts(compiled, asked)
    if itself.classes is None:
        np.testing.assert_allclose(after, before, rtol=expected, atol=expected)
    else:
        assert after.tolist() == before.tolist()
        np.testing.assert_allclose(compiled.scores(asked), itself.scores(asked.astype(itself.dtype)), atol=1e-6)
    row = compiled.compile_row()
    assert [row(each) for each in ASKED[:20].tolist()] == compiled.run(ASKED[:20]).tolist()
