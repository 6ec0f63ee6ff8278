"""The rows that forms of a model are compared on, what the original says to them, and how to come to the very same ones again.

Given rows (a user's, or recorded ones) are compared on as they are, and more that are drawn from them (`synthetic`). Where INT8 is wished, every so many-th given row calibrates it, and does not judge it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from everloop.core.schema import Schema, pack_rows
from everloop.core.types import Row, Scalar
from everloop.optimization.asking import Answers, ask
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
    exactly `drawn`. Without `rows` some are made up. Raises what the original raises."""
    made_up = not rows
    fits = max(FEWEST, MOST_VALUES // len(session.schema.fields))
    given = list(rows) or make_up_rows(session.schema, min(MADE_UP, total, fits), seed)
    truth = None if labels is None or made_up else list(labels)
    aside = set(range(0, len(given), CALIBRATION)[:MOST_CALIBRATION]) if calibrate and not made_up else set()
    order = [i for i in range(len(given)) if i not in aside] + sorted(aside)
    judged = 0 if made_up else len(given) - len(aside)
    if drawn is None:
        drawn = max(0, min(total, fits, _affordable(session, given, seconds)) - len(given))
    everything = [given[i] for i in order] + draw_rows(given, drawn, seed)
    shown = order[len(given) - len(aside) :] or order[:MOST_CALIBRATION]
    return Evidence(
        data=Data(
            source="made up" if made_up else "given",
            rows=len(given),
            labelled=truth is not None,
            digest=data_digest(given, truth, session.schema),
            judged=judged,
            calibrated=len(aside),
            drawn=drawn,
            seed=seed,
        ),
        rows=everything,
        labels=None if truth is None else [truth[i] for i in order[:judged]],
        shown=[given[i] for i in shown],
        shown_labels=None if truth is None else [truth[i] for i in shown],
        original=ask(session, everything),
        dtype=session.dtype,
        loss=loss,
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
