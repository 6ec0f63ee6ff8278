"""The examples that a model's journal holds, as what its forms are compared on: the newest inputs, each once.

Labelled examples come first, since a metric can be judged on them; where there are too few, recorded predictions are inputs just as well.
An input that was asked a thousand times proves nothing a second time, so equal ones count once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from everloop.core.schema import unpack_rows
from everloop.core.types import PredictionRecord, Row, Scalar
from everloop.stores.ports import Journal

_PROBE = 64
"""Records that tell how many rows one has."""


class Recorded(NamedTuple):
    rows: list[Row]
    """Different ones, the newest first."""
    labels: list[Scalar] | None = None
    """One a row; None where too few have one."""
    source: dict[str, Any] = {}
    """Where to find them again: `kind` (`examples` or `predictions`), and the ids in the journal of the `first` and the `last`."""


def recorded(journal: Journal, model: str, *, least: int, most: int) -> Recorded:
    """At most `most` different inputs; with their labels if at least `least` have one."""
    labelled = journal.examples(model, limit=most, latest=True)
    if len(labelled) >= least:
        known: dict[tuple[object, ...], tuple[Row, Scalar]] = {}
        for example in reversed(labelled):
            known.setdefault(tuple(example.row), (example.row, example.label))
        if len(known) >= least:
            pairs = list(known.values())
            source = {"kind": "examples", "first": labelled[0].id, "last": labelled[-1].id}
            return Recorded([row for row, _ in pairs], [label for _, label in pairs], source)
    found = _asked(journal, model, most)
    source = {"kind": "predictions", "first": found[0][0], "last": found[-1][0]} if found else {}
    return Recorded(_different(_rows([made for _, made in found]), most), source=source)


def _asked(journal: Journal, model: str, most: int) -> list[tuple[int, PredictionRecord]]:
    """The newest records, as many as hold about `most` rows: a busy server's hold hundreds each."""
    found = _answered(journal, model, _PROBE)
    rows = sum(made.count * made.rows for _, made in found)
    if found and rows < most:
        found = _answered(journal, model, min(most, len(found) * -(-most // rows)))
    return found


def _answered(journal: Journal, model: str, limit: int) -> list[tuple[int, PredictionRecord]]:
    return [each for each in journal.predictions(model, limit=limit, latest=True) if not each[1].shadow]


def _rows(found: list[PredictionRecord]) -> Iterator[Row]:
    """The newest first."""
    for made in reversed(found):
        yield from reversed(unpack_rows(made.encoding, made.features, made.count * made.rows))


def _different(rows: Iterable[Row], most: int) -> list[Row]:
    known: dict[tuple[object, ...], Row] = {}
    for row in rows:
        known.setdefault(tuple(row), row)
        if len(known) == most:
            break
    return list(known.values())
