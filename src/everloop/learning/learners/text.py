"""The learner of text classifiers: feedback moves the weights that the artifact came with, and never throws them away.

Every weight is a belief: where it is, and how much bends the loss along it (its curvature, which training left in the artifact). An
example moves each weight that it touches against the slope and in inverse proportion to the curvature, all together as far as the example
is worth, and adds to the curvature what it taught:

    w -= (x / h) · (p - y) / (1 + p(1 - p) · Σ x² / h),    h += p(1 - p) · x²

This is the extended Kalman filter of logistic regression with a diagonal covariance, after T. Graepel et al., "Web-Scale Bayesian
Click-Through Rate Prediction", ICML 2010, and its like. So a word that thousands of rated texts had stays nearly where it is, and a
product's name that nobody knew is learned from a few.

`fit` begins at the artifact and goes over the examples once: whoever drifted begins anew with what was known at first. New words, pairs
and classes are learned as they come, at most so many; the pieces of words stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import FitFailed, ModelUntrained
from everloop.core.schema import Schema, Target
from everloop.core.types import Row, Scalar, Task
from everloop.learning.learners.base import Weight
from everloop.learning.learners.labels import distinct_classes
from everloop.runtime.artifact import library_versions
from everloop.runtime.text import SCHEMA, TARGET, load
from everloop.runtime.text_model import Tables, TextModel, Weights, pack_text, softmax
from everloop.stores.ports import Manifest

NEW_CURVATURE = 4.0
"""Of a feature that nobody has seen."""
MOST_NEW = 100_000
"""Features that are learned beside those of the artifact; those that come later are not."""
LONGEST_FEATURE = 100
MOST_CLASSES = 100
_RARE = -5.0
"""Where a class begins that the artifact does not have: unlikely, until examples say otherwise."""


class _Dump(msgspec.Struct, frozen=True):
    """What differs from the artifact."""

    classes: list[str]
    features: list[str]
    weights: bytes
    curvatures: bytes
    numbers: bytes
    number_curvatures: bytes
    new: int


class TextLearner:
    """`start` gives one that answers; a clone has to be fitted first."""

    kind = "text"
    incremental = True
    weight: Weight = "light"

    def __init__(self, manifest: Manifest, base: Tables, payload: bytes) -> None:
        self.task: Task | None = "classification"
        self._manifest, self._base, self._payload = manifest, base, payload
        self._classes: list[str] = []
        self._model: TextModel | None = None
        self._moved: dict[str, None] = {}
        """Features whose weights are not the artifact's, in order."""
        self._new = 0

    def started_from(self) -> tuple[Manifest, bytes]:
        return self._manifest, self._payload

    def clone(self) -> TextLearner:
        return TextLearner(self._manifest, self._base, self._payload)

    def fit(self, schema: Schema, target: Target, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """Raises FitFailed: other rows than one text, labels of fewer than two classes."""
        if schema != SCHEMA or target != TARGET:
            raise FitFailed("a text model takes one field named text, and labels that are text")
        distinct_classes(labels)
        self._begin()
        self.learn(rows, labels)

    def learn(self, rows: Sequence[Row], labels: Sequence[Scalar]) -> None:
        """A label that was never seen becomes a class. Raises FitFailed where there are too many."""
        model = self._fitted()
        touched: set[str] = set()
        for (text,), label in zip(rows, labels, strict=True):
            if label not in self._classes:
                model = self._widen(str(label))
            touched |= self._learn_one(model, text, self._classes.index(str(label)))
            model.changed(touched)
            touched.clear()

    def predict(self, rows: Sequence[Row]) -> list[Any]:
        model = self._fitted()
        answers = []
        for (text,) in rows:
            logits = model.logits(text)
            answers.append(self._classes[logits.index(max(logits))])
        return answers

    def freeze(self) -> tuple[Manifest, bytes]:
        model = self._fitted()
        manifest = msgspec.structs.replace(
            self._manifest, classes=list(self._classes), metrics={}, lineage={}, libraries=library_versions("numpy")
        )
        return manifest, pack_text(model.tables)

    def dump(self) -> bytes:
        if self._model is None:
            return b""
        tables = self._model.tables
        return msgspec.msgpack.encode(
            _Dump(
                self._classes,
                list(self._moved),
                _bytes([tables.features[name] for name in self._moved]),
                _bytes([tables.curvatures[name] for name in self._moved]),
                _bytes(tables.numbers),
                _bytes(tables.number_curvatures),
                self._new,
            )
        )

    def restore(self, data: bytes) -> None:
        self._model, self._classes, self._moved, self._new = None, [], {}, 0
        if not data:
            return
        dump = msgspec.msgpack.decode(data, type=_Dump)
        model = self._begin()
        for label in dump.classes[len(self._classes) :]:
            model = self._widen(label)
        width, tables = len(dump.classes), model.tables
        weights = np.frombuffer(dump.weights, "<f4").astype(np.float64).reshape(-1, width).tolist()
        tables.features.update(zip(dump.features, map(tuple, weights), strict=True))
        tables.curvatures.update(zip(dump.features, np.frombuffer(dump.curvatures, "<f4").tolist(), strict=True))
        numbers = np.frombuffer(dump.numbers, "<f4").astype(np.float64).reshape(-1, width).tolist()
        tables.numbers[:] = map(tuple, numbers)
        tables.number_curvatures[:] = np.frombuffer(dump.number_curvatures, "<f4").tolist()
        self._moved, self._new = dict.fromkeys(dump.features), dump.new
        model.changed(dump.features)

    def _begin(self) -> TextModel:
        """At the artifact, with tables of its own."""
        base = self._base
        self._classes, self._moved, self._new = list(self._manifest.classes or ()), {}, 0
        self._model = TextModel(
            base._replace(
                features=dict(base.features),
                curvatures=dict(base.curvatures),
                numbers=list(base.numbers),
                number_curvatures=list(base.number_curvatures),
            )
        )
        return self._model

    def _learn_one(self, model: TextModel, text: str, truth: int) -> set[str]:
        tables = model.tables
        read = model.reader.read(text)
        features = [name for name in dict.fromkeys(read.features()) if self._known(tables, name)]
        numbers = [(i, value) for i, value in enumerate(read.numbers()) if value]
        P = np.array(softmax(model.logits_of(read)))
        slope = P.copy()
        slope[truth] -= 1.0
        bends = P * (1.0 - P)
        bend = float(bends.mean())
        values = np.array([1.0] * len(features) + [value for _, value in numbers])
        curvatures = np.array(
            [tables.curvatures[name] for name in features] + [tables.number_curvatures[i] for i, _ in numbers]
        )
        step = slope / (1.0 + bends * float((values * values / curvatures).sum()))
        moves = (values / curvatures)[:, None] * step
        grown = _single(curvatures + bend * values * values).tolist()
        old = [tables.features[name] for name in features] + [tables.numbers[i] for i, _ in numbers]
        # single precision is what a version is kept in: so it answers as the learner does
        rows = list(map(tuple, _single(np.array(old) - moves).tolist()))
        count = len(features)
        tables.features.update(zip(features, rows[:count], strict=True))
        tables.curvatures.update(zip(features, grown[:count], strict=True))
        for (i, _), row, curvature in zip(numbers, rows[count:], grown[count:], strict=True):
            tables.numbers[i], tables.number_curvatures[i] = row, curvature
        self._moved.update(dict.fromkeys(features))
        return set(features)

    def _known(self, tables: Tables, name: str) -> bool:
        """Whether this feature has a weight; a new one gets one while there is room."""
        if name in tables.features:
            return True
        if self._new >= MOST_NEW or len(name) > LONGEST_FEATURE:
            return False
        self._new += 1
        tables.features[name] = (0.0,) * len(self._classes)
        tables.curvatures[name] = NEW_CURVATURE
        return True

    def _widen(self, label: str) -> TextModel:
        """One more class. Every row gets one more weight; the pieces of words have nothing to say of it."""
        tables = self._fitted().tables
        if len(self._classes) >= MOST_CLASSES:
            raise FitFailed(f"a text model tells at most {MOST_CLASSES} classes apart; {label!r:.60} is one more")

        def wider(rows: dict[str, Weights]) -> dict[str, Weights]:
            return {name: (*row, 0.0) for name, row in rows.items()}

        numbers = [(*row, _RARE if i == 0 else 0.0) for i, row in enumerate(tables.numbers)]
        self._classes = [*self._classes, label]
        self._model = TextModel(
            tables._replace(features=wider(tables.features), pieces=wider(tables.pieces), numbers=numbers)
        )
        return self._model

    def _fitted(self) -> TextModel:
        if self._model is None:
            raise ModelUntrained("this learner of texts has not been fitted yet")
        return self._model


def start(manifest: Manifest, payload: bytes) -> TextLearner:
    """One that knows what the artifact does. Raises ArtifactCorrupt."""
    session = load(manifest, payload)
    learner = TextLearner(manifest, session.model.tables, payload)
    learner._begin()
    return learner


def _single(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return values.astype(np.float32).astype(np.float64)


def _bytes(values: Any) -> bytes:
    return np.asarray(values, "<f4").tobytes()
