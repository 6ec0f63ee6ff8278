"""Sessions and artifacts that tests of the optimiser compare, none of which needs a library to open."""

from __future__ import annotations

from typing import Any

import numpy as np

from everloop.core.schema import Schema, Target
from everloop.runtime.linear import LinearModel
from everloop.stores.ports import Manifest

WIDTH = 4


class Spoken:
    """A session that answers what a function says: probabilities of two classes, or values."""

    def __init__(
        self, function: Any, *, regression: bool = False, dtype: Any = np.float64, scores: bool = True
    ) -> None:
        self.schema = Schema.unnamed(WIDTH)
        self.target = Target("regression") if regression else Target("classification", "integer")
        self.classes: list[Any] | None = None if regression else [0, 1]
        self.dtype = dtype
        self._function, self._scores = function, scores

    def run(self, X: Any) -> Any:
        answers = np.asarray(self._function(np.asarray(X, np.float64)))
        return answers if self.classes is None else (answers > 0.5).astype(np.int64)

    def scores(self, X: Any) -> Any:
        if not self._scores:
            return None
        one = np.asarray(self._function(np.asarray(X, np.float64)))
        return np.stack([1 - one, one], axis=1)

    def close(self) -> None:
        pass


def sigmoid(X: Any) -> Any:
    return 1 / (1 + np.exp(-X.sum(axis=1)))


def linear_artifact(*, classes: bool = True) -> tuple[Manifest, bytes]:
    weights = np.array([[1.0, -2.0, 0.5, 0.25]])
    model = LinearModel(weights, np.array([0.1]), np.zeros(WIDTH))
    if classes:
        target: Any = Target("classification", "integer")
        return Manifest("linear", "classification", Schema.unnamed(WIDTH), target, [0, 1]), model.pack()
    return Manifest("linear", "regression", Schema.unnamed(WIDTH), Target("regression")), model.pack()


def given_rows(count: int = 200, seed: int = 0) -> list[list[float]]:
    rows: list[list[float]] = np.random.default_rng(seed).normal(size=(count, WIDTH)).tolist()
    return rows
