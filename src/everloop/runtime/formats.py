"""The runtimes: which module loads which kind of artifact, what it needs installed, and whether its answers are Python code.

A runtime is a module with `load(manifest, payload, trust) -> Session`, and `read_file(payload, trust) -> Manifest` if there are files of
its kind (`READERS`). One whose files name other files beside them has `read_path(path, trust) -> (Manifest, payload)` as well, which
puts them together. One that says more of labelled examples than schema and target do has `check_example(row, label, at)`. They import their library inside those functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from everloop.core.errors import MissingExtra, NotSupported


@dataclass(frozen=True)
class Format:
    module: str
    what: str
    """In words, for messages."""
    library: str = ""
    """What must be importable; empty: nothing besides everloop's own dependencies."""
    extra: str = ""
    """Of everloop, which brings the library."""
    python: bool = False
    """Whether answering holds the interpreter: such a challenger runs in a process of its own, and a slow champion as well."""
    code: bool = False
    """Whether an artifact of it may bring code along (a pickle, Python source), or name some: what comes over the network is then looked at
    before it is kept."""

    def open(self) -> ModuleType:
        """Raises MissingExtra where its library is not installed."""
        missing = self.missing()
        if missing is not None:
            raise missing
        return import_module(self.module)

    def missing(self) -> MissingExtra | None:
        """What `open` would raise."""
        if self.library and find_spec(self.library) is None:
            return MissingExtra.of(self.extra, self.what)
        return None


FORMATS: dict[str, Format] = {
    "linear": Format("everloop.runtime.linear", "a compiled linear model"),
    "tree": Format("everloop.runtime.tree", "compiled decision trees"),
    "by_size": Format("everloop.runtime.by_size", "several forms of a model, each for some batch sizes", code=True),
    "pipeline": Format("everloop.runtime.pipeline", "a pipeline of models and steps", python=True, code=True),
    "sklearn": Format("everloop.runtime.sklearn", "a scikit-learn estimator", python=True, code=True),
    "onnx": Format("everloop.runtime.onnx", "an ONNX model"),
    "image": Format("everloop.runtime.image", "an image classifier", library="PIL", extra="images"),
    "factors": Format("everloop.runtime.factors", "a recommender"),
    "text": Format("everloop.runtime.text", "a linear classifier of texts"),
    "torch": Format("everloop.runtime.torch", "a PyTorch model", library="torch", extra="torch", code=True),
    "xgboost": Format("everloop.runtime.xgboost", "an XGBoost model", "xgboost", "boost"),
    "lightgbm": Format("everloop.runtime.lightgbm", "a LightGBM model", "lightgbm", "boost"),
    "catboost": Format("everloop.runtime.catboost", "a CatBoost model", "catboost", "boost"),
    "mlflow": Format("everloop.runtime.mlflow", "an MLflow model", "mlflow", "mlflow", python=True, code=True),
    "river": Format("everloop.runtime.river", "a River model", python=True, code=True),
    "python": Format("everloop.runtime.python", "a model in Python", python=True, code=True),
}

READERS: dict[str, str] = {
    "onnx": "onnx",
    "skops": "sklearn",
    "pickle": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "torch_export": "torch",
    "torchscript": "torch",
    "safetensors": "torch",
    "pipeline": "pipeline",
}
"""Which runtime reads a file of which kind (`sniff.Kind`)."""

PYTHON = frozenset(name for name, each in FORMATS.items() if each.python)


def format_of(runtime: str) -> Format:
    """Raises NotSupported."""
    found = FORMATS.get(runtime)
    if found is None:
        raise NotSupported(f"no runtime named {runtime!r}; known are {', '.join(FORMATS)}")
    return found
