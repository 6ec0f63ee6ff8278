"""One small model for each runtime, made in a process of its own: `python -m everloop.app.bench.runtime_models FOLDER`.

It prints JSON: runtime -> the file to serve, or why there is none. All of them answer the same ten features of the same made-up data, so that
what differs is the runtime.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTH = 10
ROWS = 400
PYTHON = """
class Model:
    features = 10
    classes = [0, 1]

    def predict(self, rows):
        return [int(sum(row[:5]) > 0) for row in rows]
"""


def data() -> tuple[Any, Any]:
    import numpy as np

    X = np.random.default_rng(7).normal(size=(ROWS, WIDTH))
    return X, (X[:, :5].sum(axis=1) > 0).astype(int)


def row() -> list[float]:
    found: list[float] = data()[0][0].round(3).tolist()
    return found


def _sklearn(folder: Path) -> Path:
    from sklearn.ensemble import RandomForestClassifier

    import everloop

    return everloop.save_model(RandomForestClassifier(50, random_state=0).fit(*data()), folder / "sklearn.skops")


def _onnx(folder: Path) -> Path:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    X, y = data()
    path = folder / "model.onnx"
    graph = to_onnx(LogisticRegression().fit(X, y), X[:1].astype("float32"), options={"zipmap": False})
    path.write_bytes(graph.SerializeToString())
    return path


def _compiled(estimator: Any, path: Path) -> Path:
    from everloop.learning.learners.make import make_learner
    from everloop.optimization.compiling import compile_artifact
    from everloop.runtime.artifact import Trust
    from everloop.runtime.packaged import write_artifact

    trust = Trust(pickle=True)  # made here
    manifest, payload = make_learner(estimator.fit(*data()), None, trust=trust).freeze()
    return write_artifact(path, *compile_artifact(manifest, payload, trust=trust))


def _linear(folder: Path) -> Path:
    from sklearn.linear_model import LogisticRegression

    return _compiled(LogisticRegression(), folder / "linear.artifact")


def _tree(folder: Path) -> Path:
    from sklearn.tree import DecisionTreeClassifier

    return _compiled(DecisionTreeClassifier(max_depth=5, random_state=0), folder / "tree.artifact")


def _river(folder: Path) -> Path:
    from river import linear_model

    import everloop

    model = linear_model.LinearRegression()
    X, y = data()
    names = [f"x{i}" for i in range(WIDTH)]
    for values, label in zip(X.tolist(), y.tolist(), strict=True):
        model.learn_one(dict(zip(names, values, strict=True)), float(label))
    return everloop.save_model(model, folder / "river.artifact", feature_names=names)


def _xgboost(folder: Path) -> Path:
    from xgboost import XGBClassifier

    path = folder / "xgboost.ubj"
    XGBClassifier(n_estimators=50, n_jobs=1).fit(*data()).save_model(path)
    return path


def _lightgbm(folder: Path) -> Path:
    from lightgbm import LGBMClassifier

    path = folder / "lightgbm.txt"
    LGBMClassifier(n_estimators=50, n_jobs=1, verbose=-1).fit(*data()).booster_.save_model(path)
    return path


def _catboost(folder: Path) -> Path:
    from catboost import CatBoostClassifier

    path = folder / "catboost.cbm"
    model = CatBoostClassifier(iterations=50, thread_count=1, verbose=False, allow_writing_files=False)
    model.fit(*data()).save_model(str(path))
    return path


def _torch(folder: Path) -> Path:
    import torch

    import everloop

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(WIDTH, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    return everloop.save_model(module, folder / "torch.pt2", example=torch.zeros(2, WIDTH), classes=[0, 1])


def _mlflow(folder: Path) -> Path:
    """Of a flavour that is not unwrapped into another runtime."""
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:  # noqa: ARG002
            return np.asarray(model_input)[:, :5].sum(axis=1)

    inputs = Schema([TensorSpec(np.dtype("float64"), (-1, WIDTH))])
    outputs = Schema([TensorSpec(np.dtype("float64"), (-1,))])
    path = folder / "mlflow_model"
    mlflow.pyfunc.save_model(
        str(path), python_model=Model(), signature=ModelSignature(inputs, outputs), pip_requirements=[]
    )
    return path


def _python(folder: Path) -> str:
    path = folder / "bench_model.py"
    path.write_text(PYTHON)
    return f"{path}:Model"


def _pipeline(folder: Path) -> Path:
    _onnx(folder)
    inputs = "".join(f'x{i} = "number"\n' for i in range(WIDTH))
    model = '[[models]]\nmodel = "model.onnx"\n'
    path = folder / "mean.toml"
    path.write_text(f"[inputs]\n{inputs}{model}{model}")
    return path


def _by_size(folder: Path) -> Path:
    from everloop.runtime.artifact import Trust, read_model_file
    from everloop.runtime.by_size import combine
    from everloop.runtime.packaged import read_artifact, write_artifact

    few = read_artifact(_linear(folder).read_bytes())
    many = read_model_file(_onnx(folder), trust=Trust())
    return write_artifact(folder / "by_size.artifact", *combine([(1, *few), (16, *many)]))


MAKERS: dict[str, Callable[[Path], Path | str]] = {
    "linear": _linear,
    "tree": _tree,
    "onnx": _onnx,
    "sklearn": _sklearn,
    "river": _river,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
    "torch": _torch,
    "mlflow": _mlflow,
    "python": _python,
    "pipeline": _pipeline,
    "by_size": _by_size,
}


def main() -> None:
    import warnings

    warnings.simplefilter("ignore")  # of libraries, at fitting and exporting
    told: dict[str, dict[str, str]] = {}
    for name, make in MAKERS.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        try:
            told[name] = {"model": str(make(folder))}
        except Exception as error:  # its library is not installed, say: the others are measured all the same
            told[name] = {"why": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
