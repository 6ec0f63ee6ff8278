"""XGBoost, LightGBM and CatBoost estimators as learners: what they fit is their library's own file, so nothing is pickled.

The unfitted estimator is kept as its class and parameters, and what serves, is checkpointed and answers here is the artifact alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import (
    ArtifactCorrupt,
    EverloopError,
    FitFailed,
    ModelUntrained,
    NotSupported,
    Untrusted,
)
from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.learning.learners.base import Weight
from everloop.learning.learners.labels import distinct_classes
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.boosted import library_of, pack_boosted
from everloop.runtime.formats import format_of
from everloop.runtime.inputs import task_of
from everloop.runtime.session import plain_answers
from everloop.runtime.sklearn import pickle_estimator
from everloop.stores.ports import Manifest

ESTIMATORS = (
    "xgboost.XGBClassifier",
    "xgboost.XGBRegressor",
    "xgboost.XGBRFClassifier",
    "xgboost.XGBRFRegressor",
    "lightgbm.LGBMClassifier",
    "lightgbm.LGBMRegressor",
    "catboost.CatBoostClassifier",
    "catboost.CatBoostRegressor",
)


class _Template(msgspec.Struct, frozen=True, tag="boosted"):
    estimator: str
    """One of `ESTIMATORS`."""
    parameters: str
    """JSON, in which NaN may be."""


class _Dump(msgspec.Struct, frozen=True):
    manifest: Manifest
    payload: bytes


class BoostedLearner:
    """Fits private clones; an estimator that is fitted already is the learner's first state."""

    kind = "estimator"
    weight: Weight = "unknown"
    incremental = False

    def __init__(self, estimator: Any, *, trust: Trust) -> None:
        """Raises NotSupported (a ranker)."""
        from sklearn.base import clone

        self.name = name_of(estimator)
        self.task: Task | None = task_of(estimator)
        self.trust = trust
        self._template = clone(estimator)
        self._made: tuple[Manifest, bytes] | None = pack_boosted(estimator) if is_fitted(estimator) else None

    def clone(self) -> BoostedLearner:
        return BoostedLearner(self._template, trust=self.trust)

    def fit(self, schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Raises FitFailed with the library's own message."""
        from sklearn.base import clone

        if target.task != self.task:
            raise FitFailed(f"{self.name} is for {self.task}, but the labels are for {target.task}")
        if not rows:
            raise FitFailed("there are no examples to fit")
        estimator = clone(self._template)
        library = library_of(estimator)
        classes = distinct_classes(labels) if target.task == "classification" else None
        try:
            X, options = _shaped(library, estimator, schema, rows)
            # XGBoost wants its classes numbered
            numbered = library == "xgboost" and classes is not None
            y = [classes.index(label) for label in labels] if numbered and classes is not None else list(labels)
            estimator.fit(X, np.asarray(y), **options)
            names = schema.names if schema.named else None
            manifest, payload = pack_boosted(estimator, names, classes)
        except EverloopError as error:
            raise FitFailed(error.message) from error
        except Exception as error:
            raise FitFailed(f"{self.name} failed: {type(error).__name__}: {error}") from error
        self._made = msgspec.structs.replace(manifest, schema=schema, target=target), payload

    def learn(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:  # noqa: ARG002  as `Learner`
        raise NotSupported(f"{self.name} has no partial_fit: fit it again")

    def predict(self, rows: Sequence[Row]) -> list[Any]:
        manifest, payload = self._fitted()
        session = load_session(manifest, payload, trust=self.trust)
        X = manifest.schema.matrix(rows, session.dtype if manifest.schema.numeric else None)
        return plain_answers(session.run(X), regression=manifest.task == "regression")

    def freeze(self) -> tuple[Manifest, bytes]:
        return self._fitted()

    def dump(self) -> bytes:
        return b"" if self._made is None else msgspec.msgpack.encode(_Dump(*self._made))

    def restore(self, data: bytes) -> None:
        if not data:
            self._made = None
            return
        dump = msgspec.msgpack.decode(data, type=_Dump)
        self._made = dump.manifest, dump.payload

    def describe(self) -> tuple[dict[str, Any], bytes]:
        """The parameters tell two specifications apart; the template is what is loaded again. Raises Untrusted."""
        given = parameters_of(self._template)
        shown = ", ".join(f"{name}={value!r}" for name, value in sorted(given.items()))
        return {"estimator": f"{self.name.partition('.')[2]}({shown})"}, self._kept(given)

    def _kept(self, given: Mapping[str, Any]) -> bytes:
        try:
            return msgspec.json.encode(_Template(self.name, json.dumps(given)))
        except TypeError as error:
            if self.trust.pickle:
                return pickle_estimator(self._template)
            raise Untrusted(
                f"{self.name} has a parameter that only a pickle can hold ({error}): pass trust_pickle=True (--trust-pickle) if you "
                "alone can write the data folder"
            ) from error

    @property
    def fitted(self) -> bool:
        return self._made is not None

    def _fitted(self) -> tuple[Manifest, bytes]:
        if self._made is None:
            raise ModelUntrained(f"{self.name} has not been fitted yet")
        return self._made


def is_boosted(estimator: Any) -> bool:
    """Whether its class is one of the three libraries' own that can be fitted."""
    return library_of(estimator) is not None and hasattr(estimator, "fit")


def is_fitted(estimator: Any) -> bool:
    """CatBoost's estimators have no attribute that tells, and a method."""
    if library_of(estimator) == "catboost":
        return bool(estimator.is_fitted())
    return bool(estimator.__sklearn_is_fitted__())


def name_of(estimator: Any) -> str:
    """Raises NotSupported."""
    name = f"{library_of(estimator)}.{type(estimator).__name__}"
    if name not in ESTIMATORS:
        raise NotSupported(
            f"a {type(estimator).__name__} gives no number or label for a row on its own; there are "
            f"{', '.join(each.partition('.')[2] for each in ESTIMATORS)}",
            field="model",
        )
    return name


def parameters_of(estimator: Any) -> dict[str, Any]:
    return {name: value for name, value in estimator.get_params().items() if value is not None}


def load_template(data: bytes, trust: Trust) -> BoostedLearner | None:
    """What `describe` kept; None for the template of another kind. Raises ArtifactCorrupt, MissingExtra."""
    if not data.startswith(b'{"type":"boosted"'):
        return None
    try:
        told = msgspec.json.decode(data, type=_Template)
        if told.estimator not in ESTIMATORS:
            raise NotSupported(f"the record names {told.estimator!r}; known are {', '.join(ESTIMATORS)}")
        library, _, name = told.estimator.partition(".")
        format_of(library).open()
        return BoostedLearner(getattr(import_module(library), name)(**json.loads(told.parameters)), trust=trust)
    except EverloopError:
        raise
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise ArtifactCorrupt(f"the record's template cannot be read: {error}") from error


def _shaped(library: str | None, estimator: Any, schema: Schema, rows: Sequence[Row]) -> tuple[Any, dict[str, Any]]:
    """The rows as the library takes them, and what else its `fit` has to be told: text is a category."""
    X = schema.matrix(rows)
    if schema.numeric:
        return X, {}
    import pandas as pd

    columns: dict[str, Any] = {}
    for i, each in enumerate(schema.fields):
        if each.kind == "number":
            columns[each.name] = X[:, i].astype(np.float64)
        else:
            columns[each.name] = X[:, i] if library == "catboost" else pd.Categorical(X[:, i])
    frame = pd.DataFrame(columns)
    texts = [each.name for each in schema.fields if each.kind == "text"]
    if library == "xgboost":
        estimator.set_params(enable_categorical=True)
    if library == "catboost" and estimator.get_params().get("cat_features") is None:
        return frame, {"cat_features": texts}
    return frame, {}
