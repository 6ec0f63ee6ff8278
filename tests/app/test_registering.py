"""Whatever a person names as a model comes in: at the engine, at a server, by hand; and code only where somebody said so."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

import everloop
from everloop.api.http.app import create_app
from everloop.app.build import Engine, build_engine
from everloop.app.cli.serve import allow_named
from everloop.app.scoring.models import find_model
from everloop.app.settings import EngineSettings, ServerSettings, Settings, load_settings
from everloop.core.errors import InvalidInput, ModelNotFound, NotSupported, Untrusted
from everloop.registry import ModelRegistry
from everloop.runtime.artifact import Trust
from everloop.runtime.packaged import dump_artifact, write_artifact
from everloop.runtime.packing import pack
from everloop.runtime.source import read_source
from everloop.serving.config import ServingConfig

with warnings.catch_warnings():  # Starlette would rather have httpx2
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

SOURCE = """
class Scaled:
    features = ["x"]
    def predict(self, rows): return rows[:, 0] * {by}
"""


def offset(rows: np.ndarray) -> np.ndarray:
    """A model, as a function of this module."""
    answers: np.ndarray = rows[:, 0] + 1
    return answers


offset.features = 1  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 2)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = build_engine(EngineSettings(data_dir=tmp_path / "data", trust_code=("*",)))
    made.start(learning=False)
    yield made
    made.stop()


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine.services), raise_server_exceptions=False) as made:
        yield made


def write(folder: Path, by: int) -> None:
    (folder / "scaled.py").write_text(textwrap.dedent(SOURCE.format(by=by)))


def test_code_is_a_model_and_its_versions_stay(tmp_path: Path) -> None:
    with everloop.Continuum(data_dir="data") as models:
        models.register_model("m", "./scaled.py:Scaled")
        assert models.predict("m", [3.0]).prediction == 6.0
        write(tmp_path, 5)
        models.register_model("m", "./scaled.py:Scaled")
        assert models.predict("m", [3.0]).prediction == 15.0
        assert models.rollback("m") == 1
        assert models.predict("m", [3.0]).prediction == 6.0
        assert [each.note for each in models.versions("m")] == ["from scaled.py:Scaled"] * 2
    with everloop.Continuum(data_dir="data") as models:  # where nobody has named it, it does not run
        with pytest.raises(Untrusted, match=r"--trust-code scaled\.py:Scaled"):
            models.predict("m", [3.0])
        models.register_model("m", "./scaled.py:Scaled")
        assert models.predict("m", [3.0]).prediction == 6.0
    with everloop.Continuum(data_dir="data", trust_code=["scaled.py"]) as models:
        assert models.predict("m", [3.0]).prediction == 6.0


def test_objects_and_files_that_only_answer(tmp_path: Path) -> None:
    forest = RandomForestRegressor(3, max_depth=2, random_state=0).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    path = everloop.save_model(forest, tmp_path / "forest.artifact")
    with everloop.Continuum() as models:
        models.register_model("function", offset)
        assert models.predict("function", [1.0]).prediction == 2.0
        models.register_model("forest", path)
        assert models.predict("forest", [1.0]).prediction == pytest.approx(forest.predict([[1.0]])[0])
        assert models.add_version("function", "./scaled.py:Scaled", note="by hand") == 2
        with pytest.raises(NotSupported, match="top of a module"):
            models.register_model("local", lambda rows: rows)


def test_a_registry_keeps_code_under_the_same_trust(tmp_path: Path) -> None:
    with ModelRegistry(tmp_path / "models", trust_code=["scaled"]) as models:
        models.register("scaled:Scaled", name="m")
        assert models.registry.trust == Trust(code=("scaled",))
    with ModelRegistry(tmp_path / "models") as models, pytest.raises(Untrusted):
        models.registry.open_session(models.registry.version("m", 1))


def test_no_code_comes_over_the_network(client: TestClient, engine: Engine, tmp_path: Path) -> None:
    file = dump_artifact(*read_source("./scaled.py:Scaled", trust=Trust()))
    got = client.post("/v1/models/new/versions", content=file)
    assert (got.status_code, got.json()["code"]) == (403, "untrusted")
    assert "from the network" in got.json()["detail"]
    with pytest.raises(ModelNotFound):
        engine.services.registry.get("new")
    engine.register("mine", "./scaled.py:Scaled")
    exported = client.get("/v1/models/mine/export").content
    got = client.post("/v1/imports", content=exported, params={"name": "theirs"})
    assert (got.status_code, got.json()["code"]) == (403, "untrusted")
    with pytest.raises(ModelNotFound):
        engine.services.registry.get("theirs")
    (tmp_path / "m.everloop").write_bytes(exported)
    made = engine.services.registry.import_model(tmp_path / "m.everloop", "theirs")  # by whoever holds the data folder
    assert made.model == "theirs"


def test_an_artifact_file_is_a_version_like_any_other(client: TestClient, tmp_path: Path) -> None:
    forest = RandomForestRegressor(3, max_depth=2, random_state=0).fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    manifest, payload = pack(forest, trust=Trust())
    for status in (201, 200):
        got = client.post("/v1/models/f/versions", content=dump_artifact(manifest, payload), params={"live": "true"})
        assert got.status_code == status, got.text
    asked = client.post("/v1/models/f/predict", json={"features": [1.0]})
    assert asked.json()["prediction"] == pytest.approx(forest.predict([[1.0]])[0])
    damaged = dump_artifact(manifest, payload)[:-40]
    got = client.post("/v1/models/g/versions", content=damaged)
    assert got.json()["code"] == "not_supported", got.text
    assert "damaged" in got.json()["detail"]
    path = write_artifact(tmp_path / "f", manifest, payload)
    with everloop.Continuum() as models:
        models.register_model("f", path)
        assert models.get_model_info("f").version == 1


def test_what_names_a_model_in_a_file_starts_there(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "everloop.toml"
    file.write_text('[models]\na = "m.onnx"\nb = "code/m.py:M"\nc = "p.q:M"\nd = "models:/x@best"\n')
    found = load_settings(environ={}, cwd=tmp_path, config=file)
    there = tmp_path / "etc"
    assert found.models == {
        "a": there / "m.onnx",
        "b": f"{there}/code/m.py:M",
        "c": "p.q:M",
        "d": "models:/x@best",
    }
    allowed = allow_named(Settings(EngineSettings(trust_code=("x",)), ServerSettings()), found.models)
    assert allowed.engine.trust_code == ("x", "m.py:M", "p.q:M")


def test_threads_are_a_models_own(tmp_path: Path) -> None:
    forest = RandomForestRegressor(30, random_state=0, n_jobs=2).fit(np.arange(40.0).reshape(-1, 1), np.arange(40.0))
    path = everloop.save_model(forest, tmp_path / "forest.skops")
    with everloop.Continuum() as models:
        models.register_model("one", path)
        models.register_model("three", path, serving={"threads": 3, "isolation": "thread"})
        lanes = models.engine.services.table.current.lanes
        estimators = [getattr(lanes[name].session, "estimator", None) for name in ("one", "three")]
        assert [each.n_jobs for each in estimators if each is not None] in ([1, 3], [])
        assert lanes["three"].record.manifest.options["threads"] == 3
    for wrong in (0, 1025, "two", True):
        with pytest.raises(InvalidInput, match="threads"):
            ServingConfig(threads=wrong)  # type: ignore[arg-type]


def test_a_pickle_of_something_better_gets_its_format(tmp_path: Path) -> None:
    import cloudpickle
    from river import linear_model

    model = linear_model.LinearRegression()
    for i in range(50):
        model.learn_one({"a": i % 7, "b": 1.0}, 2.0 * (i % 7))
    buffer = io.BytesIO(cloudpickle.dumps(model))
    (tmp_path / "river.pkl").write_bytes(buffer.getvalue())
    with pytest.raises(Untrusted):
        read_source("river.pkl", trust=Trust())
    manifest, _ = read_source("river.pkl", trust=Trust(pickle=True))
    assert (manifest.runtime, manifest.schema.names) == ("river", ("a", "b"))
    path = everloop.save_model(model, tmp_path / "river", feature_names=["a", "b"])
    assert path.name == "river.artifact"
    with pytest.raises(Untrusted), everloop.Continuum() as models:
        models.register_model("r", path)


def test_no_pickle_comes_over_the_network_where_those_of_this_process_are_trusted(tmp_path: Path) -> None:
    from river import linear_model

    with everloop.Continuum() as ours, everloop.Continuum() as others:
        others.register_model("r", linear_model.LinearRegression())
        others.add_training_examples("r", [{"a": float(i)} for i in range(60)], [2.0 * i for i in range(60)])
        others.train_model("r")
        others.engine.services.registry.export_model("r", tmp_path / "r.everloop")
        with TestClient(create_app(ours.engine.services), raise_server_exceptions=False) as client:
            got = client.post("/v1/imports", content=(tmp_path / "r.everloop").read_bytes())
        assert (got.status_code, got.json()["code"]) == (403, "untrusted")
        assert ours.list_models() == []


def test_bulk_scoring_takes_what_names_a_model(tmp_path: Path) -> None:
    found: dict[str, tuple[str, object]] = {}
    artifact = write_artifact(tmp_path / "m", *read_source("./scaled.py:Scaled", trust=Trust()))
    (tmp_path / "clean.py").write_text("def clean(row): return row")
    for text, trust in (
        ("./scaled.py:Scaled", Trust()),
        ("scaled.py:Scaled", Trust()),
        (str(artifact), Trust(code=("scaled.py",))),
        ("clean:clean", Trust()),
    ):
        with find_model(text, storage=tmp_path, trust=trust, batch=False) as model:
            predictor = model.load(["x"], scores=False)
            found[text] = type(model).__name__, type(predictor).__name__
    assert set(found.values()) == {("FittedModel", "SessionPredictor"), ("FunctionModel", "FunctionPredictor")}
    with pytest.raises(Untrusted), find_model(str(artifact), storage=tmp_path, trust=Trust(), batch=False):
        pass
