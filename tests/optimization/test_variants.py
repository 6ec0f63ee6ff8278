"""From an artifact the fastest form that agrees; what is dropped, and why; and all the numbers once more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.optimization.forms import given_rows, linear_artifact

from everloop.app.optimizing import compare, told_by, wishes_of
from everloop.core.errors import InvalidInput, NotSupported
from everloop.core.hashing import artifact_digest
from everloop.core.schema import NoRows, Schema
from everloop.optimization import variants
from everloop.optimization.figures import Form, reason
from everloop.optimization.job import Job, Outcome, make
from everloop.optimization.making import Maker, Material
from everloop.optimization.opening import Cost
from everloop.optimization.variants import Report, Wishes, optimise
from everloop.policy.selection import Stretch
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.linear import LinearModel
from everloop.stores.ports import Manifest

QUICK = Wishes(sizes=(1, 8), rows=400, max_seconds=0.5, open_apart=False)
ROWS = given_rows(200)


@pytest.fixture(scope="module")
def logistic() -> tuple[Manifest, bytes, list[Any], list[Any]]:
    from sklearn.linear_model import LogisticRegression

    from everloop.runtime import sklearn

    X = np.array(given_rows(400))
    y = (X @ [1.0, -2.0, 0.5, 0.25] > 0).astype(int)
    model = LogisticRegression().fit(X[:200], y[:200])
    return sklearn.manifest_of(model), sklearn.dump_estimator(model, Trust()), X[200:].tolist(), y[200:].tolist()


@contextmanager
def made_by(monkeypatch: pytest.MonkeyPatch, *made: Maker) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(variants, "makers", lambda *, int8: [each for each in made if each.exact or int8])
        yield


def linear(weights: list[float], **changes: Any) -> Any:
    """Makes another linear model."""

    def make(material: Material) -> tuple[Manifest, bytes]:
        model = LinearModel(np.array([weights]), np.array([0.1]), np.zeros(len(weights)))
        return msgspec.structs.replace(material.manifest, **changes), model.pack()

    return make


def test_an_estimator_becomes_its_compiled_form(logistic: tuple[Manifest, bytes, list[Any], list[Any]]) -> None:
    manifest, payload, rows, labels = logistic
    said: list[str] = []
    report = optimise(manifest, payload, rows, labels, wishes=QUICK, trust=Trust(), progress=said.append)
    figures = report.figures
    assert report.changed
    assert figures.stretches[0][1] == "compiled"
    assert all(gain > 1 for gain in figures.speedups)
    assert figures.form("original").runtime == "sklearn"
    assert {form.name for form in figures.forms} >= {"original", "served", "compiled", "onnx", "onnx-basic", "onnx-all"}
    assert all(form.parity is None or form.parity.flips == 0 for form in figures.forms)
    assert (figures.data.rows, figures.data.labelled, figures.data.source) == (200, True, "given")
    assert "times as fast" in report.why
    assert "making onnx" in said
    with load_session_of(report) as session:
        assert session.run(np.array(rows)).tolist() == labels_of(manifest, payload, rows)


@contextmanager
def load_session_of(report: Report) -> Iterator[Any]:
    session = load_session(report.chosen.manifest, report.chosen.payload, trust=Trust())
    yield session
    session.close()


def labels_of(manifest: Manifest, payload: bytes, rows: list[Any]) -> list[Any]:
    session = load_session(manifest, payload, trust=Trust())
    answers: list[Any] = session.run(np.array(rows)).tolist()
    session.close()
    return answers


def test_every_number_comes_out_again_from_the_manifest(
    logistic: tuple[Manifest, bytes, list[Any], list[Any]],
) -> None:
    manifest, payload, rows, labels = logistic
    report = optimise(manifest, payload, rows, labels, wishes=QUICK, trust=Trust())
    kept = msgspec.json.decode(msgspec.json.encode(report.chosen.manifest), type=Manifest)
    told = told_by(kept)
    assert msgspec.to_builtins(told) == msgspec.to_builtins(report.figures)
    wishes = wishes_of(told)
    again = optimise(manifest, payload, rows, labels, wishes=wishes, trust=Trust())
    checks = compare(told, again.figures, artifact_digest(report.chosen.payload))
    assert [check for check in checks if not check.holds] == []
    assert len(checks) > 10
    other = optimise(manifest, payload, rows[:-1], labels[:-1], wishes=wishes, trust=Trust())
    failed = {check.what for check in compare(told, other.figures, "0" * 64) if not check.holds}
    assert {"examples, SHA-256", f"{told.chosen}, SHA-256"} <= failed
    forged = msgspec.structs.replace
    with pytest.raises(InvalidInput, match="does not tell"):
        told_by(manifest)
    with pytest.raises(InvalidInput, match="does not tell"):
        told_by(forged(manifest, lineage={"optimization": msgspec.to_builtins(forged(told, chosen="nothing"))}))
    with pytest.raises(InvalidInput, match="wishes that are none"):
        wishes_of(forged(told, wishes={"sizes": [0]}))
    with pytest.raises(InvalidInput, match="wishes that are none"):
        wishes_of(forged(told, data=forged(told.data, drawn=10**12)))


def test_what_cannot_take_the_originals_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, payload = linear_artifact()

    def refuse(material: Material) -> Any:
        raise NotSupported("it has no such form")

    def fail(material: Material) -> Any:
        raise RuntimeError("the converter is broken")

    makers = (
        Maker("refused", refuse, {}),
        Maker("failing", fail, {}),
        Maker("twin", lambda given: (given.manifest, given.payload), {}),
        Maker("unfaithful", linear([1.0, -2.0, 0.5, 0.26]), {}),
        Maker("corrupt", lambda given: (given.manifest, b"EVLINEAR"), {}),
        Maker("narrow", linear([1.0], schema=Schema.unnamed(1)), {}),
        Maker("renamed", linear([1.0, -2.0, 0.5, 0.25], classes=[0, 2]), {}),
        Maker("rounding", linear([1.0, -2.0, 0.5, 0.3]), {}, exact=False),
    )
    with made_by(monkeypatch, *makers):
        report = optimise(manifest, payload, ROWS, trust=Trust(), wishes=QUICK)
    why = {form.name: (form.fate, form.why) for form in report.figures.forms}
    assert not report.changed
    assert report.chosen.payload == payload
    assert report.chosen.manifest.lineage["optimization"]["chosen"] == "original"
    assert why["refused"] == ("not made", "it has no such form")
    assert why["failing"][1].startswith("making it failed: RuntimeError: the converter is broken")
    assert why["twin"] == ("not made", "the same as original")
    assert why["unfaithful"][0] == "unfaithful"
    assert why["corrupt"][0] == "unfaithful"
    assert why["narrow"] == ("not made", "it takes other features")
    assert why["renamed"] == ("not made", "it answers another kind of thing")
    assert "rounding" not in why
    assert report.why == "the original stays: no other form could be made that answers alike"


def test_a_form_that_rounds_needs_examples_and_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, payload = linear_artifact()
    maker = Maker("int8-dynamic", linear([1.0, -2.0, 0.5, 0.2501]), {}, exact=False)
    rows = given_rows(1_000)
    wishes = Wishes(int8=True, sizes=(1,), rows=1_000, max_seconds=0.5, open_apart=False)
    with made_by(monkeypatch, maker):
        judged = optimise(manifest, payload, rows, wishes=wishes, trust=Trust())
        made_up = optimise(manifest, payload, [], wishes=wishes, trust=Trust())
    form = judged.figures.form("int8-dynamic")
    assert form.parity is not None
    assert form.parity.passed
    assert judged.figures.data.calibrated == 200
    assert made_up.figures.data.source == "made up"
    assert made_up.figures.form("int8").why == "there are no examples to prove it on"


TINY = 1e-12
SMALL_AND_LARGE = (
    Maker("small", linear([1.0, -2.0, 0.5, 0.25 + TINY]), {}),
    Maker("large", linear([1.0, -2.0, 0.5, 0.25 - TINY]), {}),
)


def timed(monkeypatch: pytest.MonkeyPatch, once_more: dict[str, list[float]], **times: list[float]) -> None:
    """The measured times are the test's: which form is faster is nobody's luck. `once_more`: what a form takes in the session in which it
    is measured once more."""
    seen: dict[str, set[int]] = {}

    def measure(sessions: Any, *_: Any, **__: Any) -> Any:
        taken = {}
        for name, session in sessions.items():
            seen.setdefault(name, set()).add(id(session))
            seconds = once_more.get(name, times[name]) if len(seen[name]) > 1 else times[name]
            taken[name] = [[t] * 5 for t in seconds]
        return taken

    monkeypatch.setattr(variants, "measure", measure)


def test_forms_of_several_sizes_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, payload = linear_artifact()
    timed(monkeypatch, {}, **{"original": [9.0, 9.0], "small": [1.0, 8.0], "large": [4.0, 5.0], "by-size": [1.0, 5.0]})
    with made_by(monkeypatch, *SMALL_AND_LARGE):
        report = optimise(manifest, payload, ROWS, trust=Trust(), wishes=QUICK)
        alone = optimise(manifest, payload, ROWS, trust=Trust(), wishes=Wishes(**{**vars(QUICK), "combine": False}))
    assert report.chosen.name == "by-size"
    assert report.chosen.manifest.runtime == "by_size"
    assert report.figures.stretches == [[1, "small"], [5, "large"]]
    assert report.figures.form("small").fate == "kept"
    assert report.figures.speedups == [9.0, 9 / 5]
    assert report.why.startswith("by number of rows (small from 1, large from 5) it is 9 times as fast at 1 row")
    with load_session_of(report) as session:
        assert session.run(np.array(ROWS)).tolist() == labels_of(manifest, payload, ROWS)
    assert alone.chosen.name == "small"


def test_one_form_stays_where_several_cannot_be_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {}, original=[9.0, 9.0], small=[1.0, 8.0], large=[4.0, 5.0])

    def apart(manifest: Manifest, *_: Any, **__: Any) -> Cost:
        return Cost(0.1, 0.1, 1, "it was not open after 120 s" if manifest.runtime == "by_size" else "")

    monkeypatch.setattr(variants, "measure_opening", apart)
    with made_by(monkeypatch, *SMALL_AND_LARGE):
        wishes = Wishes(**{**vars(QUICK), "open_apart": True})
        report = optimise(*linear_artifact(), ROWS, trust=Trust(), wishes=wishes)
    by_size = report.figures.form("by-size")
    assert (report.chosen.name, report.figures.stretches) == ("small", [[1, "small"]])
    assert (by_size.fate, by_size.seconds) == ("unfaithful", [])
    assert "not open after 120 s" in by_size.why


def test_forms_put_together_that_are_slower_than_one_of_them_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {}, **{"original": [9.0, 9.0], "small": [1.0, 8.0], "large": [4.0, 5.0], "by-size": [1.1, 5.0]})
    with made_by(monkeypatch, *SMALL_AND_LARGE):
        report = optimise(*linear_artifact(), ROWS, trust=Trust(), wishes=QUICK)
    assert report.chosen.name == "small"
    by_size = report.figures.form("by-size")
    assert (by_size.fate, by_size.why) == ("slower", "measured once more, it is slower than small at 1 row")


def test_what_is_slower_once_it_is_opened_again_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"original": [9.0, 9.0], "small": [1.0, 1.0], "large": [1.2, 1.2]}
    timed(monkeypatch, {"small": [1.0, 12.0]}, **times)
    with made_by(monkeypatch, *SMALL_AND_LARGE):
        report = optimise(*linear_artifact(), ROWS, trust=Trust(), wishes=QUICK)
        timed(monkeypatch, {"small": [1.0, 12.0], "large": [9.0, 9.9]}, **times)
        neither = optimise(*linear_artifact(), ROWS, trust=Trust(), wishes=QUICK)
    small = report.figures.form("small")
    assert report.chosen.name == "large"
    assert (small.fate, small.why) == ("slower", "measured once more, it is slower than original at 8 rows")
    assert not neither.changed
    assert neither.figures.stretches == [[1, "original"]]


def test_what_cannot_be_asked_for() -> None:
    manifest, payload = linear_artifact()
    with pytest.raises(InvalidInput, match="one for each of 200 rows, got 1"):
        optimise(manifest, payload, ROWS, [1], trust=Trust())
    tensors = msgspec.structs.replace(manifest, schema=NoRows((), why="it takes images"))
    with pytest.raises(NotSupported, match="asked by tensors"):
        optimise(tensors, payload, [], trust=Trust())
    for wrong in ({"sizes": ()}, {"sizes": (0,)}, {"loss": -1.0}, {"rows": 0}, {"max_seconds": 0.0}):
        with pytest.raises(InvalidInput):
            Wishes(**wrong)


def test_labels_that_are_all_no_classes_judge_nothing() -> None:
    with pytest.raises(InvalidInput, match=r"none of the 200 labels \(7\) is a class of this model, which has 0, 1"):
        optimise(*linear_artifact(), given_rows(), [7] * 200, trust=Trust())


def test_in_the_background_what_counts_is_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(asked: dict[int, int]) -> Outcome:
        manifest, payload = linear_artifact()
        given = {"rows": ROWS, "labels": None, "int8": False, "seconds": 4.0, "trust": Trust()}
        job = msgspec.structs.replace(Job.of(manifest, payload, sizes=asked, **given), open_apart=False)
        return msgspec.msgpack.decode(make(msgspec.msgpack.encode(job)), type=Outcome)

    timed(monkeypatch, {}, original=[1.0, 8.0, 64.0], large=[1.0, 7.0, 32.0])
    with made_by(monkeypatch, Maker("large", linear([1.0, -2.0, 0.5, 0.25 - TINY]), {})):
        for nobody_asks_many in ({1: 500}, {}, {1: 500, 16: 0}):
            kept = outcome(nobody_asks_many)
            assert kept.manifest is None
            assert kept.why.startswith(
                "the best that there is gains too little on what is asked (1.00 times as fast): large"
            )
        assert outcome({1: 500, 64: 20}).manifest is not None
        timed(monkeypatch, {}, original=[1.0, 8.0, 64.0], large=[1.03, 7.0, 32.0])
        assert outcome({1: 500, 64: 20}).manifest is not None


def test_what_it_gains_is_told_against_what_answers_already() -> None:
    forms = {
        "original": Form("original", seconds=[1.57e3, 12.0]),
        "compiled": Form("compiled", seconds=[1.0, 3.0]),
    }
    stretches = [Stretch(1, "compiled")]
    assert reason("compiled", forms, [1, 64], stretches) == (
        "compiled is 1,570 times as fast at 1 row, 4 times as fast at 64 rows"
    )
    served = {**forms, "served": Form("served", seconds=[1.5, 3.0])}
    assert reason("compiled", served, [1, 64], stretches) == (
        "against what is served already, compiled is 1.5 times as fast at 1 row, 1 times as fast at 64 rows"
    )
