"""The packed window against a plain list."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.schema import Field, Schema, Target
from everloop.core.types import Example
from everloop.learning.window import Rows, Window

NUMBERS = Schema((Field("a"), Field("b", nullable=True)))
MIXED = Schema((Field("a"), Field("c", "text")))


def example(i: int, mixed: bool) -> Example:
    row = [float(i), "red" if i % 2 else "blue"] if mixed else [float(i), None if i % 3 == 0 else i / 2]
    return Example(i, "m", row, float(i), 0.0, version=i % 4 or None)


@given(
    adds=st.lists(st.integers(0, 700), max_size=8),
    limit=st.integers(1, 900),
    gap=st.integers(1, 3),
    mixed=st.booleans(),
    newest=st.integers(0, 1000),
    cut=st.integers(0, 2000),
)
def test_it_is_the_newest_examples_in_order(
    adds: list[int], limit: int, gap: int, mixed: bool, newest: int, cut: int
) -> None:
    window = Window(MIXED if mixed else NUMBERS, Target("regression"))
    plain: list[Example] = []
    last = 0
    for count in adds:
        new = [example(last + gap * (i + 1), mixed) for i in range(count)]
        last = new[-1].id if new else last
        window.extend(new, limit)
        plain = [*plain, *new][-limit:]
        assert len(window) == len(plain)
    part = window.newest(newest)
    expected = plain[max(0, len(plain) - newest) :]
    assert part.ids.tolist() == [e.id for e in expected]
    assert list(part.rows) == [e.row for e in expected]
    assert part.labels == [e.label for e in expected]
    assert part.versions.tolist() == [e.version or 0 for e in expected]
    assert window.count_from(cut) == sum(e.id >= cut for e in plain)
    assert (window.first_id, window.last_id) == ((plain[0].id, plain[-1].id) if plain else (0, 0))
    window.cut(cut)
    assert list(window.newest(10_000).rows) == [e.row for e in plain if e.id >= cut]


def test_rows_are_lists_to_people_and_an_array_to_numpy() -> None:
    rows = Rows(np.array([[1.0, np.nan], [3.0, 4.0]]))
    assert rows[0] == [1.0, None]
    assert list(rows) == [[1.0, None], [3.0, 4.0]]
    assert list(rows[1:]) == [[3.0, 4.0]]
    np.testing.assert_array_equal(np.asarray(rows), [[1.0, np.nan], [3.0, 4.0]])
    np.testing.assert_array_equal(NUMBERS.matrix(rows), [[1.0, np.nan], [3.0, 4.0]])
    mixed = Rows([[1.0, "red"], [2.0, "blue"]])
    assert np.asarray(mixed).tolist() == [[1.0, "red"], [2.0, "blue"]]
    assert MIXED.matrix(mixed).tolist() == [[1.0, "red"], [2.0, "blue"]]
