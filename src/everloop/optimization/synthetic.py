"""Rows that nobody has sent.

**Drawn** from rows that are there, column by column: real values, in combinations that are new.

**Made up** for a model of which no examples are at hand: enough to measure with, and a weak proof of agreement. Nothing tells what numbers the model is used to. So their magnitudes are spread over five decades, which reaches most branches of a tree and
both sides of most thresholds, and a value is missing now and then where that is allowed. Texts are words that the model has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from everloop.core.schema import Schema
from everloop.core.types import Row

_WORDS = ("alpha", "beta", "gamma", "delta", "a few words of text", "")
_MISSING = 0.02


def make_up_rows(schema: Schema, count: int, seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    columns = []
    for field in schema.fields:
        if field.kind == "number":
            scale = 10.0 ** rng.uniform(-2, 3, count)
            values: list[float | str | None] = list((rng.standard_normal(count) * scale).astype(np.float32).tolist())
        else:
            values = [_WORDS[i] for i in rng.integers(0, len(_WORDS), count)]
        if field.nullable:
            for i in np.flatnonzero(rng.random(count) < _MISSING).tolist():
                values[i] = None
        columns.append(values)
    return [list(row) for row in zip(*columns, strict=True)]


def draw_rows(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows, each value from another of the given ones, in its column."""
    if not rows or count <= 0:
        return []
    rng = np.random.default_rng(seed)
    columns = list(zip(*rows, strict=True))
    chosen = rng.integers(0, len(rows), (len(columns), count)).tolist()
    drawn = [[column[i] for i in places] for column, places in zip(columns, chosen, strict=True)]
    return [list(row) for row in zip(*drawn, strict=True)]
