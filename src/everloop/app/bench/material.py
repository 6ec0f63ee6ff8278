"""What is measured: the breast-cancer model as ONNX, its first row as a request, linear models of any width."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from everloop.app.continuum import Continuum

BC_PATH = "/v1/models/bc/predict"


def breast_cancer_onnx(path: Path) -> Path:
    """A logistic regression on 30 float32 features, no scaler, converted by skl2onnx."""
    import warnings

    from skl2onnx import to_onnx
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression

    X, y = load_breast_cancer(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # without a scaler it stops before it has converged, which costs accuracy, not time
        model = LogisticRegression(max_iter=3000).fit(X, y)
        converted = to_onnx(model, X[:1].astype("float32"), options={"zipmap": False})
    path.write_bytes(converted.SerializeToString())
    return path


def breast_cancer_body() -> bytes:
    from sklearn.datasets import load_breast_cancer

    row = load_breast_cancer().data[0].astype("float32").astype(float)
    return msgspec.json.encode({"features": [float(f"{value:.5g}") for value in row]})


def wide_onnx(path: Path, width: int) -> Path:
    """A linear regression on so many float32 features: input `X` [-1, width], output `variable` [-1, 1]."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression

    X, y = linear_data(width)
    converted = to_onnx(LinearRegression().fit(X, y), X[:1].astype("float32"))
    path.write_bytes(converted.SerializeToString())
    return path


def linear_data(width: int, rows: int = 500, seed: int = 7) -> tuple[Any, Any]:
    """(rows, width) features and their targets, with a little noise."""
    import numpy as np

    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, width))
    return X, X @ rng.normal(size=width) + 1.0 + rng.normal(scale=0.01, size=rows)


def trained_linear(engine: Continuum, name: str, width: int) -> Any:
    """A linear model of that width, live in `engine`. Returns the features that it was trained on."""
    X, y = linear_data(width)
    engine.register_model(name, "linear")
    engine.add_training_examples(name, X.tolist(), y.tolist())
    engine.train_model(name)
    return X
