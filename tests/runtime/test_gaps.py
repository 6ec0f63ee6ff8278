"""In which columns a fitted estimator takes missing values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.inputs import schema_of
from everloop.runtime.packing import pack

X = np.random.default_rng(0).normal(size=(80, 3))
Y = (X[:, 0] > 0).astype(int)
CODES = np.c_[X[:, :2], np.arange(80) % 3]
"""Numbers, and a column of three categories."""
GAPS = CODES.copy()
GAPS[::7] = np.nan


def columns(*parts):
    return ColumnTransformer([(f"{i}", part, where) for i, (part, where) in enumerate(parts)])


LEARN_GAPS = [
    HistGradientBoostingClassifier(max_iter=2),
    DecisionTreeClassifier(),
    make_pipeline(SimpleImputer(), LogisticRegression()),
    make_pipeline("passthrough", StandardScaler(), KNNImputer(), PCA(2), LogisticRegression()),
    make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=2)),
    make_pipeline(FeatureUnion([("a", SimpleImputer()), ("b", MinMaxScaler())]), DecisionTreeClassifier()),
    make_pipeline(columns((SimpleImputer(), slice(0, 2)), ("drop", [2])), LogisticRegression()),
    make_pipeline(columns((SimpleImputer(), [0, 1]), (StandardScaler(), [1, 2])), DecisionTreeClassifier()),
    make_pipeline(columns((make_pipeline(StandardScaler(), SimpleImputer()), [1, 2])), LogisticRegression()),
    make_pipeline(columns((OneHotEncoder(), [2]), (SimpleImputer(), [0, 1])), LogisticRegression()),
    make_pipeline(columns((OneHotEncoder(handle_unknown="ignore"), [2])), LogisticRegression()),
    make_pipeline(columns((OrdinalEncoder(), [2]), ("passthrough", [0])), DecisionTreeClassifier()),
    GridSearchCV(make_pipeline(SimpleImputer(), LogisticRegression()), {"logisticregression__C": [1.0]}, cv=2),
]
LEARN_WHOLE_ROWS = [
    LogisticRegression(),
    make_pipeline("passthrough", LogisticRegression()),
    make_pipeline(StandardScaler(), LogisticRegression()),
    make_pipeline(PCA(2), HistGradientBoostingClassifier(max_iter=2)),
    make_pipeline(FeatureUnion([("a", StandardScaler()), ("b", PCA(1))]), DecisionTreeClassifier()),
    make_pipeline(columns((SimpleImputer(), [1]), (StandardScaler(), [0, 2])), LogisticRegression()),
    make_pipeline(columns((SimpleImputer(), [0, 1]), ("passthrough", [1, 2])), LogisticRegression()),
]


@pytest.mark.parametrize("model", [*LEARN_GAPS, *LEARN_WHOLE_ROWS], ids=str)
def test_a_column_takes_gaps_if_the_estimator_does(model):
    check(model.fit(CODES, Y))


@pytest.mark.parametrize("model", LEARN_GAPS, ids=str)
def test_a_column_takes_gaps_if_the_estimator_that_has_learned_them_does(model):
    check(model.fit(GAPS, Y))


@pytest.mark.parametrize("model", LEARN_WHOLE_ROWS, ids=str)
def test_the_others_learn_from_no_gaps(model):
    with pytest.raises(ValueError, match="NaN"):
        model.fit(GAPS, Y)


def check(model):
    for i, field in enumerate(schema_of(model).fields):
        asked = CODES[:4].copy()
        asked[0, i] = np.nan
        try:
            model.predict(asked)
            takes = True
        except ValueError:
            takes = False
        assert field.nullable is takes, field


def test_text_categories_and_imputed_numbers_in_one_pipeline():
    frame = pd.DataFrame({"t": ["good one", "bad one"] * 40, "c": (["a", "b", None] * 27)[:80], "n": X[:, 0]})
    frame.loc[::9, "n"] = np.nan
    steps = columns((TfidfVectorizer(), "t"), (OneHotEncoder(), ["c"]), (SimpleImputer(), ["n"]))
    model = make_pipeline(steps, LogisticRegression()).fit(frame, Y)
    manifest, payload = pack(model, trust=Trust())
    assert [(f.name, f.kind, f.nullable) for f in manifest.schema.fields] == [
        ("t", "text", False),
        ("c", "text", True),
        ("n", "number", True),
    ]
    session = load_session(manifest, payload, trust=Trust())
    rows = manifest.schema.rows([{"t": "good one", "c": None, "n": None}, {"t": "bad one", "c": "a"}])
    wanted = model.predict(pd.DataFrame({"t": ["good one", "bad one"], "c": [None, "a"], "n": [np.nan, np.nan]}))
    assert session.run(manifest.schema.matrix(rows, session.dtype)).tolist() == wanted.tolist()


def test_a_first_step_that_does_nothing_hides_no_names():
    model = make_pipeline("passthrough", LogisticRegression()).fit(pd.DataFrame(X, columns=["a", "b", "c"]), Y)
    manifest, payload = pack(model, trust=Trust())
    assert (manifest.schema.names, manifest.schema.named) == (("a", "b", "c"), True)
    session = load_session(manifest, payload, trust=Trust())
    assert session.run(X[:5]).tolist() == model.predict(pd.DataFrame(X[:5], columns=["a", "b", "c"])).tolist()
