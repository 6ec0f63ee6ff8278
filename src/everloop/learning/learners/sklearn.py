"""Any scikit-learn regressor, classifier or pipeline as a learner; with `partial_fit` it learns example by example."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import EverloopError, FitFailed, ModelUntrained, NotSupported
from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.learning.learners.base import Weight
from everloop.learning.learners.labels import distinct_classes
from everloop.runtime.artifact import Trust, library_versions
from everloop.runtime.inputs import input_form, is_fitted, shape_rows
from everloop.runtime.sklearn import (
    SklearnSession,
    dump_estimator,
    dump_state,
    load_estimator,
    manifest_of,
    supported_task,
)
from everloop.stores.ports import Manifest

KEPT_ROWS = 2_000
"""Latest examples that an incremental classifier keeps: what it is fitted on again when a new class appears."""


class _Dump(msgspec.Struct, frozen=True):
    manifest: Manifest
    estimator: bytes
    rows: list[Row]
    labels: list[Scalar]


class EstimatorLearner:
    """Trains private clones; the estimator that was given is never touched.

    An estimator that is fitted already is the learner's first state (a copy of it), until the first `fit`."""

    kind = "estimator"
    weight: Weight = "unknown"

    def __init__(self, estimator: Any, *, trust: Trust) -> None:
        self.task: Task | None = supported_task(estimator)
        self.incremental = hasattr(estimator, "partial_fit")
        self.trust = trust
        self._template = _unfitted(estimator)
        self._estimator: Any = None
        self._manifest: Manifest | None = None
        self._kept: list[tuple[Row, Scalar]] = []
        if is_fitted(estimator):
            self._manifest = manifest_of(estimator)
            self._estimator = copy.deepcopy(estimator)

    def clone(self) -> EstimatorLearner:
        return EstimatorLearner(self._template, trust=self.trust)

    def fit(self, schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Raises FitFailed with the library's own message."""
        name = type(self._template).__name__
        if target.task != self.task:
            raise FitFailed(f"{name} is for {self.task}, but the labels are for {target.task}")
        if not rows:
            raise FitFailed("there are no examples to fit")
        classes = distinct_classes(labels) if self.task == "classification" else None
        estimator = _unfitted(self._template)
        try:
            X = shape_rows(input_form(estimator, schema), schema, schema.matrix(rows))
            estimator.fit(X, _labels(target, labels))
        except EverloopError as error:
            raise FitFailed(error.message) from error
        except Exception as error:
            raise FitFailed(f"{name} failed: {type(error).__name__}: {error}") from error
        self._estimator = estimator
        self._manifest = _manifest(schema, target, classes)
        self._kept = []
        self._keep(rows, labels)

    def learn(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """By `partial_fit`. A class that was not there at the fit makes it fit again, on the latest examples with these.

        Raises NotSupported (not incremental), FitFailed."""
        manifest = self._fitted()
        name = type(self._template).__name__
        if not self.incremental:
            raise NotSupported(f"{name} has no partial_fit: fit it again")
        if manifest.classes is not None and not set(labels) <= set(manifest.classes):
            everything = [*self._kept, *zip(rows, labels, strict=True)][-max(KEPT_ROWS, len(rows)) :]
            self.fit(
                manifest.schema, manifest.target, [row for row, _ in everything], [label for _, label in everything]
            )
            return
        if not rows:
            return
        schema = manifest.schema
        try:
            X = shape_rows(input_form(self._estimator, schema), schema, schema.matrix(rows))
            self._estimator.partial_fit(X, _labels(manifest.target, labels))
        except Exception as error:
            raise FitFailed(f"{name} failed: {type(error).__name__}: {error}") from error
        self._keep(rows, labels)

    def predict(self, rows: Sequence[Row]) -> list[Any]:
        manifest = self._fitted()
        answers: list[Any] = SklearnSession(manifest, self._estimator).run(manifest.schema.matrix(rows)).tolist()
        return answers

    def freeze(self) -> tuple[Manifest, bytes]:
        """Raises Untrusted where only a pickle could hold it and pickles are not trusted."""
        return self._fitted(), dump_estimator(self._estimator, self.trust)

    def dump(self) -> bytes:
        if self._manifest is None:
            return b""
        rows, labels = [row for row, _ in self._kept], [label for _, label in self._kept]
        return msgspec.msgpack.encode(_Dump(self._manifest, dump_state(self._estimator, self.trust), rows, labels))

    def restore(self, data: bytes) -> None:
        if not data:
            self._estimator, self._manifest, self._kept = None, None, []
            return
        dump = msgspec.msgpack.decode(data, type=_Dump)
        self._estimator = load_estimator(dump.estimator, self.trust)
        self._manifest = dump.manifest
        self._kept = list(zip(dump.rows, dump.labels, strict=True))

    def describe(self) -> tuple[dict[str, Any], bytes]:
        """The parameters tell two specifications apart; the template is what is loaded again."""
        return {"estimator": describe_object(self._template)}, dump_estimator(self._template, self.trust)

    @property
    def fitted(self) -> bool:
        return self._manifest is not None

    def _keep(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        if self.incremental and self.task == "classification":
            self._kept = [*self._kept, *((list(r), y) for r, y in zip(rows, labels, strict=True))][-KEPT_ROWS:]

    def _fitted(self) -> Manifest:
        if self._manifest is None:
            raise ModelUntrained(f"{type(self._template).__name__} has not been fitted yet")
        return self._manifest


def describe_object(thing: Any) -> str:
    """Its `repr` in full, without the addresses of objects, which differ from run to run."""
    text = thing.__repr__(N_CHAR_MAX=10**9) if _is_base_estimator(thing) else repr(thing)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _is_base_estimator(thing: Any) -> bool:
    from sklearn.base import BaseEstimator

    return isinstance(thing, BaseEstimator) and type(thing).__repr__ is BaseEstimator.__repr__


def _unfitted(estimator: Any) -> Any:
    from sklearn.base import clone

    try:
        return clone(estimator)
    except (TypeError, RuntimeError) as error:  # RuntimeError: its constructor does not keep a parameter as given
        raise NotSupported(
            f"{type(estimator).__name__} cannot be cloned ({error}): derive it from scikit-learn's BaseEstimator and keep every "
            "constructor argument as it is given"
        ) from error


def _labels(target: Target, labels: Sequence[Scalar]) -> Any:
    if target.task == "regression":
        return np.asarray(labels, np.float64)
    return np.asarray(list(labels))


def _manifest(schema: Schema, target: Target, classes: list[Any] | None) -> Manifest:
    return Manifest(
        runtime="sklearn",
        task=target.task,
        schema=schema,
        target=target,
        classes=classes,
        libraries=library_versions("scikit-learn", "skops"),
    )
