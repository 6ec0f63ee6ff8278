"""What a column holds is told by all of its beginning, and a cell means one thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.app.scoring.kinds import BadCell, kinds_of_cells, read_cell


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2"], "integer"),
        (["1", "2.5"], "number"),
        (["1", "", "NA", "3"], "integer"),
        (["1e5", "-.5", "nan"], "number"),
        (["true", "False", ""], "boolean"),
        (["true", "1"], "text"),
        (["01234", "99999"], "text"),
        (["0", "0.5", "-0.1"], "number"),
        (["4929123412341234123", "1"], "text"),
        (["", ""], "text"),
        ([], "text"),
        (["1", "x"], "text"),
        (["inf"], "text"),
        (["1_000"], "text"),
    ],
)
def test_the_kind_of_a_column(cells: list[str], kind: str) -> None:
    assert kinds_of_cells(1, [[cell] for cell in cells]) == [kind]


@given(st.one_of(st.integers(-(10**17), 10**17), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_is_read_as_it_was_written(value: float) -> None:
    read = read_cell(repr(value), "number")
    assert read == value
    assert isinstance(read, type(value))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("", "number", None),
        (" NA ", "integer", None),
        ("NA", "text", "NA"),
        ("", "text", None),
        (" 7 ", "integer", 7),
        ("7.0", "integer", 7),
        ("TRUE", "boolean", True),
        ("true", "number", 1.0),
    ],
)
def test_a_cell(text: str, kind: str, value: object) -> None:
    assert read_cell(text, kind) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind"),
    [("x", "number"), ("1e999", "number"), ("7.5", "integer"), ("9" * 19, "integer"), ("yes", "boolean")],
)
def test_a_bad_cell(text: str, kind: str) -> None:
    with pytest.raises(BadCell, match="expected"):
        read_cell(text, kind)  # type: ignore[arg-type]
