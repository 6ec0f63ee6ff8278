"""What the columns of a text hold: told from its beginning, once, or said by `--type`; and a cell's text as a value.

A column whose cells at the beginning are all numbers is one of numbers, and a text further down is then an error that names its line,
not a value of another type. Numbers with a leading zero (postcodes, account numbers) are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

Kind = Literal["text", "number", "integer", "boolean"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""How files say that a number is missing, in any case of letters. A text is missing where its cell is empty."""
_WHOLE = re.compile(r"[+-]?[0-9]+\Z")
_LONGEST_NUMBER = 18
"""Digits; what has more is a name: of an account, a card, a tweet."""
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]")
_BOOLEANS = {"true": True, "false": False}


class BadCell(ValueError):
    """A cell that is not of its column's kind; the message is for a person."""


def is_missing(text: str) -> bool:
    return text.strip().lower() in MISSING


def read_cell(text: str, kind: Kind) -> Any:
    """The value of a cell; None where it is missing. Numbers without a point or exponent are ints. Raises BadCell."""
    if kind == "text":
        return text or None
    if is_missing(text):
        return None
    text = text.strip()
    if kind == "boolean":
        value = _BOOLEANS.get(text.lower())
        if value is None:
            raise BadCell(f"expected true or false, got {short(text)}")
        return value
    if _WHOLE.match(text) and (kind == "number" or -(2**63) <= int(text) < 2**63):
        return int(text)
    number = read_number(text)
    if kind == "integer":
        if not number.is_integer() or abs(number) >= 2**63:
            raise BadCell(f"expected a whole number, got {short(text)}")
        return int(number)
    return number


def read_number(text: str) -> float:
    """A finite number. `1_000`, which Python reads, is none in a file. Raises BadCell."""
    if "_" not in text:
        try:
            number = float(text)
        except ValueError:
            truth = _BOOLEANS.get(text.strip().lower())
            if truth is not None:  # a column of booleans, for a model that takes numbers
                return float(truth)
        else:
            if math.isfinite(number):
                return number
    raise BadCell(f"expected a finite number, got {short(text)}")


def kinds_of_cells(width: int, rows: Iterable[Sequence[str]]) -> list[Kind]:
    """Of each column: the narrowest kind that all of its cells have; text where there is no cell."""
    possible: list[set[Kind]] = [{"boolean", "integer", "number"} for _ in range(width)]
    seen = [False] * width
    for row in rows:
        for i, cell in enumerate(row[:width]):
            if possible[i] and not is_missing(cell):
                seen[i] = True
                possible[i] &= _kinds_of(cell.strip())
    order: tuple[Kind, ...] = ("boolean", "integer", "number")
    return [
        next((kind for kind in order if kind in kinds), "text") if seen[i] else "text"
        for i, kinds in enumerate(possible)
    ]


def _kinds_of(text: str) -> set[Kind]:
    if text.lower() in _BOOLEANS:
        return {"boolean"}
    if _LEADING_ZERO.match(text):
        return set()
    if _WHOLE.match(text):
        return {"integer", "number"} if len(text.lstrip("+-")) <= _LONGEST_NUMBER else set()
    try:
        read_number(text)
    except BadCell:
        return set()
    return {"number"}


def short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # a user's class, or an integer of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "…"
