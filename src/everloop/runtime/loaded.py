"""A version's session for use by hand: it takes frames, arrays and rows as people have them, and answers with an array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput
from everloop.core.schema import Schema, Target
from everloop.runtime.session import Matrix, Session


class LoadedModel:
    """Safe from any thread. Close it when it is not needed any more."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def schema(self) -> Schema:
        return self._session.schema

    @property
    def target(self) -> Target:
        return self._session.target

    @property
    def classes(self) -> list[Any] | None:
        """Classification: the labels, in the order of `predict_proba`'s columns."""
        return self._session.classes

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """(n, fields) -> (n,): a pandas or Polars frame, whose columns are taken by name where the model has names; an array; a
        sequence of rows (lists, mappings); or one row alone, which is answered by an array of one. Raises InvalidInput, and what
        the model raises."""
        return self._session.run(rows_of(X, self._session))

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64] | None:
        """(n, fields) -> (n, classes); None where the model gives no probabilities."""
        return self._session.scores(rows_of(X, self._session))

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def rows_of(X: Any, session: Session) -> Matrix:
    """Whatever was given, checked, as the session wants it. Raises InvalidInput."""
    schema = session.schema
    dtype = session.dtype if schema.numeric else None
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        X = _by_column(X, schema)
    if isinstance(X, Mapping):
        X = [X]
    if isinstance(X, np.ndarray):
        if X.ndim == 1:
            X = X.reshape(1, -1) if len(X) == len(schema.fields) else X.reshape(-1, 1)
        if schema.numeric and X.ndim == 2 and X.shape[1] == len(schema.fields) and X.dtype.kind in "fiu":
            quick = np.ascontiguousarray(X, dtype)
            if np.isfinite(quick).all():
                return quick
    elif isinstance(X, (list, tuple)) and X and not isinstance(X[0], (list, tuple, Mapping, np.ndarray)):
        X = [X]
    return schema.matrix(schema.rows(X), dtype)


def _by_column(frame: Any, schema: Schema) -> npt.NDArray[Any]:
    """(n, fields) of objects or numbers, columns in the schema's order."""
    columns = [str(name) for name in frame.columns]
    if set(schema.names) <= set(columns):
        frame = frame[[frame.columns[columns.index(name)] for name in schema.names]]
    elif schema.named or len(columns) != len(schema.fields):
        missing = [name for name in schema.names if name not in columns]
        raise InvalidInput(
            f"features: the frame has the columns {', '.join(columns[:6])}; missing {', '.join(missing[:6])}",
            field="features",
        )
    out: npt.NDArray[Any] = np.asarray(frame.to_numpy())
    return out
