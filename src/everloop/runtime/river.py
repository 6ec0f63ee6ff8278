"""River models: kept as pickles (River has no other format), answered one row at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everloop.core.errors import ArtifactCorrupt, NotSupported, Untrusted
from everloop.core.schema import Schema, Target, plain
from everloop.core.types import Row, Scalar, Task
from everloop.runtime.artifact import Trust
from everloop.runtime.session import Matrix
from everloop.runtime.sklearn import unpickle
from everloop.stores.ports import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class RiverModel:
    """A River model with what it lacks: the labels behind its booleans, and an answer before it has one."""

    model: Any
    task: Task
    names: tuple[str, ...]
    binary: tuple[Scalar, ...] | None = None
    """River's two-class models speak of False and True: the labels that those stand for, as far as they were seen. None: it takes
    labels as they are."""
    fallback: Scalar | None = None
    """The answer where the model still has none: the most frequent label, or the mean."""

    def features(self, row: Row) -> dict[str, Any]:
        """By name; missing values are left out, which is how River is told of them."""
        return {
            name: value
            for name, value in zip(self.names, row, strict=True)
            if value is not None and value == value  # NaN is not itself
        }

    def answer(self, row: Row) -> Any:
        raw = self.model.predict_one(self.features(row))
        if raw is None:
            return self.fallback
        if self.task == "regression":
            return float(raw)
        label = self.decode(raw)
        return self.fallback if label is None else label

    def decode(self, raw: Any) -> Scalar | None:
        """The label that the model means; None where it means one that it has not seen."""
        if self.binary is None:
            return plain(raw)  # type: ignore[no-any-return]
        place = int(bool(raw))
        return self.binary[place] if place < len(self.binary) else None

    def encode(self, label: Scalar) -> Any:
        """A label as the model takes it. A new label of a two-class model takes the next place."""
        if self.binary is None:
            return label
        if label not in self.binary:
            if len(self.binary) == 2:
                raise NotSupported(
                    f"{describe_model(self.model)} tells two classes apart ({self.binary[0]!r} and {self.binary[1]!r}), and now there is "
                    f"{label!r}: wrap it in river.multiclass.OneVsRestClassifier"
                )
            self.binary = (*self.binary, label)
        return bool(self.binary.index(label))


class RiverSession:
    def __init__(self, manifest: Manifest, model: RiverModel) -> None:
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = manifest.classes
        self.dtype: Any = np.float64 if manifest.schema.numeric else object
        self._model = model
        self.scored = self.classes is not None and hasattr(model.model, "predict_proba_one")
        # Some of River's models keep notes while they predict (a pipeline's plan of steps, a tree's statistics).
        self._lock = threading.Lock()

    def run(self, X: Matrix) -> Matrix:
        rows = X.tolist()
        with self._lock:
            answers = [self._model.answer(row) for row in rows]
        if self.target.task == "regression":
            return np.array(answers, np.float64)
        labels = np.empty(len(answers), dtype=object)
        labels[:] = answers
        return labels

    def scores(self, X: Matrix) -> NDArray[np.float64] | None:
        if not self.scored or self.classes is None:
            return None
        out = np.zeros((len(X), len(self.classes)))
        with self._lock:
            for i, row in enumerate(X.tolist()):
                shares = self._model.model.predict_proba_one(self._model.features(row))
                for raw, share in shares.items():
                    label = self._model.decode(raw)
                    if label in self.classes:
                        out[i, self.classes.index(label)] = share
        return out

    def close(self) -> None:
        """The model goes with the session."""


def load(manifest: Manifest, payload: bytes, trust: Trust) -> RiverSession:
    model = unpickle(payload, trust, "River")
    if not isinstance(model, RiverModel):
        raise ArtifactCorrupt(f"expected a River model, the artifact holds a {type(model).__name__}")
    return RiverSession(manifest, model)


def dump_model(model: Any, trust: Trust) -> bytes:
    """Raises Untrusted without `trust.pickle`."""
    if not trust.pickle:
        raise Untrusted(
            "River models can only be kept as pickles, and loading a pickle runs whatever its writer put in: pass trust_pickle=True "
            "(--trust-pickle) if you alone can write the data folder"
        )
    import cloudpickle

    payload: bytes = cloudpickle.dumps(model)
    return payload


def is_river(model: Any) -> bool:
    """Without importing River: who holds a model of River's has imported it."""
    return any(cls.__module__.partition(".")[0] == "river" for cls in type(model).__mro__)


def river_task(model: Any) -> Task:
    """Raises NotSupported for what predicts no single label or number."""
    from river import base

    last = model
    while hasattr(last, "_last_step"):
        last = last._last_step
    if isinstance(last, (base.MultiLabelClassifier, base.MultiTargetRegressor)):
        raise NotSupported(f"{describe_model(model)} answers several outputs; a model here answers one")
    if isinstance(last, base.Classifier):
        return "classification"
    if isinstance(last, base.Regressor):
        return "regression"
    raise NotSupported(
        f"{describe_model(model)} is neither a classifier nor a regressor (nor a pipeline that ends in one)"
    )


_KEEP_NAMES = {
    "StandardScaler",
    "AdaptiveStandardScaler",
    "MinMaxScaler",
    "MaxAbsScaler",
    "RobustScaler",
    "Normalizer",
    "Binarizer",
}


def learned_names(model: Any) -> list[Any]:
    """The features that a linear model has weights of, in the order in which it met them; none where the model does not tell, or has
    them of what a step in front made."""
    while hasattr(model, "_last_step"):
        if any(type(step).__name__ not in _KEEP_NAMES for step in list(model.steps.values())[:-1]):
            return []
        model = model._last_step
    weights = getattr(model, "weights", None)
    if not isinstance(weights, dict):
        return []
    if weights and all(isinstance(each, dict) for each in weights.values()):  # by class
        return list(dict.fromkeys(name for each in weights.values() for name in each))
    return list(weights)


def is_binary(model: Any) -> bool:
    return not getattr(model, "_multiclass", True)


def describe_model(model: Any) -> str:
    return f"River's {type(model).__name__}"
