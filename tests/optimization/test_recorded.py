"""Recorded examples: the newest, each once, with labels where there are enough."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.schema import Field, Schema, pack_rows
from everloop.core.types import Label, PredictionRecord
from everloop.optimization.job import common
from everloop.optimization.recorded import recorded
from everloop.stores.memory import MemoryJournal
from everloop.testing import ManualClock

NUMBERS = Schema((Field("a", "number"), Field("b", "number", nullable=True)))
MIXED = Schema((Field("a", "number"), Field("b", "text")))


def put(journal: Any, rows: list[list[Any]], schema: Schema = NUMBERS, *, each: int = 1, shadow: bool = False) -> None:
    """As one record: requests of `each` rows."""
    encoding, packed = pack_rows(rows, schema)
    count = len(rows) // each
    journal.record(PredictionRecord("m", 1, "k", 0, count, each, 0.0, encoding, packed, [0.0] * len(rows), shadow))
    journal.flush()


@pytest.fixture
def journal(clock: ManualClock) -> MemoryJournal:
    return MemoryJournal(clock=clock)


@given(rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), max_size=60), most=st.integers(1, 30))
def test_different_inputs_the_newest_first(rows: list[tuple[int, int]], most: int) -> None:
    journal = MemoryJournal(clock=ManualClock())
    for at in range(0, len(rows), 7):
        put(journal, [[float(a), float(b)] for a, b in rows[at : at + 7]])
    found = recorded(journal, "m", least=1, most=most)
    expected = list(dict.fromkeys((float(a), float(b)) for a, b in reversed(rows)))
    assert [tuple(row) for row in found.rows] == expected[:most]
    assert found.labels is None


def test_missing_and_text_values_come_back_as_they_were_asked(journal: MemoryJournal) -> None:
    put(journal, [[1.0, None], [2.0, 3.0]])
    assert recorded(journal, "m", least=1, most=10).rows == [[2.0, 3.0], [1.0, None]]
    put(journal, [[1.0, "x"], [1.0, "y"]], MIXED, each=2)
    assert recorded(journal, "m", least=1, most=2).rows == [[1.0, "y"], [1.0, "x"]]


def test_a_shadows_inputs_are_the_champions_and_count_once(journal: MemoryJournal) -> None:
    put(journal, [[1.0, 1.0]], shadow=True)
    assert recorded(journal, "m", least=1, most=10).rows == []


def test_more_records_are_read_where_each_has_few_rows(journal: MemoryJournal) -> None:
    for i in range(200):
        put(journal, [[float(i), 0.0]])
    found = recorded(journal, "m", least=1, most=150)
    assert [row[0] for row in found.rows] == [float(i) for i in range(199, 49, -1)]
    assert found.source["kind"] == "predictions"


def test_labelled_examples_come_first_where_there_are_enough(journal: MemoryJournal) -> None:
    put(journal, [[float(i), 0.0] for i in range(50)])
    labels = [Label("m", float(i % 3), 0.0, row=[float(i % 12), 5.0]) for i in range(30)]
    ids = journal.append_now(labels).outcomes
    found = recorded(journal, "m", least=12, most=100)
    assert found.labels == [row[0] % 3 for row in found.rows]
    assert [row[0] for row in found.rows] == [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6]
    assert found.source == {"kind": "examples", "first": ids[0], "last": ids[-1]}
    few = recorded(journal, "m", least=13, most=100)
    assert (few.labels, len(few.rows)) == (None, 50), "twelve different ones are not enough"


def test_the_batch_sizes_that_are_measured_are_those_that_many_rows_came_in() -> None:
    assert common({}) == []
    assert common({1: 1000, 8: 1, 64: 20, 256: 0}) == [1, 64]
