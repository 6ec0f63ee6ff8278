"""The kind `auto`: tries a light and two heavier families on the latest examples, and keeps the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import FitFailed, InvalidInput, ModelUntrained, NotSupported
from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.learning.learners.base import Learner, Weight, losses
from everloop.learning.learners.families import FamilyLearner, check_task
from everloop.learning.learners.labels import distinct_classes
from everloop.learning.learners.linear import LinearLearner
from everloop.runtime.artifact import Trust
from everloop.stores.ports import Manifest

LEAST_ROWS = 30
"""Below this, nothing can be compared: the light candidate is taken."""
JUDGED_SHARE, MOST_JUDGED = 0.25, 2_000
WORTH_IT = 0.98
"""A heavier candidate must have at most this share of the lighter one's loss: it is slower to fit and to answer."""


class _Dump(msgspec.Struct, frozen=True):
    chosen: str
    task: Task
    scores: dict[str, float]
    inner: bytes


class AutoLearner:
    """Candidates, lighter first: linear and ridge (or logistic; over indicators where there is text), boosting, forest.

    All are fitted on the earlier three quarters of the examples and judged on the later quarter, in the order they came, as they will be
    used; the best one is then fitted on all. The lineage of what is frozen tells their losses."""

    kind = "auto"
    incremental = False
    weight: Weight = "heavy"

    def __init__(self, parameters: Mapping[str, Any] | None = None, *, trust: Trust) -> None:
        self.parameters = dict(parameters or {})
        for name in self.parameters:
            if name != "task":
                raise InvalidInput(f"parameters.{name}: unknown; kind 'auto' knows task", field=f"parameters.{name}")
        self.task: Task | None = check_task(self.parameters)
        self.trust = trust
        self.scores: dict[str, float] = {}
        """Mean loss of each candidate on the later examples, of the last fit."""
        self.chosen: str | None = None
        self._inner: Learner | None = None

    def clone(self) -> AutoLearner:
        return AutoLearner(self.parameters, trust=self.trust)

    def fit(self, schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Raises FitFailed where no candidate can be fitted."""
        if self.task is not None and target.task != self.task:
            raise FitFailed(f"this model is for {self.task}, but the labels are for {target.task}")
        if not rows:
            raise FitFailed("there are no examples to fit")
        if target.task == "classification":
            distinct_classes(labels)
        names = _candidates(schema, target.task)
        scores, failures = self._compare(names, schema, target, rows, labels)
        best = names[0]
        for name in names[1:]:
            if name in scores and (best not in scores or scores[name] < WORTH_IT * scores[best]):
                best = name
        inner = self._candidate(best)
        try:
            inner.fit(schema, target, rows, labels)
        except FitFailed as error:
            told = "; ".join([*(f"{name}: {why}" for name, why in failures.items()), f"{best}: {error.message}"])
            raise FitFailed(f"no candidate could be fitted: {told}") from error
        self.task, self.chosen, self.scores, self._inner = target.task, best, scores, inner

    def learn(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:  # noqa: ARG002 - the contract's names
        raise NotSupported("kind 'auto' does not learn example by example: fit it again")

    def predict(self, rows: Sequence[Row]) -> list[Any]:
        return self._fitted().predict(rows)

    def freeze(self) -> tuple[Manifest, bytes]:
        manifest, payload = self._fitted().freeze()
        lineage = {**manifest.lineage, "chosen": self.chosen, "candidates": dict(self.scores)}
        return msgspec.structs.replace(manifest, lineage=lineage), payload

    def dump(self) -> bytes:
        if self._inner is None or self.chosen is None or self.task is None:
            return b""
        return msgspec.msgpack.encode(_Dump(self.chosen, self.task, self.scores, self._inner.dump()))

    def restore(self, data: bytes) -> None:
        if not data:
            self._inner, self.chosen, self.scores = None, None, {}
            return
        dump = msgspec.msgpack.decode(data, type=_Dump)
        inner = self._candidate(dump.chosen)
        inner.restore(dump.inner)
        self._inner, self.chosen, self.task, self.scores = inner, dump.chosen, dump.task, dump.scores

    def describe(self) -> tuple[dict[str, Any], None]:
        return dict(self.parameters), None

    def _compare(
        self, names: list[str], schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]
    ) -> tuple[dict[str, float], dict[str, str]]:
        if len(rows) < LEAST_ROWS:
            return {}, {}
        cut = len(rows) - min(int(len(rows) * JUDGED_SHARE), MOST_JUDGED)
        scores: dict[str, float] = {}
        failures: dict[str, str] = {}
        for name in names:
            candidate = self._candidate(name)
            try:
                candidate.fit(schema, target, rows[:cut], labels[:cut])
                loss = float(np.mean(losses(target, labels[cut:], candidate.predict(rows[cut:]))))
            except FitFailed as error:
                failures[name] = error.message
                continue
            if np.isfinite(loss):
                scores[name] = loss
        return scores, failures

    def _candidate(self, name: str) -> Learner:
        if name in ("linear", "ridge", "logistic"):
            return LinearLearner(name)  # type: ignore[arg-type]
        return FamilyLearner(name, trust=self.trust)  # type: ignore[arg-type]

    def _fitted(self) -> Learner:
        if self._inner is None:
            raise ModelUntrained("this auto learner has not been fitted yet")
        return self._inner


def _candidates(schema: Schema, task: Task) -> list[str]:
    if not schema.numeric:
        return ["encoded", "boosting", "forest"]
    return ["linear", "ridge", "boosting", "forest"] if task == "regression" else ["logistic", "boosting", "forest"]
