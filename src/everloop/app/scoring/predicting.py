"""Rows in, answers out: by a session, batch first, or by a function. A row that fails never spoils its neighbours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

import numpy as np

from everloop.app.scoring.decoding import Rows
from everloop.app.scoring.kinds import short
from everloop.app.scoring.rows import RowError
from everloop.core.errors import ModelFailed, explain
from everloop.core.schema import Schema
from everloop.runtime.session import Matrix, Session

MOST_DEPTH = 100
MOST_BITS = 4096


@dataclass
class Answers:
    """One for each row of the block; None for those that `rows.errors` names."""

    values: list[Any]
    scores: list[list[float | None]] | None = None
    """Probabilities: a column for each of the model's classes."""


class Predictor(Protocol):
    def predict(self, rows: Rows, *, first_only: bool) -> Answers:
        """Adds what goes wrong to `rows.errors`; with `first_only` the rest of the block does not matter then."""

    def close(self) -> None: ...


class SessionPredictor:
    def __init__(self, session: Session, columns: Sequence[str], *, scores: bool) -> None:
        """`columns`: where each field of the session's schema is found."""
        self._session = session
        self._columns = columns
        self._scores = scores

    def predict(self, rows: Rows, *, first_only: bool) -> Answers:
        X = matrix_of(rows, self._session.schema, self._columns, self._session.dtype)
        good = [i for i in range(len(rows)) if i not in rows.errors]
        answers = Answers([None] * len(rows))
        if self._scores:
            answers.scores = [[None] * len(rows) for _ in self._session.classes or ()]
        if good and not (first_only and rows.errors):
            self._run(X if len(good) == len(rows) else X[good], good, rows, answers, first_only=first_only)
        return answers

    def close(self) -> None:
        self._session.close()

    def _run(self, X: Matrix, good: list[int], rows: Rows, answers: Answers, *, first_only: bool) -> None:
        """Halves what fails until the row is found that does."""
        try:
            found = self._session.run(X)
            scores = self._session.scores(X) if self._scores else None
        except Exception as error:
            if len(good) == 1:
                rows.errors[good[0]] = RowError(rows.lines[good[0]], None, f"the model failed: {explain(error)}")
                return
            middle = len(good) // 2
            self._run(X[:middle], good[:middle], rows, answers, first_only=first_only)
            if not (first_only and rows.errors):
                self._run(X[middle:], good[middle:], rows, answers, first_only=first_only)
            return
        listed = found.tolist()
        whole = found.dtype.kind == "f" and self._session.target.kind == "integer"
        for i, value in zip(good, listed, strict=True):
            answers.values[i] = int(value) if whole and value.is_integer() else value
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            for at in np.flatnonzero(~np.isfinite(found)):
                i = good[at]
                answers.values[i] = None
                rows.errors[i] = RowError(rows.lines[i], None, f"the model answered {listed[at]}")
        if scores is not None and answers.scores is not None:
            for column, shares in zip(answers.scores, scores.T.tolist(), strict=True):
                for i, share in zip(good, shares, strict=True):
                    column[i] = share


def matrix_of(rows: Rows, schema: Schema, columns: Sequence[str], dtype: Any) -> Matrix:
    """(n, fields): a column of the input for each field; of `dtype` if all are numbers, else of objects with None for what is missing.

    What is wrong with a row is added to `rows.errors`."""
    found: list[Any] = []
    for field, name in zip(schema.fields, columns, strict=True):
        if field.kind == "number":
            numbers = rows.numbers(name)
            missing = np.flatnonzero(np.isnan(numbers)).tolist()
            found.append(numbers)
        else:
            texts = rows.texts(name)
            missing = [i for i, text in enumerate(texts) if text is None]
            found.append(texts)
        if not field.nullable:
            for i in missing:
                rows.errors.setdefault(i, RowError(rows.lines[i], name, "a value is required, it is missing"))
    if schema.numeric:
        with np.errstate(over="ignore"):
            return np.column_stack(found).astype(dtype, copy=False)
    X = np.empty((len(rows), len(found)), object)
    for i, column in enumerate(found):
        if isinstance(column, list):
            X[:, i] = column
        else:
            X[:, i] = [None if value != value else value for value in column.tolist()]
    return X


class FunctionPredictor:
    """`function(row)`: a dict in, anything that the output can hold back."""

    def __init__(self, function: Callable[[dict[str, Any]], Any]) -> None:
        self._function = function

    def predict(self, rows: Rows, *, first_only: bool) -> Answers:
        mappings = rows.mappings()
        answers = Answers([None] * len(rows))
        if first_only and rows.errors:
            return answers
        for i, mapping in enumerate(mappings):
            if i in rows.errors:
                continue
            try:
                found = self._function(mapping)
            except (Exception, SystemExit) as error:
                rows.errors[i] = RowError(rows.lines[i], None, explain(error))
            else:
                _accept(found, i, rows, answers)
            if first_only and rows.errors:
                break
        return answers

    def close(self) -> None:
        """A function holds nothing of ours."""


class BatchPredictor:
    """`function(rows)`: a list of dicts in, as many answers back. A batch that raises is tried again in halves."""

    def __init__(self, function: Callable[[list[dict[str, Any]]], Any]) -> None:
        self._function = function

    def predict(self, rows: Rows, *, first_only: bool) -> Answers:
        mappings = rows.mappings()
        answers = Answers([None] * len(rows))
        good = [i for i in range(len(rows)) if i not in rows.errors]
        if good and not (first_only and rows.errors):
            self._run(mappings, good, rows, answers, first_only=first_only)
        return answers

    def close(self) -> None:
        """A function holds nothing of ours."""

    def _run(
        self, mappings: list[dict[str, Any]], good: list[int], rows: Rows, answers: Answers, *, first_only: bool
    ) -> None:
        try:
            found = self._function([mappings[i] for i in good])
        except (Exception, SystemExit) as error:
            if len(good) == 1:
                rows.errors[good[0]] = RowError(rows.lines[good[0]], None, explain(error))
                return
            middle = len(good) // 2
            self._run(mappings, good[:middle], rows, answers, first_only=first_only)
            if not (first_only and rows.errors):
                self._run(mappings, good[middle:], rows, answers, first_only=first_only)
            return
        listed = found.tolist() if hasattr(found, "tolist") else found
        if not isinstance(listed, (list, tuple)) or len(listed) != len(good):
            told = f"{len(listed)}" if isinstance(listed, (list, tuple)) else f"a {type(listed).__name__}"
            raise ModelFailed(
                f"--batch: the function was given {len(good)} rows and answered {told}, not one answer a row"
            )
        for i, value in zip(good, listed, strict=True):
            _accept(value, i, rows, answers)


def _accept(value: Any, i: int, rows: Rows, answers: Answers) -> None:
    try:
        answers.values[i] = usable(value)
    except ValueError as error:
        rows.errors[i] = RowError(rows.lines[i], None, f"the function answered {error}")


def usable(value: Any, depth: int = 0) -> Any:
    """A function's answer in JSON's own types, whatever file it goes into; NaN is a missing answer, dates and Decimals are text.

    Raises ValueError, whose message follows "the function answered", for what no file can hold."""
    kind = type(value)
    if kind is float:
        if value - value == 0.0:
            return value
        if value != value:
            return None
        raise ValueError(f"{value}, and not a finite number")
    if kind is bool or value is None:
        return value
    if kind is int:
        if value.bit_length() > MOST_BITS:
            raise ValueError("an integer of more than a thousand digits")
        return value
    if isinstance(value, str):
        text = str(value)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{short(text)}, which is no valid Unicode") from None
        return text
    if depth > MOST_DEPTH:
        raise ValueError(f"something nested more than {MOST_DEPTH} deep")
    if isinstance(value, (list, tuple)):
        return [usable(each, depth + 1) for each in value]
    if isinstance(value, dict):
        return {_key(key): usable(each, depth + 1) for key, each in value.items()}
    if kind.__module__ == "numpy" and hasattr(value, "tolist") and not isinstance(listed := value.tolist(), kind):
        return usable(listed, depth + 1)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, (int, float)):  # of a class of its own: an Enum's, say
        return usable(float(value) if isinstance(value, float) else int(value), depth + 1)
    if inspect.iscoroutine(value):
        value.close()  # or Python complains that nobody awaited it
        raise ValueError("a coroutine; an async function cannot be used, wrap it in one that calls asyncio.run")
    raise ValueError(f"{short(value)}, a {kind.__name__}: a number, a text, a list or a dict is needed")


def _key(key: Any) -> str:
    """As JSON would have it."""
    if isinstance(key, str):
        return str(usable(key))
    if key is None or isinstance(key, (bool, int)):
        return {None: "null", True: "true", False: "false"}[key] if key is None or isinstance(key, bool) else str(key)
    raise ValueError(f"a dict with the key {short(key)}: keys must be texts")
