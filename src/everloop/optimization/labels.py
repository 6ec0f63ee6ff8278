"""Labels that a form is judged by have to be the model's own: where none is, right answers are none before and none after, and whatever is
made of the model passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from everloop.core.errors import InvalidInput

_SHOWN = 5


def strangers(labels: Sequence[Any], classes: Sequence[Any] | None, what: str = "labels") -> int:
    """How many of `labels`, (n,), are none of `classes`; of a regression, which has none, 0. `what`: where they are from, for a person.

    Raises InvalidInput where that is all of them."""
    if classes is None or not len(labels):
        return 0
    if np.ndim(labels) != 1:
        raise InvalidInput(f"{what}: expected one label a row, got shape {np.shape(labels)}", field="labels")
    known = set(_plain(classes))
    others = [label for label in _plain(labels) if label not in known]
    if len(others) == len(labels):
        raise InvalidInput(
            f"{what}: none of the {len(labels):,} labels ({_some(others)}) is a class of this model, which has {_some(classes)}",
            field="labels",
        )
    return len(others)


def _plain(values: Iterable[Any]) -> list[Any]:
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _some(values: Iterable[Any]) -> str:
    different = list(dict.fromkeys(_plain(values)))
    return ", ".join(map(repr, different[:_SHOWN])) + (", …" if len(different) > _SHOWN else "")
