"""How a form of a model is asked: many rows for its answers and probabilities, one row as a server asks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from everloop.core.types import Row
from everloop.runtime.session import Matrix, Session, plain_answers

BLOCK = 4_096
"""Rows that are asked at once."""


@dataclass(frozen=True)
class Answers:
    """What a form says to all of the rows."""

    labels: list[Any] | None
    """Classification."""
    numbers: Matrix | None
    """(n,) values, or (n, classes) probabilities where it has some."""


def ask(session: Session, rows: Sequence[Row]) -> Answers:
    """Raises what the model raises, and ValueError for answers that are not one a row."""
    regression = session.target.task == "regression"
    labels: list[Any] = []
    parts: list[Matrix] = []
    for start in range(0, len(rows), BLOCK):
        X = matrix_of(session, rows[start : start + BLOCK])
        with np.errstate(all="ignore"):
            answers = session.run(X)
            scores = None if regression else session.scores(X)
        if answers.shape != (len(X),):
            raise ValueError(f"it answers shape {answers.shape} to {len(X)} rows")
        if regression:
            parts.append(np.asarray(answers, np.float64))
        else:
            labels += plain_answers(answers, regression=False)
            if scores is not None:
                parts.append(np.asarray(scores, np.float64))
    return Answers(None if regression else labels, np.concatenate(parts) if parts else None)


def matrix_of(session: Session, rows: Sequence[Row]) -> Matrix:
    """Checked rows as the session wants them: (n, fields)."""
    schema = session.schema
    if schema.numeric and np.dtype(session.dtype).kind == "f":
        with np.errstate(over="ignore"):  # beyond single precision: infinite, as when it is served
            return np.array(rows, session.dtype).reshape(len(rows), len(schema.fields))
    return schema.matrix(rows, session.dtype if schema.numeric else None)


def one_row(session: Session, row: Row) -> Callable[[Row], Any]:
    """What answers a checked row by a plain value, as `serving` asks: the form's own function of a row where it has one that takes rows
    like `row`, an array of one otherwise."""
    compile_row = getattr(session, "compile_row", None)
    if compile_row is not None:
        quick: Callable[[Row], Any] = compile_row()
        try:
            quick(row)
            return quick
        except (TypeError, ValueError, ArithmeticError):  # a value is missing, or a text
            pass
    ask = several_rows(session)
    return lambda row: ask([row])[0]


def several_rows(session: Session) -> Callable[[Sequence[Row]], list[Any]]:
    """What answers checked rows by plain values, as `serving` asks for a batch."""
    regression = session.target.task == "regression"
    return lambda rows: plain_answers(session.run(matrix_of(session, rows)), regression=regression)
