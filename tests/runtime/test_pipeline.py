"""Pipelines from a file: what the steps do, how several models make one answer, and what is refused in which words."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.tree import DecisionTreeClassifier

from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput, NotSupported, Untrusted
from everloop.core.schema import Schema
from everloop.runtime.artifact import Trust, load_session, read_model, save_model
from everloop.runtime.loaded import LoadedModel
from everloop.runtime.members import pack_members, unpack_members
from everloop.runtime.pipeline import read_path
from everloop.runtime.source import read_source
from everloop.runtime.tensors import tensor_model

TRUST = Trust()
X = np.random.default_rng(0).normal(size=(200, 2))
LABELS = (X[:, 0] - X[:, 1] > 0).astype(int)
CODE = """
def ratio(rows):
    return rows[:, 0] / (1 + abs(rows[:, 1]))

ratio.features = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_model(LinearRegression().fit(X, 3 * X[:, 0] + 1), folder / "a.skops")
    save_model(LinearRegression().fit(X, X[:, 1]), folder / "b.skops")
    for name, model in {"log": LogisticRegression(), "tree": DecisionTreeClassifier(max_depth=3)}.items():
        save_model(model.fit(X, LABELS), folder / f"{name}.skops")
    save_model(RidgeClassifier().fit(X, LABELS), folder / "ridge.skops")
    save_model(LogisticRegression().fit(X, np.digitize(X[:, 0], [-1, 1])), folder / "three.skops")
    named = LogisticRegression().fit(np.hstack([X, X[:, :1]]), LABELS)
    save_model(named, folder / "named.skops", feature_names=["c=y", "b", "r"])
    (folder / "prepare.py").write_text(CODE)
    return folder


def made(folder, text, trust=TRUST):
    path = folder / "pipeline.toml"
    path.write_text(text)
    return read_source(path, trust=trust)


def asked(folder, text, rows, trust=TRUST):
    with LoadedModel(load_session(*made(folder, text, trust), trust=trust)) as model:
        return model.predict(rows).tolist()


NUMBERS = '[inputs]\na = "number"\nb = "number"\n'
ONE = NUMBERS + "{}\n[[models]]\nmodel = 'a.skops'\n"


@pytest.mark.parametrize(
    ("step", "row", "seen"),
    [
        ("clip = { a = [-1, 2] }", [9, 0], 2),
        ("scale = { a = { mean = 1, std = 2 } }", [9, 0], 4),
        ("scale = { a = { std = 2 } }", [9, 0], 4.5),
        ("scale = { a = { min = 1, max = 5 } }", [9, 0], 2),
        ("log1p = ['a']", [math.e - 1, 0], 1),
        ("select = ['b', 'a']", [0, 7], 7),
    ],
)
def test_steps_over_numbers(folder, step, row, seen):
    (answer,) = asked(folder, ONE.format(f"[[steps]]\n{step}"), row)
    assert answer == pytest.approx(3 * seen + 1)


def test_text_and_missing_values(folder):
    text = """
[inputs]
a = "number?"
city = "text?"
extra = "text"
[[steps]]
drop = ["extra"]
[[steps]]
impute = { a = 4, city = "Ulm" }
[[steps]]
map = { city = { Ulm = 1, "*" = 0 } }
[[models]]
model = "a.skops"
[[models]]
model = "b.skops"
"""
    rows = [
        {"a": None, "city": "Ulm", "extra": "-"},
        {"a": 1.0, "city": None, "extra": "-"},
        {"a": 1.0, "city": "Bonn", "extra": "-"},
    ]
    assert asked(folder, text, rows) == pytest.approx([(13 + 1) / 2, (4 + 1) / 2, 4 / 2])


def test_columns_by_name_one_hot_and_code_of_its_own(folder):
    text = """
[inputs]
b = "number"
c = "text"
[[steps]]
one_hot = { c = ["x", "y"] }
[[steps]]
drop = ["c=x"]
[[steps]]
append = { r = "prepare.py:ratio" }
[[models]]
model = "named.skops"
"""
    with pytest.raises(Untrusted, match=r"--trust-code prepare\.py:ratio"):
        made(folder, text)
    trust = Trust(code=("prepare.py:ratio",))
    manifest, payload = made(folder, text, trust)
    assert manifest.options == {"runtimes": ["python", "sklearn"], "steps": ["one_hot", "drop", "append"]}
    (answer,) = asked(folder, text, [{"b": 2.0, "c": "y"}], trust)
    with LoadedModel(load_session(*read_source(folder / "named.skops", trust=TRUST), trust=TRUST)) as named:
        assert answer == named.predict([[1.0, 2.0, 2.0 / 2.0]]).item()
    with pytest.raises(Untrusted, match="member 1"):
        load_session(manifest, payload, trust=TRUST)


@pytest.mark.parametrize("combine", ["mean", "vote"])
def test_several_classifiers(folder, combine):
    text = f"""{NUMBERS}
[[models]]
model = "log.skops"
[[models]]
model = "tree.skops"
weight = 3
[answer]
combine = "{combine}"
labels = ["ok", "fraud"]
"""
    session = load_session(*made(folder, text), trust=TRUST)
    log, tree = (load_session(*read_source(folder / f"{n}.skops", trust=TRUST), trust=TRUST) for n in ("log", "tree"))
    each = [m.scores(X) if combine == "mean" else np.eye(2)[m.run(X).astype(int)] for m in (log, tree)]
    shares = each[0] * 0.25 + each[1] * 0.75
    np.testing.assert_allclose(session.scores(X), shares)
    assert session.run(X).tolist() == [["ok", "fraud"][place] for place in shares.argmax(axis=1)]
    assert session.run(X[:1]).tolist() == session.run(X)[:1].tolist()


def test_a_threshold_moves_the_decision(folder):
    text = NUMBERS + "[[models]]\nmodel = 'log.skops'\n[answer]\nthreshold = {}\n"
    log = load_session(*read_source(folder / "log.skops", trust=TRUST), trust=TRUST).scores(X)[:, 1]
    for threshold in (0.1, 0.9):
        session = load_session(*made(folder, text.format(threshold)), trust=TRUST)
        assert session.run(X).tolist() == (log >= threshold).astype(int).tolist()


def test_a_model_on_top_of_others(folder):
    text = """
[inputs]
a = "number"
[[steps]]
append = { second = "prepare.py:ratio" }
[[models]]
model = "a.skops"
"""
    with pytest.raises(InvalidInput, match="columns a, wanted are 2 without names"):
        made(folder, text, Trust(code=("*",)))
    text = f"{NUMBERS}[[steps]]\nappend = {{ p = 'log.skops', q = 'a.skops' }}\n[[steps]]\nselect = ['p', 'q']\n"
    (answer,) = asked(folder, text + "[[models]]\nmodel = 'a.skops'\n[answer]\nclip = [0, 3.5]\n", [9.0, 0.0])
    assert answer == 3.5
    (answer,) = asked(folder, text + "[[models]]\nmodel = 'b.skops'\n", [9.0, 0.0])
    assert answer == pytest.approx(28.0)


def test_tensors_follow_from_the_inputs(folder):
    signature = tensor_model(load_session(*made(folder, ONE.format("")), trust=TRUST)).signature
    assert [(spec.name, spec.datatype) for spec in signature.inputs] == [("a", "FP64"), ("b", "FP64")]


def test_the_version_stays_what_the_files_were(folder, tmp_path):
    for name in ("a.skops", "b.skops"):
        shutil.copy(folder / name, tmp_path / name)
    artifact = made(tmp_path, ONE.format(""))
    assert made(tmp_path, ONE.format("")) == artifact, "the same files are the same bytes"
    (tmp_path / "a.skops").unlink()
    assert load_session(*artifact, trust=TRUST).run(np.array([[1.0, 0.0]]))[0] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[models]]\nmodel = 'a.skops'", "missing required field `inputs`"),
        (NUMBERS + "[[models]]", "missing required field `model`"),
        (NUMBERS + "[[models]]\nmodel = 3", "a path or an import path"),
        (NUMBERS + "[[models]]\nmodel = 'c.skops'", "there is no file"),
        (NUMBERS + "[[models]]\nmodel = 'a.skops'\nweight = -1", "weights"),
        (NUMBERS + "[[models]]\nmodel = 'a.skops'\nwieght = 1", "wieght"),
        (NUMBERS + "[[models]]\nmodel = 'a.skops'\n[[models]]\nmodel = 'log.skops'", "answer different things"),
        (NUMBERS + "[[models]]\nmodel = 'log.skops'\n[[models]]\nmodel = 'ridge.skops'", "let them vote"),
        (NUMBERS + "[[models]]\nmodel = 'ridge.skops'\n[answer]\nthreshold = 0.5", "gives no probabilities"),
        (NUMBERS + "[[models]]\nmodel = 'three.skops'\n[answer]\nthreshold = 0.5", "two classes"),
        (NUMBERS + "[[models]]\nmodel = 'a.skops'\n[answer]\nlabels = ['a']", "are for classifiers"),
        (NUMBERS + "[[models]]\nmodel = 'log.skops'\n[answer]\nlabels = ['a']", "expected 2 different ones"),
        (NUMBERS + "[[models]]\nmodel = 'log.skops'\n[answer]\nclip = [0, 1]", "only a number"),
        ('[inputs]\na = "number"\nb = "text"\n[[models]]\nmodel = "a.skops"', "b is a text, wanted is a number"),
        ('[inputs]\na = "number"\nb = "number?"\n[[models]]\nmodel = "a.skops"', "impute it"),
        ('[inputs]\na = "numbers"\n[[models]]\nmodel = "a.skops"', "inputs.a: expected one of number"),
        (ONE.format("[[steps]]\nclip = { z = [0, 1] }"), "there is no column 'z'"),
        (ONE.format("[[steps]]\nclip = { a = [2, 1] }"), "cannot be clipped"),
        (ONE.format("[[steps]]\nclip = { a = [0, inf] }"), "finite"),
        (ONE.format("[[steps]]\nscale = { a = { mean = 1 } }"), "by mean and std, or by min and max"),
        (ONE.format("[[steps]]\nscale = { a = { std = 0 } }"), "spread of 0"),
        (ONE.format("[[steps]]\nmap = { a = { x = 1 } }"), "a is a number, and text is needed"),
        (ONE.format("[[steps]]\nimpute = { a = 'x' }"), "a is a number, and 'x' is none"),
        (ONE.format("[[steps]]\nselect = ['a', 'a']"), "each of them once"),
        (ONE.format("[[steps]]\nclip = { a = [0, 1] }\nlog1p = ['a']"), "a step does one thing"),
        (ONE.format("[[steps]]"), "a step does one thing, this one nothing"),
        (ONE.format("[[steps]]\nappend = { a = 'b.skops' }"), "there already"),
        (ONE.format("[[steps]]\nappend = { z = 'three.skops' }"), "two classes that gives probabilities"),
        (NUMBERS + "[[models]]\nmodel = ", "no TOML"),
    ],
)
def test_what_does_not_hold_is_named(folder, text, words):
    with pytest.raises(EverloopError, match=words):
        made(folder, text)


def test_bytes_without_a_folder(folder):
    with pytest.raises(NotSupported, match="give its path"):
        read_model(ONE.format("").encode(), "the upload", trust=TRUST, field="model")
    (folder / "alone.toml").write_text(ONE.format(""))
    assert read_path(folder / "alone.toml", TRUST)[0].runtime == "pipeline"


def test_the_pipeline_of_the_docs_is_one(tmp_path):
    document = (Path(__file__).parents[2] / "docs" / "runtimes.md").read_text()
    (block,) = re.findall(r"```ini\n(# fraud\.toml.*?)```", document, re.DOTALL)
    (tmp_path / "fraud.toml").write_text(block)
    with pytest.raises(InvalidInput, match=r"there is no file .*linear\.skops"):
        read_source(tmp_path / "fraud.toml", trust=TRUST)


def test_what_is_forged_is_refused(folder):
    manifest, payload = made(folder, ONE.format("[[steps]]\nclip = { a = [0, 1] }"))
    plan, members = unpack_members(payload)
    forged = [
        plan | {"models": [{"model": 1}]},
        plan | {"models": []},
        plan | {"models": [{"model": "a.skops"}]},
        plan | {"steps": [{"clip": {"z": [0, 1]}}]},
        plan | {"steps": [{"exec": "x"}]},
        plan | {"inputs": {}},
        plan | {"inputs": {"a": "number", "z": "number"}},
        {},
    ]
    for each in forged:
        with pytest.raises(ArtifactCorrupt):
            load_session(manifest, pack_members(each, members), trust=TRUST)
    with pytest.raises(ArtifactCorrupt):
        load_session(manifest, pack_members(plan, [*members, *members]), trust=TRUST)
    with pytest.raises(ArtifactCorrupt, match="manifest"):
        load_session(msgspec.structs.replace(manifest, schema=Schema.unnamed(2)), payload, trust=TRUST)
