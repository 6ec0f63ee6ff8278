"""The contract of a loaded model: `run(X) -> Y`, batch first, never mutated, callable from several threads at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from everloop.core.schema import Schema, Target

Matrix: TypeAlias = npt.NDArray[Any]
RowFunction: TypeAlias = Callable[[list[Any]], Any]


PLAIN = (int, float, str, bool)
"""What a label is outside of NumPy."""


def plain_answers(Y: Matrix, *, regression: bool) -> list[Any]:
    """One plain Python value a row."""
    if regression and Y.dtype.kind != "f":
        Y = Y.astype(np.float64)
    values: list[Any] = Y.tolist()
    if not regression and values and type(values[0]) not in PLAIN:
        values = [value.item() if hasattr(value, "item") else value for value in values]
    return values


def labels_by_place(classes: list[Any] | None) -> Matrix | None:
    """What the place of the greatest score stands for; None where the places are the labels."""
    if classes is None or [repr(label) for label in classes] == [str(place) for place in range(len(classes))]:
        return None
    return np.array(classes, object if isinstance(classes[0], str) else None)


class Session(Protocol):
    """One artifact, ready to answer. Constructed by `everloop.runtime.artifact.load_session` only."""

    schema: Schema
    target: Target
    classes: list[Any] | None
    """Classification: the labels, in the order of `scores`' columns."""
    dtype: Any
    """What `run` wants its rows in: `np.float32` or `np.float64` for numbers, `object` for mixed columns."""

    def run(self, X: Matrix) -> Matrix:
        """(n, fields) -> (n,): values for regression, class labels for classification. Pure. May raise anything."""

    def scores(self, X: Matrix) -> npt.NDArray[np.float64] | None:
        """(n, fields) -> (n, classes) probabilities, where the model has them."""

    def close(self) -> None:
        """Free what the session holds. Idempotent.

        A session may have three more attributes: `scored`, whether `scores` gives any (as classifiers do where it is not there); `tensors`,
        how it answers inputs and outputs of its own (`runtime.tensors`); and `varies`, whether what a run takes depends on its input so
        much that it must not run on an event loop (as those do not where it is not there)."""


class CompiledSession(Session, Protocol):
    """A session that can also answer one row without NumPy, for small models."""

    def compile_row(self) -> RowFunction:
        """A function of one *list* of exactly `fields` plain numbers -> a plain Python float or class label.

        It may raise TypeError, ValueError or OverflowError on anything else, or return a non-finite float; the caller then
        validates slowly and says what was wrong. For regression its answer is of type `float`."""
