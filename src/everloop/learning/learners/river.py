"""River models as learners: incremental by nature, one example at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from everloop.core.errors import EverloopError, FitFailed, ModelUntrained
from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.learning.learners.base import Weight
from everloop.learning.learners.labels import distinct_classes
from everloop.learning.learners.sklearn import describe_object
from everloop.runtime.artifact import Trust, library_versions
from everloop.runtime.river import RiverModel, describe_model, dump_model, is_binary, river_task
from everloop.runtime.sklearn import unpickle
from everloop.stores.ports import Manifest


class _Dump(msgspec.Struct, frozen=True):
    schema: Schema
    target: Target
    seen: list[tuple[Scalar, int]]
    total: float
    count: int
    model: bytes


class RiverLearner:
    """Learns into a private clone of the model that it was given; that one is never touched.

    `fit` starts from an unlearned clone, whatever the given model has seen."""

    kind = "river"
    incremental = True
    weight: Weight = "unknown"

    def __init__(self, model: Any, *, trust: Trust) -> None:
        self.task: Task | None = river_task(model)
        self.trust = trust
        self._template = model.clone()
        self._schema: Schema | None = None
        self._target: Target | None = None
        self._model: RiverModel | None = None
        self._seen: Counter[Scalar] = Counter()
        self._total = 0.0
        self._count = 0

    def clone(self) -> RiverLearner:
        return RiverLearner(self._template, trust=self.trust)

    def fit(self, schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Raises FitFailed."""
        if target.task != self.task:
            raise FitFailed(
                f"{describe_model(self._template)} is for {self.task}, but the labels are for {target.task}"
            )
        if not rows:
            raise FitFailed("there are no examples to fit")
        if self.task == "classification":
            classes = distinct_classes(labels)
            binary = _first_places(classes, target) if is_binary(self._template) else None
        else:
            binary = None
        self._schema, self._target = schema, target
        self._seen, self._total, self._count = Counter(), 0.0, 0
        self._model = RiverModel(self._template.clone(), target.task, schema.names, binary)
        self._learn(self._model, rows, labels)

    def learn(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """A label that was never seen is learned like any other; a third one of a two-class model raises FitFailed."""
        model, _, _ = self._fitted()
        self._learn(model, rows, labels)

    def predict(self, rows: Sequence[Row]) -> list[Any]:
        model, _, _ = self._fitted()
        return [model.answer(row) for row in rows]

    def freeze(self) -> tuple[Manifest, bytes]:
        """Raises Untrusted without trust in pickles."""
        model, schema, target = self._fitted()
        manifest = Manifest(
            runtime="river",
            task=target.task,
            schema=schema,
            target=target,
            classes=sorted(self._seen) if target.task == "classification" else None,
            libraries=library_versions("river"),
        )
        return manifest, dump_model(model, self.trust)

    def dump(self) -> bytes:
        if self._model is None or self._schema is None or self._target is None:
            return b""
        return msgspec.msgpack.encode(
            _Dump(
                self._schema,
                self._target,
                list(self._seen.items()),
                self._total,
                self._count,
                dump_model(self._model, self.trust),
            )
        )

    def restore(self, data: bytes) -> None:
        if not data:
            self._model = self._schema = self._target = None
            return
        dump = msgspec.msgpack.decode(data, type=_Dump)
        self._model = unpickle(dump.model, self.trust, "River")
        self._schema, self._target = dump.schema, dump.target
        self._seen, self._total, self._count = Counter(dict(dump.seen)), dump.total, dump.count

    def describe(self) -> tuple[dict[str, Any], bytes]:
        """The parameters tell two specifications apart; the template is what is loaded again."""
        return {"model": describe_object(self._template)}, dump_model(self._template, self.trust)

    def _learn(self, model: RiverModel, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        for row, label in zip(rows, labels, strict=True):
            try:
                model.model.learn_one(model.features(row), model.encode(label))
            except EverloopError as error:
                raise FitFailed(error.message) from error
            except Exception as error:
                raise FitFailed(f"{describe_model(model.model)} failed: {type(error).__name__}: {error}") from error
            self._count += 1
            if self.task == "classification":
                self._seen[label] += 1
            else:
                self._total += float(label)
        model.fallback = self._seen.most_common(1)[0][0] if self._seen else self._total / max(self._count, 1)

    def _fitted(self) -> tuple[RiverModel, Schema, Target]:
        if self._model is None or self._schema is None or self._target is None:
            raise ModelUntrained(f"{describe_model(self._template)} has not been fitted yet")
        return self._model, self._schema, self._target


def _first_places(classes: list[Any], target: Target) -> tuple[Scalar, ...]:
    """False and True for booleans and for 0 and 1; otherwise the two labels in their order."""
    if len(classes) > 2:
        raise FitFailed(
            f"the model tells two classes apart, but there are {len(classes)} ({', '.join(map(repr, classes[:5]))} …): wrap it in "
            "river.multiclass.OneVsRestClassifier"
        )
    if target.kind == "boolean":
        return (False, True)
    return tuple(classes)
