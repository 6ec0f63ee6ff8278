"""The kinds `forest` and `boosting`, and the linear models for tables with text: estimators that are built to fit a schema."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from everloop.core.errors import FitFailed, InvalidInput, ModelUntrained, NotSupported
from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.learning.learners.base import Weight
from everloop.learning.learners.sklearn import EstimatorLearner
from everloop.runtime.artifact import Trust
from everloop.stores.ports import Manifest

Family = Literal["forest", "boosting", "encoded"]

MOST_CATEGORIES = 200
"""Categories that a text column is told apart into; rarer ones share a place (histogram boosting takes at most 255)."""


class _Dump(msgspec.Struct, frozen=True):
    schema: Schema
    task: Task
    inner: bytes


class FamilyLearner:
    """An estimator of one family, made when the schema and the task are known. Not incremental.

    Text is taken as categories: ordered codes for trees, indicators for linear models. Missing numbers and categories are fine."""

    incremental = False
    weight: Weight = "heavy"

    def __init__(self, kind: Family, parameters: Mapping[str, Any] | None = None, *, trust: Trust) -> None:
        self.kind: str = kind
        self.trust = trust
        self.parameters = dict(parameters or {})
        self.task: Task | None = check_task(self.parameters)
        _check_options(kind, self.task, self._options())
        self._inner: EstimatorLearner | None = None
        self._schema: Schema | None = None

    def clone(self) -> FamilyLearner:
        return FamilyLearner(self.kind, self.parameters, trust=self.trust)  # type: ignore[arg-type]

    def fit(self, schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Raises FitFailed."""
        if self.task is not None and target.task != self.task:
            raise FitFailed(f"this {self.kind} model is for {self.task}, but the labels are for {target.task}")
        inner = self._make(schema, target.task)
        inner.fit(schema, target, rows, labels)
        self._inner, self._schema, self.task = inner, schema, target.task

    def learn(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:  # noqa: ARG002 - the contract's names
        raise NotSupported(f"kind {self.kind!r} does not learn example by example: fit it again")

    def predict(self, rows: Sequence[Row]) -> list[Any]:
        return self._fitted().predict(rows)

    def freeze(self) -> tuple[Manifest, bytes]:
        return self._fitted().freeze()

    def dump(self) -> bytes:
        if self._inner is None or self._schema is None or self.task is None:
            return b""
        return msgspec.msgpack.encode(_Dump(self._schema, self.task, self._inner.dump()))

    def restore(self, data: bytes) -> None:
        if not data:
            self._inner = self._schema = None
            return
        dump = msgspec.msgpack.decode(data, type=_Dump)
        inner = self._make(dump.schema, dump.task)
        inner.restore(dump.inner)
        self._inner, self._schema, self.task = inner, dump.schema, dump.task

    def describe(self) -> tuple[dict[str, Any], None]:
        return dict(self.parameters), None

    def _options(self) -> dict[str, Any]:
        return {name: value for name, value in self.parameters.items() if name != "task"}

    def _make(self, schema: Schema, task: Task) -> EstimatorLearner:
        return EstimatorLearner(build_estimator(self.kind, task, schema, self._options()), trust=self.trust)

    def _fitted(self) -> EstimatorLearner:
        if self._inner is None:
            raise ModelUntrained(f"this {self.kind} learner has not been fitted yet")
        return self._inner


def check_task(parameters: Mapping[str, Any]) -> Task | None:
    """`parameters["task"]`, None where the labels shall tell. Raises InvalidInput."""
    task = parameters.get("task")
    if task not in (None, "regression", "classification"):
        raise InvalidInput(
            f"parameters.task: expected 'regression' or 'classification', got {task!r}", field="parameters.task"
        )
    return task


def build_estimator(family: str, task: Task, schema: Schema, options: Mapping[str, Any]) -> Any:
    """An unfitted scikit-learn estimator or pipeline."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    text = [i for i, field in enumerate(schema.fields) if field.kind == "text"]
    numbers = [i for i, field in enumerate(schema.fields) if field.kind == "number"]
    settings = {"random_state": 0, **options}
    final: Any
    if family == "encoded":
        parts: list[Any] = [
            ("numbers", make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()), numbers),
            ("text", OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES), text),
        ]
        return make_pipeline(ColumnTransformer([part for part in parts if part[2]]), _class_of(family, task)(**options))
    if not text:
        return _class_of(family, task)(**settings)
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=float("nan"),
        encoded_missing_value=float("nan"),
        max_categories=MOST_CATEGORIES,
    )
    columns = ColumnTransformer([("text", codes, text), ("numbers", "passthrough", numbers)])
    if family == "boosting" and "categorical_features" not in settings:
        settings["categorical_features"] = list(range(len(text)))  # the transformer puts them first
    final = _class_of(family, task)(**settings)
    return make_pipeline(columns, final)


def _class_of(family: str, task: Task) -> Any:
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.linear_model import LogisticRegression, Ridge

    return {
        ("forest", "regression"): RandomForestRegressor,
        ("forest", "classification"): RandomForestClassifier,
        ("boosting", "regression"): HistGradientBoostingRegressor,
        ("boosting", "classification"): HistGradientBoostingClassifier,
        ("encoded", "regression"): Ridge,
        ("encoded", "classification"): LogisticRegression,
    }[family, task]


def _check_options(family: str, task: Task | None, options: Mapping[str, Any]) -> None:
    if not options:
        return
    cls = _class_of(family, task or "regression")
    known = [name for name in inspect.signature(cls).parameters if name != "self"]
    for name in options:
        if name not in known:
            raise InvalidInput(
                f"parameters.{name}: unknown to {cls.__name__}; known are task, {', '.join(known)}",
                field=f"parameters.{name}",
            )
