"""The rows that forms of a model are compared on, what the original says to them, and how to come to the very same ones again.

Given rows (a user's, or recorded ones) are compared on as they are, and more that are drawn from them (`synthetic`). What the original itself
refuses to answer (a value beyond single precision, a category of its own) proves nothing of any form: such rows are counted and left out.
Where INT8 is wished, every so many-th given row calibrates it, and does not judge it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import msgspec
import numpy as np

from everloop.core.errors import InvalidInput, explain
from everloop.core.schema import Schema, pack_rows
from everloop.core.types import Row, Scalar
from everloop.optimization.asking import BLOCK, Answers, ask
from everloop.optimization.synthetic import draw_rows, make_up_rows
from everloop.runtime.session import Session

CALIBRATION = 5
"""Every so many-th row calibrates INT8 …"""
MOST_CALIBRATION = 500
"""… up to so many; and so many others are shown to converters."""
MADE_UP = 2_000
MOST_VALUES = 10_000_000
"""Of all rows, where any are drawn or made up: what they take in memory stays below a gigabyte."""
FEWEST = 8
_HOPELESS = 100
"""Rows, none of which the original answers: nor does it answer others."""
_PROBED = 256
"""Rows that tell how long the original takes."""


class Data(msgspec.Struct, frozen=True):
    """What the forms were compared on."""

    source: Literal["given", "made up"]
    rows: int
    labelled: bool
    digest: str
    """SHA-256 of rows and labels."""
    judged: int
    """Rows on which a metric is judged: none of made up ones."""
    calibrated: int
    """Rows that only calibrated INT8."""
    drawn: int
    """Rows beside, their values drawn column by column."""
    seed: int
    refused: int = 0
    """Rows, given or drawn, that the original raised for: in none of the other numbers but `drawn`."""


@dataclass(frozen=True)
class Evidence:
    """Made once, from the original."""

    data: Data
    rows: list[Row] = field(repr=False)
    """All: the judged ones, those that calibrate, and the drawn ones."""
    labels: Sequence[Scalar] | None = field(repr=False)
    """Of the judged rows."""
    shown: list[Row] = field(repr=False)
    """To whoever converts or calibrates …"""
    shown_labels: list[Scalar] | None = field(repr=False)
    """… with their labels."""
    original: Answers = field(repr=False)
    dtype: Any
    """What the original takes."""
    loss: float


def gather(
    session: Session,
    rows: Sequence[Row],
    labels: Sequence[Scalar] | None,
    *,
    total: int,
    drawn: int | None,
    seconds: float,
    calibrate: bool,
    loss: float,
    seed: int,
) -> Evidence:
    """Of the original's `session`: as many rows are drawn as are missing to `total`, if the original answers them in about `seconds`; or
    exactly `drawn`. Without `rows` some are made up. Raises InvalidInput where the original answers none of them."""
    made_up = not rows
    fits = max(FEWEST, MOST_VALUES // len(session.schema.fields))
    found = list(rows) or make_up_rows(session.schema, min(MADE_UP, total, fits), seed)
    answered, answers = _answered(session, found)
    given = [found[i] for i in answered]
    all_labels = None if labels is None or made_up else list(labels)
    truth = None if all_labels is None else [all_labels[i] for i in answered]
    aside = set(range(0, len(given), CALIBRATION)[:MOST_CALIBRATION]) if calibrate and not made_up else set()
    order = [i for i in range(len(given)) if i not in aside] + sorted(aside)
    judged = 0 if made_up else len(given) - len(aside)
    if drawn is None:
        drawn = max(0, min(total, fits, _affordable(session, given, seconds)) - len(given))
    more = draw_rows(given, drawn, seed)
    more_answered, more_answers = _answered(session, more, least=0)
    shown = order[len(given) - len(aside) :] or order[:MOST_CALIBRATION]
    return Evidence(
        data=Data(
            source="made up" if made_up else "given",
            rows=len(given),
            labelled=truth is not None,
            digest=data_digest(found, all_labels, session.schema),
            judged=judged,
            calibrated=len(aside),
            drawn=drawn,
            seed=seed,
            refused=len(found) - len(given) + len(more) - len(more_answered),
        ),
        rows=[given[i] for i in order] + [more[i] for i in more_answered],
        labels=None if truth is None else [truth[i] for i in order[:judged]],
        shown=[given[i] for i in shown],
        shown_labels=None if truth is None else [truth[i] for i in shown],
        original=_joined([_ordered(answers, order), more_answers]),
        dtype=session.dtype,
        loss=loss,
    )


def _answered(session: Session, rows: Sequence[Row], *, least: int = 1) -> tuple[list[int], Answers]:
    """Which rows the original answers, ascending, and what it says to them. Those of a block that it refuses are found by halves.

    Raises InvalidInput where these are fewer than `least`."""
    answered: list[int] = []
    parts: list[Answers] = []
    refused, told = 0, ""
    many = -(-len(rows) // BLOCK)
    blocks = [range(first, len(rows), many) for first in reversed(range(many))]
    while blocks:
        block = blocks.pop()
        try:
            parts.append(ask(session, [rows[i] for i in block]))
            answered += block
        except Exception as error:  # whatever a model raises for a row that it cannot take
            if len(block) > 1:
                blocks += [block[1::2], block[::2]]  # so that the first that are asked alone are from everywhere
                continue
            refused += 1
            told = told or f"row {block[0] + 1}: {explain(error)}"
            if not answered and refused >= _HOPELESS:
                break
    if len(answered) < least:
        raise InvalidInput(f"the original answers none of the rows that it was asked; {told}", field="rows")
    order = sorted(range(len(answered)), key=answered.__getitem__)
    return [answered[i] for i in order], _ordered(_joined(parts), order)


def _joined(parts: Sequence[Answers]) -> Answers:
    labels = [part.labels for part in parts if part.labels is not None]
    numbers = [part.numbers for part in parts if part.numbers is not None]
    return Answers(list(chain.from_iterable(labels)) if labels else None, np.concatenate(numbers) if numbers else None)


def _ordered(answers: Answers, order: Sequence[int]) -> Answers:
    return Answers(
        None if answers.labels is None else [answers.labels[i] for i in order],
        None if answers.numbers is None else answers.numbers[list(order)],
    )


def _affordable(session: Session, rows: Sequence[Row], seconds: float) -> int:
    some = rows[:_PROBED]
    begun = time.perf_counter()
    ask(session, some)
    return int(seconds / max((time.perf_counter() - begun) / len(some), 1e-9))


def data_digest(rows: Sequence[Row], labels: Sequence[Scalar] | None, schema: Schema) -> str:
    """SHA-256 that tells whether two runs saw the same examples."""
    encoding, packed = pack_rows(rows, schema)
    digest = hashlib.sha256(encoding.encode() + packed)
    digest.update(msgspec.json.encode(labels))
    return digest.hexdigest()
