"""Blocks end where rows do, whatever the quoting, and one can go on at any of their ends."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from everloop.app.scoring import readers
from everloop.app.scoring.formats import Place
from everloop.app.scoring.readers import TextReader
from everloop.app.scoring.rows import Block
from everloop.core.errors import InvalidInput

cells = st.text(st.sampled_from('ab,"\n\r; é\u2028\x85'), max_size=6)
tables = st.lists(st.lists(cells, min_size=2, max_size=2), max_size=12)
here = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def blocks(reader: TextReader, rows: int, size: int = 1 << 20) -> list[Block]:
    found = []
    while (block := reader.take(rows, size)) is not None:
        found.append(block)
    return found


@contextmanager
def opened(path: Path, kind: str = "csv") -> Iterator[TextReader]:
    reader = TextReader(Place(path, kind, path.suffix == ".gz"))  # type: ignore[arg-type]
    try:
        yield reader
    finally:
        reader.close()


@here
@given(tables, st.integers(1, 5), st.integers(1, 60), st.integers(1, 64))
def test_blocks_of_csv_hold_whole_rows_and_lose_nothing(
    tmp_path: Path, table: list[list[str]], rows: int, size: int, chunk: int
) -> None:
    out = io.StringIO(newline="")
    csv.writer(
        out,
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if any("\r" in cell for row in table for cell in row) else csv.QUOTE_MINIMAL,
    ).writerows(table)
    path = tmp_path / "t.csv"
    path.write_bytes(out.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "CHUNK", chunk)
        with opened(path) as reader:
            found, places = [], [reader.position]
            while (block := reader.take(rows, size)) is not None:
                found.append(block)
                places.append(reader.position)
            assert b"".join(block.data for block in found).rstrip(b"\n") == path.read_bytes().rstrip(b"\n")
            read = [
                row
                for block in found
                for row in csv.reader(io.StringIO(block.data.decode(), newline="\n"), strict=True)
            ]
            assert read == list(csv.reader(io.StringIO(out.getvalue(), newline="\n")))
            for place, block in zip(places, found, strict=False):  # from each of its ends
                reader.seek(place)
                assert reader.take(rows, size) == block


@here
@given(st.lists(st.sampled_from(['{"a": "\\"x"}', "[1]", "", '"', "x,y"]), max_size=9), st.integers(1, 4))
def test_lines_of_ndjson_are_rows_whatever_is_in_them(tmp_path: Path, lines: list[str], rows: int) -> None:
    path = tmp_path / "t.ndjson"
    path.write_text("\n".join(lines))
    with opened(path, "ndjson") as reader:
        found = blocks(reader, rows)
        assert [line for block in found for line in block.data.decode().splitlines()] == "\n".join(lines).splitlines()
        assert [block.line for block in found] == list(range(1, len("\n".join(lines).splitlines()) + 1, rows))


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ('a,"b\nc"\nd,e\n', [2, 3]),
        ('a,"b""\nc"\nd,e\n', [2, 3]),
        ('5" pipe,b\nd,"e"\n', [1, 2]),
        ('5" pipe,"x\ny"\nd,e\n', [2, 3]),
        ('a,"b"c\nd,e\n', [1, 2]),
        ('a,"b\nd,e\n', [2]),
        ('"a\r\nb",c\r\nd,e\r\n', [2, 3]),
    ],
)
def test_a_row_ends_where_its_quoted_cell_does(tmp_path: Path, text: str, ends: list[int]) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    with opened(path) as reader:
        found = []
        while reader.take(1, 1 << 20) is not None:
            found.append(reader.position.line)
        assert found == ends


@example(b"")
@example(b"\n")
@example(b"a")
@example(b"\xef\xbb\xbfa\n")
@here
@given(st.binary(max_size=50))
def test_any_bytes_are_read_to_their_end(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.ndjson"
    path.write_bytes(data)
    with opened(path, "ndjson") as reader:
        whole = b"".join(block.data for block in blocks(reader, 1))
        text = data.removeprefix(b"\xef\xbb\xbf")
        assert whole == text + (b"\n" if text and not text.endswith(b"\n") else b"")
        assert reader.fraction() in (None, 1.0)


def test_a_line_without_end_is_refused_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LARGEST_ROW", 1000)
    monkeypatch.setattr(readers, "CHUNK", 64)
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" * 20 + b"x" * 2000)
    with opened(path) as reader, pytest.raises(InvalidInput, match="line 21: this line does not end"):
        blocks(reader, 10)
    path.write_bytes(b'a,b\n1,"' + b"x\n" * 2000)
    with opened(path) as reader, pytest.raises(InvalidInput, match="line 2: the quoted cell that begins in this row"):
        blocks(reader, 10)


def test_gzip_goes_on_in_the_middle_and_says_when_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "t.ndjson.gz"
    path.write_bytes(gzip.compress(b"".join(b'{"x": %d}\n' % i for i in range(100_000))))
    with opened(path, "ndjson") as reader:
        first = reader.take(10, 1 << 20)
        place = reader.position
        second = reader.take(5, 1 << 20)
        reader.seek(place)
        assert reader.take(5, 1 << 20) == second
        assert first is not None
        assert 0 < (reader.fraction() or 0) <= 1
    path.write_bytes(path.read_bytes()[:-500])
    with opened(path, "ndjson") as reader, pytest.raises(InvalidInput, match="not a whole gzip file"):
        blocks(reader, 1 << 16)
