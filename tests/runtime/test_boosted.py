"""XGBoost, LightGBM and CatBoost models answer from their own files as their estimators do, and a forged file is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost

from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput, NotSupported, Untrusted
from everloop.runtime import catboost_file, lightgbm_file, ubjson, xgboost_file
from everloop.runtime.artifact import Trust, load_session, read_model, save_model
from everloop.runtime.boosted import check_manifest, pack_boosted
from everloop.runtime.packing import pack
from everloop.runtime.session import plain_answers
from everloop.stores.ports import Manifest

SAFE = Trust()
RNG = np.random.default_rng(3)
X = RNG.normal(size=(240, 4))
X[RNG.random(X.shape) < 0.1] = np.nan
SUM = np.nan_to_num(X) @ [1.0, 2.0, -1.0, 0.5]
TWO = (SUM > 0).astype(int)
THREE = np.digitize(SUM, [-1, 1])
FRAME = pd.DataFrame(
    {
        "city": pd.Categorical(RNG.choice(["rome", "oslo", "bern"], 240)),
        "x": RNG.normal(size=240),
        "kind": pd.Categorical(RNG.choice(["3", "5", "9"], 240)),
    }
)
MIXED = ((FRAME["city"] == "rome").to_numpy() ^ (FRAME["x"].to_numpy() > 0)).astype(int)
XGB: dict[str, Any] = {"n_estimators": 6, "max_depth": 3, "n_jobs": 1}
LGB: dict[str, Any] = {"n_estimators": 6, "num_leaves": 7, "n_jobs": 1, "verbose": -1}
CAT: dict[str, Any] = {"iterations": 6, "depth": 3, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
CATEGORIES: dict[str, Any] = {**CAT, "cat_features": ["city", "kind"]}

FITTED = {
    "xgboost two": lambda: xgboost.XGBClassifier(**XGB).fit(X, TWO),
    "xgboost three": lambda: xgboost.XGBClassifier(**XGB).fit(X, THREE),
    "xgboost labels": lambda: xgboost.XGBClassifier(**XGB, objective="multi:softmax").fit(X, THREE),
    "xgboost hinge": lambda: xgboost.XGBClassifier(**XGB, objective="binary:hinge").fit(X, TWO),
    "xgboost value": lambda: xgboost.XGBRegressor(**XGB).fit(X, SUM),
    "xgboost dart": lambda: xgboost.XGBRegressor(**XGB, booster="dart").fit(X, SUM),
    "xgboost count": lambda: xgboost.XGBRegressor(**XGB, objective="count:poisson").fit(X, np.abs(SUM)),
    "xgboost forest": lambda: xgboost.XGBRFClassifier(**XGB).fit(X, THREE),
    "lightgbm two": lambda: lightgbm.LGBMClassifier(**LGB).fit(X, np.where(TWO, "yes=", "no")),
    "lightgbm three": lambda: lightgbm.LGBMClassifier(**LGB).fit(X, THREE + 5),
    "lightgbm one by one": lambda: lightgbm.LGBMClassifier(**LGB, objective="multiclassova").fit(X, THREE),
    "lightgbm value": lambda: lightgbm.LGBMRegressor(**LGB).fit(X, SUM),
    "lightgbm forest": lambda: lightgbm.LGBMRegressor(
        **LGB, boosting_type="rf", bagging_freq=1, bagging_fraction=0.5
    ).fit(X, SUM),
    "catboost two": lambda: catboost.CatBoostClassifier(**CAT).fit(X, np.where(TWO, "yes", "no")),
    "catboost truth": lambda: catboost.CatBoostClassifier(**CAT).fit(X, TWO > 0),
    "catboost three": lambda: catboost.CatBoostClassifier(**CAT, grow_policy="Depthwise").fit(X, THREE),
    "catboost one by one": lambda: catboost.CatBoostClassifier(**CAT, loss_function="MultiClassOneVsAll").fit(X, THREE),
    "catboost value": lambda: catboost.CatBoostRegressor(**CAT, grow_policy="Lossguide").fit(X, SUM),
    "catboost count": lambda: catboost.CatBoostRegressor(**CAT, loss_function="Poisson").fit(X, np.abs(SUM)),
}


def opened(model: Any, **given: Any) -> tuple[Manifest, bytes, Any]:
    manifest, payload = pack(model, trust=SAFE, **given)
    again, same = read_model(payload, "the file", trust=SAFE, field="model")
    assert (again, same) == (manifest, payload)
    return manifest, payload, load_session(manifest, payload, trust=SAFE)


@pytest.mark.parametrize("name", FITTED)
def test_the_file_answers_as_the_estimator(name: str) -> None:
    model = FITTED[name]()
    manifest, _, session = opened(model)
    assert manifest.runtime == name.split(maxsplit=1)[0]
    rows = X.astype(session.dtype)
    answers, expected = session.run(rows), np.asarray(model.predict(X)).ravel()
    if manifest.task == "regression":
        assert answers == pytest.approx(expected, rel=1e-6)
    else:
        assert plain_answers(answers, regression=False) == expected.tolist()
        assert manifest.classes is not None
        assert set(map(type, plain_answers(answers, regression=False))) == {type(manifest.classes[0])}
        if session.scored:
            assert session.scores(rows) == pytest.approx(model.predict_proba(X), abs=1e-6)
    assert session.run(rows[:1]).tolist() == answers[:1].tolist()
    assert session.run(rows[:0]).shape == (0,)
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.run(rows)


@pytest.mark.parametrize(
    "model",
    [
        xgboost.XGBClassifier(**XGB, enable_categorical=True),
        lightgbm.LGBMClassifier(**LGB),
        catboost.CatBoostClassifier(**CATEGORIES),
        catboost.CatBoostClassifier(**CATEGORIES, one_hot_max_size=9),
    ],
    ids=["xgboost", "lightgbm", "catboost", "catboost one-hot"],
)
def test_categories_are_text(model: Any) -> None:
    model.fit(FRAME, MIXED)
    manifest, _, session = opened(model)
    assert [(each.name, each.kind) for each in manifest.schema.fields] == [
        ("city", "text"),
        ("x", "number"),
        ("kind", "text"),
    ]
    rows = manifest.schema.matrix(manifest.schema.rows(FRAME.to_dict("records")))
    assert session.run(rows).tolist() == model.predict(FRAME).tolist()
    assert session.scores(rows) == pytest.approx(model.predict_proba(FRAME), abs=1e-6)
    rows[0, 0] = "paris"
    assert session.run(rows[:1]).tolist() in ([0], [1])
    rows[0, 0] = None
    if manifest.schema.fields[0].nullable:
        assert session.run(rows[:1]).tolist() in ([0], [1])
    session.close()


def test_early_stopping_answers_from_the_best_round() -> None:
    early = xgboost.XGBRegressor(n_estimators=60, learning_rate=1.0, n_jobs=1, early_stopping_rounds=3)
    early.fit(X[:160], SUM[:160], eval_set=[(X[160:], SUM[160:])], verbose=False)
    assert early.best_iteration + 1 < early.get_booster().num_boosted_rounds()
    _, _, session = opened(early)
    assert session.run(X.astype(np.float32)) == pytest.approx(early.predict(X), rel=1e-6)


def test_what_stands_for_a_missing_value_stays_with_the_model() -> None:
    rows = np.where(np.isnan(X), -999.0, X)
    model = xgboost.XGBRegressor(**XGB, missing=-999.0).fit(rows, SUM)
    manifest, _, session = opened(model)
    assert manifest.options == {"missing": -999.0}
    assert session.run(rows.astype(np.float32)) == pytest.approx(model.predict(rows), rel=1e-6)


def test_a_linear_booster_answers() -> None:
    rows = np.nan_to_num(X)
    model = xgboost.XGBRegressor(n_estimators=4, booster="gblinear", n_jobs=1).fit(rows, SUM)
    _, _, session = opened(model)
    assert session.run(rows.astype(np.float32)) == pytest.approx(model.predict(rows), rel=1e-5)
    assert session.run(rows[:0].astype(np.float32)).shape == (0,)


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
def test_names_and_labels_can_be_given_and_the_object_stays_as_it_is(library: str) -> None:
    model = FITTED[f"{library} two"]()
    manifest, _, session = opened(model, feature_names=["a b", "c", "d", "e"])
    assert manifest.schema.names == ("a b", "c", "d", "e")
    assert manifest.schema.named
    assert all(field.nullable for field in manifest.schema.fields)
    assert not pack(model, trust=SAFE)[0].schema.named
    assert len(session.run(X[:3].astype(session.dtype))) == 3
    with pytest.raises(InvalidInput, match="expected 4 names, got 1"):
        pack(model, trust=SAFE, feature_names=["a"])
    with pytest.raises(InvalidInput, match="classes"):
        pack(model, trust=SAFE, classes=["a", "b", "c"])


@pytest.mark.parametrize(
    "model",
    [xgboost.XGBRegressor(**XGB), lightgbm.LGBMRegressor(**LGB), catboost.CatBoostRegressor(**CAT)],
    ids=lambda model: type(model).__name__,
)
def test_names_of_the_fit_stay(model: Any) -> None:
    model.fit(pd.DataFrame(X, columns=list("abcd")), SUM)
    assert pack(model, trust=SAFE)[0].schema.names == ("a", "b", "c", "d")
    with pytest.raises(InvalidInput, match="fitted with the names a, b"):
        pack(model, trust=SAFE, feature_names=["w", "x", "y", "z"])


def test_boosters_are_taken_too() -> None:
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(X, TWO), 4)
    manifest, _, session = opened(booster, classes=["no", "yes"])
    assert set(session.run(X.astype(np.float32)).tolist()) == {"no", "yes"}
    assert manifest.classes == ["no", "yes"]
    told = FITTED["lightgbm value"]().booster_
    assert opened(told)[2].run(X) == pytest.approx(told.predict(X))


def test_save_model_writes_the_librarys_own_file(tmp_path: Any) -> None:
    model = FITTED["xgboost two"]()
    path = save_model(model, tmp_path / "m.ubj", feature_names=list("abcd"))
    assert xgboost.Booster(model_file=path).feature_names == list("abcd")


@pytest.mark.parametrize(
    ("model", "error", "told"),
    [
        (xgboost.XGBClassifier(), InvalidInput, "not fitted"),
        (lightgbm.LGBMRegressor(), InvalidInput, "not fitted"),
        (catboost.CatBoostRegressor(), InvalidInput, "not fitted"),
        (xgboost.DMatrix(X), NotSupported, "no regressor or classifier"),
    ],
)
def test_what_is_no_fitted_model(model: Any, error: type[EverloopError], told: str) -> None:
    with pytest.raises(error, match=told):
        pack_boosted(model)


def test_models_that_rank_or_have_several_targets_are_refused() -> None:
    groups = np.repeat(np.arange(24), 10)
    ranker = xgboost.XGBRanker(**XGB).fit(X, THREE, qid=groups)
    with pytest.raises(NotSupported, match="ranks"):
        pack(ranker, trust=SAFE)
    with pytest.raises(NotSupported, match="ranks"):
        pack(lightgbm.LGBMRanker(**LGB).fit(X, THREE, group=[10] * 24), trust=SAFE)
    with pytest.raises(NotSupported, match="several targets"):
        pack(xgboost.XGBRegressor(**XGB).fit(X, np.column_stack([SUM, SUM])), trust=SAFE)
    with pytest.raises(NotSupported, match="MultiRMSE"):
        pack(
            catboost.CatBoostRegressor(**CAT, loss_function="MultiRMSE").fit(X, np.column_stack([SUM, SUM])), trust=SAFE
        )


def test_texts_of_catboost_take_trust() -> None:
    rows = [["a good film"], ["a bad film"], ["so good"], ["so bad"]] * 10
    model = catboost.CatBoostClassifier(**CAT, text_features=[0])
    model.fit(rows, [1, 0, 1, 0] * 10)
    manifest, payload = pack(model, trust=SAFE)
    assert [field.kind for field in manifest.schema.fields] == ["text"]
    with pytest.raises(Untrusted, match="trust-pickle"):
        load_session(manifest, payload, trust=SAFE)
    session = load_session(manifest, payload, trust=Trust(pickle=True))
    assert session.run(np.array(rows[:4], object)).tolist() == model.predict(rows[:4]).tolist()


def test_a_manifest_of_another_model_is_refused() -> None:
    manifest = pack(FITTED["lightgbm three"](), trust=SAFE)[0]
    with pytest.raises(ArtifactCorrupt, match="otherwise"):
        check_manifest(manifest, "value", 1, 4)


# -- forged files --


def xgboost_document() -> dict[str, Any]:
    model = xgboost.XGBClassifier(**XGB, enable_categorical=True).fit(FRAME, MIXED)
    document: dict[str, Any] = json.loads(model.get_booster().save_raw("json"))
    return document


def first_tree(document: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = document["learner"]["gradient_booster"]["model"]["trees"][0]
    return tree


def place(tree: dict[str, Any], name: str, value: int, at: int = 0) -> None:
    tree[name][at] = value


@pytest.mark.parametrize(
    "forge",
    [
        lambda d: place(first_tree(d), "left_children", 9999),
        lambda d: place(first_tree(d), "right_children", 0),
        lambda d: place(first_tree(d), "left_children", first_tree(d)["right_children"][0]),
        lambda d: place(first_tree(d), "split_indices", 3),
        lambda d: place(first_tree(d), "parents", -5, 1),
        lambda d: place(first_tree(d), "split_type", 7),
        lambda d: place(first_tree(d), "categories_segments", 9999),
        lambda d: place(first_tree(d), "categories", 2**40),
        lambda d: first_tree(d)["split_conditions"].pop(),
        lambda d: place(d["learner"]["gradient_booster"]["model"], "tree_info", 1),
        lambda d: place(d["learner"]["gradient_booster"]["model"], "iteration_indptr", 9999, -1),
        lambda d: d["learner"]["learner_model_param"].update(num_feature="2"),
        lambda d: d["learner"]["learner_model_param"].update(num_class="100000000"),
        lambda d: d["learner"]["gradient_booster"]["model"]["cats"]["sorted_idx"].append(1),
        lambda d: d["learner"].pop("objective"),
    ],
)
def test_a_forged_xgboost_file(forge: Any) -> None:
    document = xgboost_document()
    assert xgboost_file.read_facts(json.dumps(document).encode()).width == 3
    forge(document)
    with pytest.raises(ArtifactCorrupt):
        xgboost_file.read_facts(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_feature_idx=3", "max_feature_idx=2"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=900000000"),
        ("num_leaves=7", "num_leaves=8"),
        ("split_feature=", "split_feature=9"),
        ("left_child=", "left_child=9"),
        ("right_child=", "right_child=-9"),
        ("Tree=1", "Tree=2"),
        ("num_cat=0", "num_cat=0\nnum_cat=1"),
        ("leaf_value=", "leaf_value=1_0 "),
        ("objective=regression", "objective=multiclass num_class:3"),
        ("end of trees", "Tree=7"),
        ("tree_sizes=", "tree_sizes=1"),
    ],
)
def test_a_forged_lightgbm_file(old: str, new: str) -> None:
    text = FITTED["lightgbm value"]().booster_.model_to_string()
    assert lightgbm_file.read_facts(text.encode()).width == 4
    assert old in text
    with pytest.raises(ArtifactCorrupt):
        lightgbm_file.read_facts(text.replace(old, new, 1).encode())


def test_more_that_is_not_taken_of_lightgbm() -> None:
    text = FITTED["lightgbm value"]().booster_.model_to_string()
    with pytest.raises(NotSupported, match="objective 'own'"):
        lightgbm_file.read_facts(text.replace("objective=regression", "objective=own").encode())
    linear = lightgbm.LGBMRegressor(**LGB, linear_tree=True).fit(np.nan_to_num(X), SUM)
    with pytest.raises(NotSupported, match="linear trees"):
        pack(linear, trust=SAFE)
    own = lightgbm.LGBMClassifier(**LGB, objective=lambda y, p: (p - y, np.ones_like(y))).fit(X, TWO)
    with pytest.raises(NotSupported, match="objective of your own"):
        pack(own, trust=SAFE)


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "catboost", "catboost lossguide"])
def test_a_file_changed_anywhere_is_answered_or_refused(name: str) -> None:
    """What the libraries would do with most of these is to read outside of their memory."""
    made: dict[str, Any] = {
        "xgboost": lambda: xgboost.XGBClassifier(**XGB, enable_categorical=True),
        "lightgbm": lambda: lightgbm.LGBMClassifier(**LGB),
        "catboost": lambda: catboost.CatBoostClassifier(**CATEGORIES),
        "catboost lossguide": lambda: catboost.CatBoostClassifier(**CATEGORIES, grow_policy="Lossguide"),
    }
    model = made[name]().fit(FRAME, MIXED)
    manifest, payload = pack(model, trust=SAFE)
    rows = manifest.schema.matrix(manifest.schema.rows(FRAME.to_dict("records")[:4]))
    dice = random.Random(5)
    refused = 0
    for _ in range(120):
        forged = bytearray(payload)
        forged[dice.randrange(len(forged))] = dice.randrange(256)
        try:
            session = load_session(manifest, bytes(forged), trust=SAFE)
        except EverloopError:
            refused += 1
            continue
        try:
            session.run(rows)
        except (EverloopError, catboost.CatBoostError):  # as any model may fail at a row
            refused += 1
    assert refused > 0


def test_ubjson_is_read_as_xgboost_writes_it_and_no_otherwise() -> None:
    payload = bytes(FITTED["xgboost two"]().get_booster().save_raw("ubj"))
    assert int(ubjson.decode(payload)["learner"]["learner_model_param"]["num_feature"]) == 4
    deep = b"[" * 200
    twice = b"{" + b"L" + (1).to_bytes(8, "big") + b"aT" + b"L" + (1).to_bytes(8, "big") + b"aF" + b"}"
    for bad, told in (
        (payload[:-5], "ends"),
        (payload + b"x", "after the end"),
        (deep, "nested"),
        (twice, "twice"),
        (b"[$T#", "unexpected type"),
        (b"?", "unexpected marker"),
        (b"Si", "unexpected type"),
    ):
        with pytest.raises(ValueError, match=told):
            ubjson.decode(bad)
    assert ubjson.decode(b"[#L" + (2).to_bytes(8, "big") + b"i\x05Z") == [5, None]


def test_a_catboost_file_that_is_none() -> None:
    for payload in (b"CBM1", b"CBM1" + (4).to_bytes(4, "little") + b"\xff" * 4, b"CBM1" + b"\xff" * 60):
        with pytest.raises(ArtifactCorrupt):
            catboost_file.read_facts(payload, SAFE)
