"""Frames and arrays, put together by rows and cut apart again: Polars, pandas, NumPy, lists; of answers also dictionaries and tuples of
columns.

Neither library is imported here: whoever hands in a frame has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from everloop.core.errors import InvalidInput


def rows_of(rows: Any) -> int:
    """How many there are. Raises InvalidInput for what has no rows."""
    if (
        isinstance(rows, (str, bytes, dict))
        or not hasattr(rows, "__len__")
        or (isinstance(rows, np.ndarray) and not rows.ndim)
    ):
        raise InvalidInput(
            f"expected a Polars or pandas frame, an array or a list of rows, got {type(rows).__name__}",
            field="features",
        )
    return len(rows)


def form_of(rows: Any) -> Hashable:
    """Equal for what can be put together without changing a value."""
    if isinstance(rows, np.ndarray):
        return (np.ndarray, rows.dtype, rows.shape[1:])
    library = _library(rows)
    if library == "polars":
        return (type(rows), tuple(rows.schema.items())) if hasattr(rows, "schema") else (type(rows), rows.dtype)
    if library == "pandas":
        kinds = tuple(rows.dtypes) if hasattr(rows, "columns") else rows.dtype
        return (type(rows), tuple(getattr(rows, "columns", ())), kinds, rows.index.dtype, tuple(rows.index.names))
    return (type(rows), type(rows).__module__)


def joined(parts: Sequence[Any]) -> Any:
    """All of them in order, as one of the same kind. Raises TypeError for kinds that are not known."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    library = _library(first)
    if library in ("polars", "pandas"):
        return sys.modules[library].concat(list(parts))
    if isinstance(first, list):
        return [row for part in parts for row in part]
    if isinstance(first, dict):
        return {name: joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(joined(columns) for columns in zip(*parts, strict=True))
    raise TypeError(f"{type(first).__name__} cannot be put together by rows")


def cut(answers: Any, rows: int, start: int, stop: int) -> Any:
    """Those to rows `start` to `stop` out of `rows`. Raises TypeError if there is not one for each row."""
    if isinstance(answers, dict):
        return {name: cut(column, rows, start, stop) for name, column in answers.items()}
    if isinstance(answers, tuple):
        return tuple(cut(column, rows, start, stop) for column in answers)
    if isinstance(answers, (str, bytes)) or not hasattr(answers, "__len__"):
        raise TypeError(f"it answered {type(answers).__name__}, not one answer a row")
    if len(answers) != rows:
        raise TypeError(f"it answered {len(answers)} for {rows} rows")
    library = _library(answers)
    if library == "polars":
        return answers.slice(start, stop - start)
    return answers.iloc[start:stop] if library == "pandas" else answers[start:stop]


def _library(rows: Any) -> str:
    return type(rows).__module__.partition(".")[0]
