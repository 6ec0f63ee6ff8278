"""Estimators of boosted trees learn, and are kept as their class, their parameters and their library's own file."""

from __future__ import annotations

from typing import Any

import catboost
import lightgbm
import numpy as np
import pytest
import xgboost

from everloop.core.errors import ArtifactCorrupt, FitFailed, ModelUntrained, NotSupported, Untrusted
from everloop.core.schema import Field, Schema, Target
from everloop.learning.learners.boosted import BoostedLearner, load_template
from everloop.learning.learners.make import already_fitted, describe, from_record, make_learner
from everloop.runtime.artifact import Trust
from everloop.testing import check_learner

SAFE = Trust()
RNG = np.random.default_rng(2)
X = RNG.normal(size=(120, 2))
LABELS = np.where(X[:, 0] > 0, "yes", "no").tolist()
TEXT = Target("classification", "text")
MADE: dict[str, Any] = {
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=5, n_jobs=1),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1),
    "catboost": lambda: catboost.CatBoostClassifier(
        iterations=5, verbose=0, thread_count=1, allow_writing_files=False, random_seed=1
    ),
}


@pytest.mark.parametrize("library", ["lightgbm", "catboost"])
def test_the_contract(library: str) -> None:
    check_learner(lambda: BoostedLearner(MADE[library](), trust=SAFE), trust=SAFE)


@pytest.mark.parametrize("library", MADE)
def test_it_learns_and_is_found_again_without_a_pickle(library: str) -> None:
    estimator = MADE[library]()
    assert not already_fitted(estimator)
    kind, parameters, template = describe(make_learner(estimator, trust=SAFE))
    learner = from_record(kind, parameters, template, trust=SAFE)
    assert isinstance(learner, BoostedLearner)
    assert describe(learner) == (kind, parameters, template)
    with pytest.raises(ModelUntrained):
        learner.freeze()
    learner.fit(Schema.of_names(["a b", "c"]), TEXT, X.tolist(), LABELS)
    assert np.mean([p == y for p, y in zip(learner.predict(X.tolist()), LABELS, strict=True)]) > 0.95
    manifest, _ = learner.freeze()
    assert (manifest.runtime, manifest.classes, manifest.schema.names) == (library, ["no", "yes"], ("a b", "c"))
    again = learner.clone()
    assert not again.fitted
    again.restore(learner.dump())
    assert again.predict(X[:9].tolist()) == learner.predict(X[:9].tolist())
    again.restore(again.clone().dump())
    assert not again.fitted


@pytest.mark.parametrize("library", MADE)
def test_text_is_a_category(library: str) -> None:
    learner = make_learner(MADE[library](), trust=SAFE)
    schema = Schema((Field("city", "text"), Field("x", "number", nullable=True)), named=True)
    rows = [[["rome", "oslo"][i % 2], None if i % 7 == 0 else float(x)] for i, x in enumerate(X[:, 0])]
    learner.fit(schema, TEXT, rows, [row[0] for row in rows])
    assert learner.predict(rows) == [row[0] for row in rows]


def test_an_estimator_that_is_fitted_answers_at_once() -> None:
    estimator = MADE["lightgbm"]().fit(X, LABELS)
    assert already_fitted(estimator)
    learner = make_learner(estimator, trust=SAFE)
    assert learner.predict(X[:5].tolist()) == estimator.predict(X[:5]).tolist()


def test_what_it_refuses() -> None:
    learner = make_learner(MADE["lightgbm"](), trust=SAFE)
    with pytest.raises(FitFailed, match="for classification"):
        learner.fit(Schema.unnamed(2), Target("regression"), X.tolist(), [1.0] * len(X))
    with pytest.raises(FitFailed, match="no examples"):
        learner.fit(Schema.unnamed(2), TEXT, [], [])
    with pytest.raises(FitFailed, match=r"LGBMRegressor failed"):
        make_learner(lightgbm.LGBMRegressor(num_leaves=0, verbose=-1), trust=SAFE).fit(
            Schema.unnamed(2), Target("regression"), X.tolist(), X[:, 0].tolist()
        )
    with pytest.raises(NotSupported, match="partial_fit"):
        learner.learn([[1.0, 2.0]], ["yes"])
    with pytest.raises(NotSupported, match="XGBRanker"):
        make_learner(xgboost.XGBRanker(), trust=SAFE)


def own_objective(labels: Any, outputs: Any) -> Any:
    return outputs - labels, np.ones_like(labels)


def test_a_parameter_that_only_a_pickle_holds() -> None:
    estimator = lightgbm.LGBMRegressor(objective=own_objective, verbose=-1)
    with pytest.raises(Untrusted, match="trust-pickle"):
        describe(make_learner(estimator, trust=SAFE))
    trusting = Trust(pickle=True)
    kind, parameters, template = describe(make_learner(estimator, trust=trusting))
    assert isinstance(from_record(kind, parameters, template, trust=trusting), BoostedLearner)


def test_a_forged_template() -> None:
    assert load_template(b"PK", SAFE) is None
    with pytest.raises(NotSupported, match="known are"):
        load_template(b'{"type":"boosted","estimator":"os.system","parameters":"{}"}', SAFE)
    for bad in (
        b'{"type":"boosted"',
        b'{"type":"boosted","estimator":"xgboost.XGBRegressor","parameters":"["}',
        b'{"type":"boosted","estimator":"xgboost.XGBRegressor","parameters":"[1]"}',
    ):
        with pytest.raises(ArtifactCorrupt, match="template"):
            load_template(bad, SAFE)
