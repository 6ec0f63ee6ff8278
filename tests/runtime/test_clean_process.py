"""Each runtime's artifact opens in a fresh interpreter, by its digest, from a data folder: nothing of the process that made it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.formats import FORMATS, PYTHON
from everloop.runtime.packing import pack
from everloop.runtime.source import read_source
from everloop.stores.objects import FolderArtifacts
from everloop.stores.ports import Manifest

Artifact = tuple[Manifest, bytes]

OPEN = """
import json, sys, time
import numpy as np, msgspec
from everloop.runtime.artifact import Trust, load_session
from everloop.stores.objects import FolderArtifacts
from everloop.stores.ports import Manifest

folder, digest, manifest, trust, rows = sys.argv[1:]
manifest = msgspec.json.decode(manifest, type=Manifest)
payload = FolderArtifacts(folder, read_only=True).get(digest)
session = load_session(manifest, payload, trust=Trust(**json.loads(trust)))
X = session.schema.matrix(json.loads(rows), session.dtype)
answers = [session.run(X[:1]).tolist(), session.run(X).tolist(), session.run(X).tolist()]
session.close()
print(json.dumps([answers, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
TRUST = {"pickle": True, "code": ["*"]}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
"""A PNG, in base64."""
ROWS = [[0.0, 1.0], [1.0, 3.0], [2.0, 0.0]]
X = np.array([[i % 5, i % 3] for i in range(60)], float)
Y = X @ [2.0, 1.0]
LIGHT = {"linear", "tree", "by_size", "onnx", "python", "text", "image", "factors"}
"""Those that need nothing of scikit-learn, nor of what else made them."""


def _compiled(estimator: Any) -> Artifact:
    from everloop.optimization.compiling import compile_artifact

    return compile_artifact(*pack(estimator.fit(X, Y), trust=Trust()), trust=Trust())


def _by_size(folder: Path) -> Artifact:
    from everloop.runtime.by_size import combine

    return combine([(1, *_compiled(LinearRegression())), (9, *_onnx(folder))])


def _builtin(name: str) -> Artifact:
    from everloop.runtime.packaged import read_artifact
    from everloop.showcase.builtin import builtin_path

    return read_artifact(builtin_path(name).read_bytes())


def _pipeline(folder: Path) -> Artifact:
    import everloop

    everloop.save_model(LinearRegression().fit(X, Y), folder / "m.skops", feature_names=["a", "b"])
    (folder / "p.toml").write_text('[inputs]\na = "number"\nb = "number"\n[[models]]\nmodel = "m.skops"\n')
    return read_source(folder / "p.toml", trust=Trust())


def _onnx(folder: Path) -> Artifact:
    from skl2onnx import to_onnx

    made = to_onnx(LinearRegression().fit(X, Y), X[:1].astype(np.float32))
    return pack(made.SerializeToString(), trust=Trust())


def _torch(_: Path) -> Artifact:
    import torch

    torch.manual_seed(0)
    return pack(torch.nn.Linear(2, 1), trust=Trust(), example=np.zeros((2, 2), np.float32))


def _mlflow(folder: Path) -> Artifact:
    import mlflow

    (folder / "code.py").write_text(
        "import mlflow, pandas\n"
        "class Model(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input: pandas.DataFrame, params=None): return model_input.sum(axis=1)\n"
        "mlflow.models.set_model(Model())\n"
    )
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns = Schema([ColSpec("double", "a"), ColSpec("double", "b")])
    signature = ModelSignature(columns, Schema([ColSpec("double")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            str(folder / "model"), python_model=str(folder / "code.py"), signature=signature, pip_requirements=[]
        )
        return read_source(folder / "model", trust=Trust(pickle=True, code=("*",)))


def _boosted(library: str) -> Artifact:
    if library == "xgboost":
        from xgboost import XGBRegressor as Model
    elif library == "lightgbm":
        from lightgbm import LGBMRegressor as Model
    else:
        from catboost import CatBoostRegressor as Model
    options = {"xgboost": {}, "lightgbm": {"verbose": -1}, "catboost": {"verbose": 0, "allow_writing_files": False}}
    return pack(Model(n_estimators=2, **options[library]).fit(X, Y), trust=Trust())


def _river(_: Path) -> Artifact:
    from river import linear_model

    model = linear_model.LinearRegression()
    for (a, b), y in zip(X.tolist(), Y.tolist(), strict=True):
        model.learn_one({"a": a, "b": b}, y)
    return pack(model, trust=Trust(pickle=True))


def _python(folder: Path) -> Artifact:
    (folder / "m.py").write_text("def total(rows): return rows.sum(axis=1)\ntotal.features = 2\n")
    return read_source(f"{folder}/m.py:total", trust=Trust())


MAKERS: dict[str, Callable[[Path], Artifact]] = {
    "linear": lambda _: _compiled(LinearRegression()),
    "tree": lambda _: _compiled(DecisionTreeRegressor(max_depth=3)),
    "by_size": _by_size,
    "pipeline": _pipeline,
    "sklearn": lambda _: pack(LinearRegression().fit(X, Y), trust=Trust()),
    "onnx": _onnx,
    "torch": _torch,
    "xgboost": lambda _: _boosted("xgboost"),
    "lightgbm": lambda _: _boosted("lightgbm"),
    "catboost": lambda _: _boosted("catboost"),
    "mlflow": _mlflow,
    "river": _river,
    "python": _python,
    "text": lambda _: _builtin("sentiment"),
    "image": lambda _: _builtin("digits"),
    "factors": lambda _: _builtin("shop"),
}
ROWS_OF = {
    "text": [["I love it"], ["I hate it"], ["12"]],
    "image": [[PIXEL], [PIXEL], [PIXEL]],
    "factors": [["u", "item1"], ["v", "item2"], ["u", "item3"]],
}
"""Where they are not numbers."""


@pytest.mark.parametrize("runtime", FORMATS)
def test_an_artifact_opens_by_its_digest(runtime: str, tmp_path: Path) -> None:
    import msgspec

    manifest, payload = MAKERS[runtime](tmp_path)
    assert manifest.runtime == runtime
    session = load_session(manifest, payload, trust=Trust(pickle=True, code=("*",)))
    rows = ROWS_OF.get(runtime, ROWS)
    try:
        matrix = session.schema.matrix(rows, session.dtype)
        here = [session.run(matrix[:1]).tolist(), session.run(matrix).tolist()]
    finally:
        session.close()
    digest = FolderArtifacts(tmp_path / "artifacts").put(payload)
    asked = [str(tmp_path / "artifacts"), digest, msgspec.json.encode(manifest).decode(), json.dumps(TRUST)]
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *asked, json.dumps(rows)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (first, all_at_once, again), modules = json.loads(done.stdout.splitlines()[-1])
    assert [first, all_at_once, again] == [*here, here[1]]
    if runtime in LIGHT:
        assert not {"sklearn", "scipy", "torch", "pandas"} & set(modules)
    if runtime in {"sklearn", "pipeline"}:
        assert "torch" not in modules, "which skops would import, by way of scikit-learn"


def test_what_is_python_is_told() -> None:
    assert {"sklearn", "river", "python", "mlflow"} <= PYTHON
    assert all(FORMATS[name].code for name in PYTHON), "what Python answers, Python code may be in"
