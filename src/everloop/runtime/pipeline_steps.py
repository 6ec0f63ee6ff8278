"""The steps of a pipeline: each takes columns and gives columns, and says before any row comes which ones.

A column is an array of float64 (a missing value is NaN) or of text (a missing one is None). A step is written in a pipeline's file as a
table of one key, its kind:

    impute  = { age = 40, city = "Ulm" }      what a missing value is taken for
    clip    = { amount = [0, 10000] }         into this range
    scale   = { amount = { mean = 120, std = 80 } }    `(x - mean) / std`; or { min = 0, max = 10 }, onto 0 to 1
    log1p   = ["amount"]                      log(1 + x)
    map     = { city = { Ulm = 1, "*" = 0 } } text becomes a number; `*` is every other one, without it those are missing
    one_hot = { city = ["Ulm", "Bonn"] }      the column is replaced by `city=Ulm`, `city=Bonn`: 1 or 0
    select  = ["amount", "age"]               these columns, in this order
    drop    = ["city"]
    append  = { ratio = "prepare.py:ratio" }  a model's answer as a further column: a number, or the second class's probability
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import InvalidInput
from everloop.core.schema import Field

Column: TypeAlias = npt.NDArray[Any]
Columns: TypeAlias = dict[str, Column]
Fields: TypeAlias = dict[str, Field]
Apply: TypeAlias = Callable[[Columns], Columns]
Other: TypeAlias = Callable[[str, str | int, Fields], tuple[Field, Callable[[Columns], Column]]]
"""Of a column's name, what names a model and the columns it may take: what it appends, and how."""


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of these."""

    impute: dict[str, float | str] | None = None
    clip: dict[str, tuple[float, float]] | None = None
    scale: dict[str, Scale] | None = None
    log1p: list[str] | None = None
    map: dict[str, dict[str, float]] | None = None
    one_hot: dict[str, list[str]] | None = None
    select: list[str] | None = None
    drop: list[str] | None = None
    append: dict[str, str | int] | None = None
    """A source in a file, the place of a member in an artifact."""

    @property
    def kind(self) -> str:
        """Raises InvalidInput where it is not exactly one."""
        kinds = [name for name in self.__struct_fields__ if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise InvalidInput(f"a step does one thing, this one {', '.join(kinds) or 'nothing'}", field="steps")
        return kinds[0]


def ready(step: Step, fields: Fields, other: Other) -> tuple[Fields, Apply]:
    """The columns after the step, and what it does to some. Raises InvalidInput for columns that are not there or of another kind."""
    kind = step.kind
    given = getattr(step, kind)
    if kind in ("select", "drop"):
        return _chosen(given if kind == "select" else [name for name in fields if name not in given], given, fields)
    if kind == "append":
        return _appended(given, fields, other)
    if kind == "log1p":
        given = dict.fromkeys(given)
    for name in given:
        _known(name, fields)
    if kind == "one_hot":
        return _spread(given, fields)
    changes: dict[str, Callable[[Column], Column]] = {}
    after = dict(fields)
    for name, what in given.items():
        after[name], changes[name] = _MAKERS[kind](fields[name], what)

    def apply(columns: Columns) -> Columns:
        return {name: changes[name](column) if name in changes else column for name, column in columns.items()}

    return after, apply


def _impute(field: Field, value: float | str) -> tuple[Field, Callable[[Column], Column]]:
    if isinstance(value, str) != (field.kind == "text"):
        raise InvalidInput(f"steps: {field.name} is a {field.kind}, and {value!r} is none", field="steps")
    filled = Field(field.name, field.kind)
    if field.kind == "text":
        return filled, lambda column: np.array([value if text is None else text for text in column.tolist()], object)
    number = _finite(value, field.name)
    return filled, lambda column: np.where(np.isnan(column), number, column)


def _clip(field: Field, limits: Sequence[float]) -> tuple[Field, Callable[[Column], Column]]:
    low, high = (_finite(limit, field.name) for limit in limits)
    if low > high:
        raise InvalidInput(f"steps: {field.name} cannot be clipped to {low:g} to {high:g}", field="steps")
    return _number(field), lambda column: np.clip(column, low, high)


def _scale(field: Field, by: Scale) -> tuple[Field, Callable[[Column], Column]]:
    if by.min is not None and by.max is not None and by.mean is None and by.std is None:
        shift, spread = by.min, by.max - by.min
    elif by.std is not None and by.min is None and by.max is None:
        shift, spread = by.mean or 0.0, by.std
    else:
        raise InvalidInput(f"steps: scale {field.name} by mean and std, or by min and max", field="steps")
    shift, spread = _finite(shift, field.name), _finite(spread, field.name)
    if spread <= 0.0:
        raise InvalidInput(f"steps: {field.name} is scaled by a spread of {spread:g}", field="steps")
    return _number(field), lambda column: (column - shift) / spread


def _log1p(field: Field, _: None) -> tuple[Field, Callable[[Column], Column]]:
    def apply(column: Column) -> Column:
        with np.errstate(divide="ignore", invalid="ignore"):  # of -1 and below: no number, which the model is told
            logarithms: Column = np.log1p(column)
        return logarithms

    return _number(field), apply


def _map(field: Field, table: Mapping[str, float]) -> tuple[Field, Callable[[Column], Column]]:
    _text(field)
    numbers: dict[str | None, float] = {text: _finite(number, field.name) for text, number in table.items()}
    rest = numbers.pop("*", math.nan)
    if None in numbers or not numbers:
        raise InvalidInput(f"steps: the map of {field.name} is empty", field="steps")
    numbers.setdefault(None, math.nan)
    mapped = Field(field.name, "number", field.nullable or math.isnan(rest))
    return mapped, lambda column: np.array([numbers.get(text, rest) for text in column.tolist()], np.float64)


_MAKERS: dict[str, Callable[[Field, Any], tuple[Field, Callable[[Column], Column]]]] = {
    "impute": _impute,
    "clip": _clip,
    "scale": _scale,
    "log1p": _log1p,
    "map": _map,
}


def _chosen(names: Sequence[str], given: Sequence[str], fields: Fields) -> tuple[Fields, Apply]:
    for name in given:
        _known(name, fields)
    if not names or len(set(names)) != len(names):
        raise InvalidInput("steps: some columns must be left, each of them once", field="steps")
    return {name: fields[name] for name in names}, lambda columns: {name: columns[name] for name in names}


def _spread(given: Mapping[str, Sequence[str]], fields: Fields) -> tuple[Fields, Apply]:
    after: Fields = {}
    for name, field in fields.items():
        if name not in given:
            after[name] = field
            continue
        _text(field)
        values = given[name]
        if not values or len(set(values)) != len(values):
            raise InvalidInput(f"steps: one_hot needs the values of {name}, each of them once", field="steps")
        after |= {f"{name}={value}": Field(f"{name}={value}") for value in values}
    if len(after) != len(fields) + sum(len(values) - 1 for values in given.values()):
        raise InvalidInput("steps: one_hot makes a column that is there already", field="steps")

    def apply(columns: Columns) -> Columns:
        out: Columns = {}
        for name, column in columns.items():
            if name in given:
                out |= {f"{name}={value}": np.equal(column, value).astype(np.float64) for value in given[name]}
            else:
                out[name] = column
        return out

    return after, apply


def _appended(given: Mapping[str, str | int], fields: Fields, other: Other) -> tuple[Fields, Apply]:
    """Each sees the columns from before the step."""
    after = dict(fields)
    made: dict[str, Callable[[Columns], Column]] = {}
    for name, source in given.items():
        if name in fields:
            raise InvalidInput(f"steps: append makes the column {name!r}, which is there already", field="steps")
        after[name], made[name] = other(name, source, fields)
    return after, lambda columns: {**columns, **{name: ask(columns) for name, ask in made.items()}}


def _known(name: str, fields: Fields) -> None:
    if name not in fields:
        raise InvalidInput(f"steps: there is no column {name!r} here, but {', '.join(list(fields)[:8])}", field="steps")


def _number(field: Field) -> Field:
    if field.kind != "number":
        raise InvalidInput(f"steps: {field.name} is text, and a number is needed", field="steps")
    return field


def _text(field: Field) -> None:
    if field.kind != "text":
        raise InvalidInput(f"steps: {field.name} is a number, and text is needed", field="steps")


def _finite(value: Any, name: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise InvalidInput(f"steps: {name}: expected a finite number, got {value}", field="steps")
    return number
