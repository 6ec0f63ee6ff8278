"""Models whose search trees are rebuilt or checked still answer as before."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    GradientBoostingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from everloop.core.errors import ArtifactCorrupt
from everloop.runtime.artifact import Trust
from everloop.runtime.sklearn import dump_estimator, load_estimator
from everloop.runtime.trees import check_trees

X, Y = load_iris(return_X_y=True)


@pytest.mark.parametrize(
    "model",
    [
        KNeighborsClassifier(algorithm="kd_tree"),
        KNeighborsClassifier(algorithm="ball_tree", metric="manhattan"),
        KNeighborsClassifier(algorithm="brute"),
        make_pipeline(StandardScaler(), KNeighborsClassifier(metric="minkowski", p=3)),
        GradientBoostingClassifier(n_estimators=3),
        AdaBoostClassifier(n_estimators=3),
        BaggingClassifier(n_estimators=3, max_features=2),
        StackingClassifier([("t", DecisionTreeClassifier())], LogisticRegression(max_iter=500), cv=2),
        VotingClassifier([("t", DecisionTreeClassifier()), ("k", KNeighborsClassifier())]),
    ],
)
def test_round_trip_without_trust(model):
    model.fit(X, Y)
    again = load_estimator(dump_estimator(model, Trust()), Trust())
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_a_tree_deep_inside_is_found():
    model = StackingClassifier([("b", BaggingClassifier(n_estimators=2))], LogisticRegression(max_iter=500), cv=2).fit(
        X, Y
    )
    check_trees(model)
    inner = model.estimators_[0].estimators_[1].tree_
    state = inner.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"]["left_child"][0] = 10**6
    inner.__setstate__(state)
    with pytest.raises(ArtifactCorrupt, match="point outside"):
        check_trees({"anything": [model]})


def test_a_search_tree_of_another_kind_is_refused():
    model = KNeighborsClassifier(algorithm="kd_tree").fit(X, Y)
    model._fit_method = "ball_tree"
    with pytest.raises(ArtifactCorrupt, match="unexpected kind"):
        check_trees(model)
