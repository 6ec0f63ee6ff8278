import sys
import textwrap

import numpy as np
import pytest

from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput, ModelFailed, NotSupported, Untrusted
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.modules import Code, allowed, entry_of, read_code, run_code
from everloop.runtime.source import beside, check_source, is_source, read_source, title, trust_in, whole_file

ALL = Trust(code=("*",))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [name for name in sys.modules if name.startswith("h1_")]:
        del sys.modules[name]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


def answer(source, rows, trust=ALL):
    manifest, payload = read_source(source, trust=trust)
    session = load_session(manifest, payload, trust=trust)
    try:
        X = session.schema.matrix(session.schema.rows(rows), session.dtype if session.schema.numeric else None)
        Y, scores = session.run(X), session.scores(X)
        return manifest, Y.tolist(), None if scores is None else scores.tolist()
    finally:
        session.close()


CLASSIFIER = """
    class Model:
        features = {"age": "number", "city": "text?"}
        classes = ["no", "yes"]
        def predict(self, rows):
            rows[:, 0] += 1      # its own rows
            return ["yes" if age > 40 else "no" for age, city in rows]
        def predict_proba(self, rows):
            return [[0.25, 0.75] for _ in rows]
"""


def test_a_class(tmp_path):
    write(tmp_path / "h1_a.py", CLASSIFIER)
    manifest, answers, scores = answer("h1_a:Model", [{"age": 40, "city": None}, [1, "x"]])
    assert answers == ["yes", "no"]
    assert scores == [[0.25, 0.75]] * 2
    assert (manifest.runtime, manifest.target.kind, manifest.classes) == ("python", "text", ["no", "yes"])
    assert [(f.name, f.kind, f.nullable) for f in manifest.schema.fields] == [
        ("age", "number", False),
        ("city", "text", True),
    ]


def test_a_function_and_an_object_and_a_file(tmp_path):
    write(
        tmp_path / "in" / "h1_b.py",
        """
        def total(rows): return rows.sum(axis=1)
        total.features = 3
        class _Kind:
            example = {"word": "hello"}
            def predict(self, rows): return [w[:1] for w in rows[:, 0]]
        kind = _Kind()
        """,
    )
    for source in ("./in/h1_b.py:total", str(tmp_path / "in" / "h1_b.py") + ":total"):
        manifest, answers, scores = answer(source, [[1, 2, 3]])
        assert (answers, scores, manifest.task) == ([6.0], None, "regression")
    manifest, answers, _ = answer("in/h1_b.py:kind", [["world"]])
    assert (answers, manifest.task) == (["w"], "classification")
    assert manifest.lineage == {"code": "h1_b.py:kind"}


def test_a_version_holds_its_source_and_imports_its_package(tmp_path):
    write(tmp_path / "h1_pack" / "__init__.py", "")
    write(tmp_path / "h1_pack" / "weights.py", "FACTOR = 3.0")
    source = """
        from dataclasses import dataclass
        from .weights import FACTOR
        @dataclass
        class Model:
            by: float = {by}
            features = ("x",)
            def predict(self, rows): return rows[:, 0] * self.by * FACTOR
        """
    write(tmp_path / "h1_pack" / "model.py", source.format(by=1.0))
    running = _running()
    first = read_source("h1_pack.model:Model", trust=ALL)
    write(tmp_path / "h1_pack" / "model.py", source.format(by=2.0))
    second = read_source("h1_pack.model:Model", trust=ALL)
    assert first[1] != second[1]
    sessions = [load_session(*each, trust=ALL) for each in (second, first)]
    assert [each.run(np.array([[1.0]])).tolist() for each in sessions] == [[6.0], [3.0]]
    for each in sessions:
        each.close()
        each.close()
    assert _running() == running


def _running() -> set[str]:
    """Modules of versions that are open in this process, whichever test opened them."""
    return {name for name in sys.modules if name.startswith("everloop_code_")}


def test_who_may_run(tmp_path):
    write(tmp_path / "h1_a.py", CLASSIFIER)
    manifest, payload = read_source("h1_a:Model", trust=Trust())  # naming it allows it, this once
    assert trust_in("h1_a:Model", Trust()).code == ("h1_a:Model",)
    assert trust_in(tmp_path / "h1_a.py", Trust()).code == ()
    for trust in (Trust(), Trust(code=("h1_a:Other", "h1", "h1_a.b")), Trust(code=("*",), network=True)):
        with pytest.raises(Untrusted, match="h1_a:Model"):
            load_session(manifest, payload, trust=trust)
    for said in ("h1_a:Model", "h1_a", "*"):
        load_session(manifest, payload, trust=Trust(code=(said,))).close()
    assert allowed("a.b:C", Trust(code=("a",)))
    assert not allowed("ab:C", Trust(code=("a",)))
    assert not allowed("a.b:C", Trust(code=("a.b:CD",)))


@pytest.mark.parametrize(
    ("body", "error", "told"),
    [
        ("x = 1", NotSupported, "has no Model"),
        ("import h1_nothing", NotSupported, "needs the module h1_nothing"),
        ("raise SystemExit(3)", ModelFailed, "SystemExit"),
        ("class Model:", ModelFailed, "SyntaxError|IndentationError"),
        ("Model = 3", NotSupported, "without `predict`: give it a method"),
        ("class Model:\n    async def predict(self, rows): ...", NotSupported, "asynchronous"),
        ("class Model:\n    def predict(self, rows): return rows", NotSupported, "does not say what it takes"),
        ("class Model:\n    def __init__(self, a): ...", ModelFailed, "without arguments"),
        ("class Model:\n  features = 2\n  def predict(self, rows): return rows", NotSupported, "one answer a row"),
        ("class Model:\n  features = 2\n  def predict(self, rows): 1 / 0", ModelFailed, "give it `task`"),
        ("class Model:\n  features = 'age'\n  predict = print", NotSupported, "expected names"),
        ("class Model:\n  features = {'a': 'date'}\n  predict = print", NotSupported, "expected number, text"),
        ("class Model:\n  features = []\n  predict = print", NotSupported, "one feature at least"),
        ("class Model:\n  features = True\n  predict = print", NotSupported, "got True"),
        ("class Model:\n  features = 1\n  task = 'cluster'\n  predict = print", NotSupported, "task"),
        ("class Model:\n  features = 1\n  predict = predict_proba = print", NotSupported, "needs `classes`"),
        ("class Model:\n  features = 1\n  classes = []\n  predict = print", NotSupported, "there are none"),
        (
            "class Model:\n  features = 1\n  classes = [1]\n  task = 'regression'\n  predict = print",
            NotSupported,
            "and has classes",
        ),
    ],
)
def test_what_is_no_model_says_why(tmp_path, body, error, told):
    write(tmp_path / "h1_c.py", body)
    with pytest.raises(error, match=told):
        read_source("h1_c:Model", trust=Trust())


def test_a_class_named_with_a_dot_is_told_how_to_name_it():
    with pytest.raises(InvalidInput, match=r"there is no file scoring\.Model; Python code is named like scoring:Model"):
        check_source("scoring.Model")
    with pytest.raises(InvalidInput, match=r"no file scoring\.model$"):
        check_source("scoring.model")


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        ("h1_nowhere:Model", InvalidInput, "no module h1_nowhere"),
        ("h1_nowhere.sub:Model", InvalidInput, "no module h1_nowhere"),
        ("nowhere.py:Model", InvalidInput, "cannot be read"),
        ("math:sin", NotSupported, "no Python source"),
        ("nowhere.onnx", InvalidInput, "there is no file"),
    ],
)
def test_what_is_not_there(source, error, told):
    with pytest.raises(error, match=told):
        read_source(source, trust=ALL)


def test_answers_of_another_shape_fail_and_do_not_pass(tmp_path):
    write(
        tmp_path / "h1_d.py",
        """
        class Model:
            features, classes = 1, [0, 1]
            def predict(self, rows): return [0] if len(rows) == 1 else [[0, 1]] * len(rows)
            def predict_proba(self, rows): return [[1.0]] * len(rows)
        """,
    )
    session = load_session(*read_source("h1_d:Model", trust=ALL), trust=ALL)
    assert session.run(np.zeros((1, 1))).tolist() == [0]
    for ask in (session.run, session.scores):
        with pytest.raises(ModelFailed) as caught:
            ask(np.zeros((2, 1)))
        assert caught.value.how == "shape"
    session.close()


def test_forged_payloads(tmp_path):
    write(tmp_path / "h1_a.py", CLASSIFIER)
    manifest, payload = read_source("h1_a:Model", trust=ALL)
    for bad in (b"", b"{}", payload[:-1], payload.replace(b'"layout":1', b'"layout":9'), b"[" * 100_000):
        with pytest.raises(ArtifactCorrupt):
            load_session(manifest, bad, trust=ALL)
    other = payload.replace(b'\\"no\\", \\"yes\\"', b'\\"yes\\", \\"no\\"')
    assert other != payload
    with pytest.raises(ArtifactCorrupt, match="something else of itself"):
        load_session(manifest, other, trust=ALL)


def test_tracebacks_show_the_lines_that_ran():
    made = run_code(Code("h1_e:fail", "def fail():\n    raise ValueError('here')  # the line\n"), ALL)
    with pytest.raises(ValueError, match="here") as caught:
        made.object()
    assert "# the line" in str(caught.getrepr())
    made.close()
    with pytest.raises(EverloopError):
        run_code(Code("h1_e:fail", "def fail(): pass"), Trust())


def test_what_names_a_model(tmp_path):
    assert entry_of("x/y/m.py:A.B") == "m.py:A.B"
    assert beside("sub/m.py:Model", tmp_path) == f"{tmp_path}/sub/m.py:Model"
    assert beside("p.q:Model", tmp_path) == "p.q:Model"
    assert beside("models:/a@b", tmp_path) == "models:/a@b"
    assert beside("m.onnx", tmp_path) == tmp_path / "m.onnx"
    assert [is_source(text) for text in ("linear", "a.onnx", "a/b", "m:F")] == [False, True, True, True]
    assert [title(text) for text in ("a/b.onnx", "a/m.py:F", "models:/x/3")] == ["b.onnx", "m.py:F", "models:/x/3"]
    (tmp_path / "m.onnx").write_bytes(b"plain")
    assert whole_file("m.onnx", trust=Trust()) == b"plain"
    for source, told in (("n.onnx", "did you mean"), (str(tmp_path), "a folder"), ("gone/x", "no folder gone")):
        with pytest.raises(InvalidInput, match=told):
            check_source(source)
    write(tmp_path / "h1_a.py", CLASSIFIER)
    assert whole_file("h1_a:Model", trust=Trust()).startswith(b"PK")
    assert read_code("h1_a:Model").attribute == "Model"
