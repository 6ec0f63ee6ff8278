"""A form that takes the original's place is asked by the same tensors: clients of the Open Inference Protocol do not notice."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LinearRegression, LogisticRegression

from everloop.optimization import variants
from everloop.optimization.making import Maker
from everloop.optimization.onnx import convert_artifact
from everloop.optimization.variants import Wishes, optimise
from everloop.runtime.artifact import Trust, load_session, read_model
from everloop.runtime.packing import pack
from everloop.runtime.tensors import tensor_model

TRUST = Trust()
X = np.random.default_rng(0).normal(size=(60, 2))


def test_the_graph_of_an_estimator_is_asked_as_the_estimator():
    artifact = pack(LogisticRegression().fit(X, X[:, 0] > 0), trust=TRUST)
    made = convert_artifact(*artifact, trust=TRUST, rows=X.tolist())
    before, after = (tensor_model(load_session(*each, trust=TRUST)) for each in (artifact, made))
    assert before.signature == after.signature
    outputs = [spec.name for spec in before.signature.outputs]
    answers = [model.infer([X.astype(np.float32)], outputs) for model in (before, after)]
    assert answers[0]["prediction"].tolist() == answers[1]["prediction"].tolist()
    np.testing.assert_allclose(answers[0]["probabilities"], answers[1]["probabilities"], atol=1e-6)


def test_a_graph_with_other_names_does_not_take_its_place(monkeypatch):
    from skl2onnx import to_onnx

    estimator = LinearRegression().fit(X, X[:, 0])
    graph = to_onnx(estimator, X[:1].astype(np.float32)).SerializeToString()
    renamed = graph.replace(b"variable", b"answered")
    assert renamed != graph
    manifest, payload = read_model(graph, "a graph", trust=TRUST, field="model")
    other = read_model(renamed, "another", trust=TRUST, field="model")
    monkeypatch.setattr(variants, "makers", lambda **_: [Maker("renamed", lambda _: other, {"by": "hand"})])
    wishes = Wishes(sizes=(1,), rows=50, max_seconds=1, open_apart=False)
    report = optimise(manifest, payload, X.tolist(), wishes=wishes, trust=TRUST)
    assert not report.changed
    (form,) = (form for form in report.figures.forms if form.name == "renamed")
    assert form.fate == "unfaithful"
    assert "other tensors" in form.why


def test_the_graph_of_a_module_keeps_its_outputs_and_its_answers():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(2, 3))
    artifact = pack(module, trust=TRUST, classes=["a", "b", "c"])
    made = convert_artifact(*artifact, trust=TRUST, rows=X.tolist())
    sessions = [load_session(*each, trust=TRUST) for each in (artifact, made)]
    before, after = (tensor_model(session).signature for session in sessions)
    assert before.inputs == after.inputs
    assert set(before.outputs) <= set(after.outputs)
    answers = [session.scores(X.astype(np.float32)) for session in sessions]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
    assert sessions[0].run(X).tolist() == sessions[1].run(X).tolist()
    assert set(sessions[1].run(X).tolist()) <= {"a", "b", "c"}
