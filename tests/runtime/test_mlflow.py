"""MLflow folders become artifacts of the runtimes here where they can; all else is answered by MLflow, where that is trusted."""

from __future__ import annotations

import gc
import json
import logging
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pytest
import skops.io
import xgboost
import yaml
from sklearn.linear_model import LogisticRegression

from everloop.core.errors import ArtifactCorrupt, InvalidInput, ModelFailed, NotSupported, Untrusted
from everloop.runtime import mlflow as runtime
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.mlflow import mismatches, pack_files, pack_folder
from everloop.runtime.mlflow_folder import read_folder, schema_of, target_of
from everloop.runtime.packing import pack
from everloop.runtime.source import read_source
from everloop.stores.ports import Manifest

SAFE, TRUSTING = Trust(), Trust(pickle=True)
RNG = np.random.default_rng(5)
X = RNG.normal(size=(80, 2))
Y = (X[:, 0] > 0).astype(int)
COLUMNS = [{"type": "double", "name": name, "required": True} for name in ("age of", "calls")]
VALUE = [{"type": "double", "required": True}]
PYFUNC = {"loader_module": "mlflow.pyfunc.model", "python_version": "3.11"}


def folder(
    path: Path,
    flavors: dict[str, Any],
    files: dict[str, bytes] | None = None,
    inputs: Any = COLUMNS,
    outputs: Any = VALUE,
    requirements: str = "numpy\n",
) -> Path:
    path.mkdir()
    signature = {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs)} if inputs else None
    described = {"flavors": flavors, "signature": signature, "run_id": "r1", "mlflow_version": "3.1.0"}
    (path / "MLmodel").write_text(yaml.safe_dump(described))
    (path / "requirements.txt").write_text(requirements)
    for name, content in (files or {}).items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content)
    return path


def answers(packed: tuple[Manifest, bytes], trust: Trust = SAFE) -> list[Any]:
    session = load_session(*packed, trust=trust)
    try:
        found: list[Any] = session.run(X.astype(session.dtype)).tolist()
        return found
    finally:
        session.close()


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost", "sklearn"])
def test_a_flavour_that_is_read_here_needs_no_mlflow(tmp_path: Path, library: str) -> None:
    model: Any = {
        "xgboost": lambda: xgboost.XGBClassifier(n_estimators=4, n_jobs=1),
        "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1),
        "catboost": lambda: catboost.CatBoostClassifier(iterations=4, verbose=0, allow_writing_files=False),
        "sklearn": LogisticRegression,
    }[library]()
    model.fit(X, Y)
    payload = skops.io.dumps(model) if library == "sklearn" else pack(model, trust=SAFE)[1]
    key = "pickled_model" if library == "sklearn" else "data"
    made = folder(tmp_path / "m", {library: {key: "model.bin"}, "python_function": PYFUNC}, {"model.bin": payload})
    manifest, same = read_source(made, trust=SAFE)
    assert (manifest.runtime, same) == (library, payload)
    assert manifest.schema.names == ("age of", "calls")  # the signature's
    assert manifest.lineage["mlflow"]["run_id"] == "r1"
    assert answers((manifest, same)) == model.predict(X).tolist()


def test_lightgbm_is_taken_out_of_mlflows_wrapper(tmp_path: Path) -> None:
    model = lightgbm.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1).fit(X, np.where(Y, "yes", "no"))
    file = {"model.skops": skops.io.dumps(model)}
    packed = pack_folder(folder(tmp_path / "m", {"lightgbm": {"data": "model.skops"}}, file), SAFE)
    assert packed[0].classes == ["no", "yes"]
    assert answers(packed) == model.predict(X).tolist()
    empty = {"model.skops": skops.io.dumps(LogisticRegression())}
    with pytest.raises(ArtifactCorrupt, match="holds no booster"):
        pack_folder(folder(tmp_path / "n", {"lightgbm": {"data": "model.skops"}}, empty), SAFE)


@pytest.mark.parametrize("name", ["../other.bin", "/etc/passwd", "none.bin"])
def test_a_folder_names_only_what_is_inside(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.bin").write_bytes(b"x")
    made = folder(tmp_path / "m", {"xgboost": {"data": name}})
    with pytest.raises(ArtifactCorrupt, match="not in its folder"):
        pack_folder(made, SAFE)


def test_an_unreadable_description(tmp_path: Path) -> None:
    made = folder(tmp_path / "m", {})
    for text in ("flavors: [", "flavors: 3", "- 1", "flavors: {}\nsignature: {inputs: '['}", ""):
        (made / "MLmodel").write_text(text)
        with pytest.raises(ArtifactCorrupt, match="MLmodel cannot be read"):
            read_folder(made)


def test_signatures(tmp_path: Path) -> None:
    def made(name: str, **given: Any) -> Any:
        return read_folder(folder(tmp_path / name, {}, **given))

    tensor = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}]
    labels = [{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]
    told = made("a", inputs=tensor, outputs=labels)
    assert (len(schema_of(told).fields), told.dtype, target_of(told).kind) == (3, "float32", "integer")
    mixed = [
        {"type": "string", "name": "city"},
        {"type": "long", "name": "rooms", "required": False},
        {"type": "boolean", "name": "new"},
    ]
    schema = schema_of(made("b", inputs=mixed))
    assert [(each.kind, each.nullable) for each in schema.fields] == [
        ("text", False),
        ("number", True),
        ("number", False),
    ]
    with pytest.raises(NotSupported, match="type datetime"):
        schema_of(made("c", inputs=[{"type": "datetime", "name": "when"}]))
    with pytest.raises(NotSupported, match="infer_signature"):
        schema_of(made("d", inputs=None))
    with pytest.raises(NotSupported, match="does not tell what it answers"):
        target_of(made("e", outputs=[*VALUE, *VALUE]))
    assert target_of(made("f", outputs=[{"type": "string"}])).kind == "text"


def test_other_versions_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wanted = "numpy>=99\nnot-there==1.0\nmlflow==1.0\n-r other.txt\nwin; sys_platform == 'win32'\nxgboost>=2\n"
    made = folder(tmp_path / "m", {"python_function": PYFUNC}, requirements=wanted)
    found = mismatches(made)
    assert [each.split()[0] for each in found] == ["numpy>=99,", "not-there==1.0"]
    with caplog.at_level(logging.WARNING):
        manifest, _ = pack_folder(made, TRUSTING)
    assert "not-there==1.0 is not installed" in caplog.text
    assert manifest.lineage["mlflow"]["mismatches"] == found
    (made / "requirements.txt").unlink()
    assert mismatches(made) == []


def test_what_mlflow_would_answer_takes_trust(tmp_path: Path) -> None:
    made = folder(tmp_path / "m", {"python_function": PYFUNC, "keras": {"data": "data"}})
    for trust in (SAFE, Trust(pickle=True, network=True)):
        with pytest.raises(Untrusted, match="trust-pickle"):
            read_source(made, trust=trust)
    manifest, payload = read_source(made, trust=TRUSTING)
    assert (manifest.runtime, manifest.task) == ("mlflow", "regression")
    with pytest.raises(Untrusted):
        load_session(manifest, payload, trust=SAFE)
    with pytest.raises(NotSupported, match="no flavour"):
        pack_folder(folder(tmp_path / "n", {"keras": {"data": "data"}}), TRUSTING)
    asked = {"predict_fn": "predict_proba", **PYFUNC}
    probabilities = folder(tmp_path / "o", {"python_function": asked, "sklearn": {"pickled_model": "MLmodel"}})
    assert pack_folder(probabilities, TRUSTING)[0].runtime == "mlflow"


def test_a_folder_packs_the_same_and_unpacks_inside(tmp_path: Path) -> None:
    made = folder(tmp_path / "m", {"python_function": PYFUNC}, {"code/own.py": b"x = 1\n"})
    assert pack_files(made) == pack_files(
        folder(tmp_path / "n", {"python_function": PYFUNC}, {"code/own.py": b"x = 1\n"})
    )
    manifest, _ = pack_folder(made, TRUSTING)
    leading_out = BytesIO()
    with zipfile.ZipFile(leading_out, "w") as archive:
        archive.writestr("../out.txt", "x")
    for payload in (leading_out.getvalue(), b"no zip", leading_out.getvalue()[:20]):
        with pytest.raises(ArtifactCorrupt):
            load_session(manifest, payload, trust=TRUSTING)
    assert not (tmp_path / "out.txt").exists()


# -- with MLflow itself --


@pytest.fixture(scope="module")
def pyfunc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        class Sums(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
                if len(model_input) == 3:
                    return [1.0]
                return model_input["calls"] + len(model_input["city"].iloc[0])

        signature = mlflow.models.ModelSignature(
            mlflow.types.Schema(
                [
                    mlflow.types.ColSpec("string", "city"),
                    mlflow.types.ColSpec("long", "calls"),
                    mlflow.types.ColSpec("double", "rate", required=False),
                ]
            ),
            mlflow.types.Schema([mlflow.types.ColSpec("double")]),
        )
        path = tmp_path_factory.mktemp("mlflow") / "sums"
        mlflow.pyfunc.save_model(path, python_model=Sums(), signature=signature, pip_requirements=["numpy"])
    return path


def test_pyfunc_answers_rows(pyfunc: Path) -> None:
    manifest, payload = read_source(pyfunc, trust=TRUSTING)
    assert [(each.name, each.kind, each.nullable) for each in manifest.schema.fields] == [
        ("city", "text", False),
        ("calls", "number", False),
        ("rate", "number", True),
    ]
    session = load_session(manifest, payload, trust=TRUSTING)
    rows = manifest.schema.matrix(manifest.schema.rows([{"city": "Ulm", "calls": 4}, ["Bonn", 2, 0.5]]))
    assert session.run(rows).tolist() == [7.0, 5.0]
    assert session.scores(rows) is None
    with pytest.raises(ModelFailed, match="shape") as caught:
        session.run(np.repeat(rows[:1], 3, axis=0))
    assert caught.value.how == "shape"
    session.close()


def test_a_pyfunc_that_cannot_be_loaded_says_what_is_missing(pyfunc: Path, tmp_path: Path) -> None:
    manifest, _ = read_source(pyfunc, trust=TRUSTING)
    flavors = {"python_function": {**PYFUNC, "loader_module": "not_there.loader"}}
    broken = folder(tmp_path / "m", flavors, requirements="not-there==2.0\n")
    with pytest.raises(ArtifactCorrupt, match=r"not_there.*not-there==2\.0 is not installed"):
        load_session(manifest, pack_files(broken), trust=TRUSTING)


def test_versions_of_a_registry(pyfunc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""
        mlflow.set_tracking_uri(f"file://{tmp_path / 'store'}")
        try:
            client = mlflow.MlflowClient()
            run = client.create_run(client.create_experiment("e")).info.run_id
            client.log_artifacts(run, str(pyfunc), "model")
            client.create_registered_model("sums")
            client.create_model_version("sums", f"runs:/{run}/model", run)
            client.set_registered_model_alias("sums", "champion", "1")
            payloads = set()
            for uri in ("models:/sums@champion", "models:/sums/1", f"runs:/{run}/model"):
                manifest, payload = read_source(uri, trust=TRUSTING)
                assert manifest.lineage["mlflow"]["uri"] == uri
                payloads.add(payload)
            assert {len(payload) > 0 for payload in payloads} == {True}
            for uri in ("models:/none@champion", "models:/sums@none", "runs:/none/model"):
                with pytest.raises(InvalidInput, match=r"was not found at file://.*MLFLOW_TRACKING_URI"):
                    read_source(uri, trust=TRUSTING)
        finally:
            mlflow.set_tracking_uri(before)
            gc.collect()  # MLflow's download threads end with the objects that own them


def test_a_registry_whose_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    def missing(**_: Any) -> str:
        raise ModuleNotFoundError("No module named 'alembic'")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", missing)
    with pytest.raises(InvalidInput, match=r"alembic.*MLFLOW_TRACKING_URI"):
        runtime.pack_uri("models:/a@b", SAFE)
