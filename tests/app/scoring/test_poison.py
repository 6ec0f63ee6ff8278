"""A row that ends the process which scores it: told by its line, and treated like any bad row; its neighbours are scored."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.app.scoring.conftest import Score

from everloop.app.scoring.arrow import from_stream, to_stream
from everloop.app.scoring.rows import Block
from everloop.app.scoring.source import Decoder
from everloop.core.errors import InvalidInput

ROWS = 3_000
POISON = 2_345
"""Far behind what is scored before the work is spread."""
DEADLY = f"""
import os, signal, time

def deadly(row):
    if row["x"] < 21:
        time.sleep(0.003)  # so that it is soon known what a row costs, and the rest is spread
    if row["x"] in ({POISON}, {POISON + 1}) and os.getpid() == {os.getpid()}:
        raise AssertionError("scored in the process that spreads the work")
    if row["x"] == {POISON}:
        os.kill(os.getpid(), signal.SIGKILL)
    if row["x"] == {POISON + 1}:
        os._exit(3)
    return row["x"] * 2
"""


@pytest.fixture
def deadly(folder: Path) -> str:
    (folder / "ends.py").write_text(DEADLY)
    return "ends:deadly"


def _csv(path: Path, rows: int) -> None:
    """Every row has two lines of text, and there is a blank one behind each tenth."""
    ends = ("\n\n" if x % 10 == 9 else "\n" for x in range(rows))
    path.write_text("x,note\n" + "".join(f'{x},"two\nlines"{end}' for x, end in zip(range(rows), ends, strict=True)))


def _line(x: int) -> int:
    return 2 + 2 * x + x // 10


def test_a_csv_row_that_kills_its_worker_is_named_by_its_line(run: Score, folder: Path, deadly: str) -> None:
    _csv(folder / "in.csv", ROWS)
    said = rf"in\.csv, line {_line(POISON)}, it ended the worker process that scored it \(killed by signal 9\)"
    with pytest.raises(InvalidInput, match=said):
        run(deadly, "in.csv", "out.csv", executor="process", workers=2)
    letters = folder / "bad.ndjson"
    summary = run(deadly, "in.csv", "out.csv", executor="process", workers=2, on_error="skip", dead_letter=letters)
    assert summary.resumed > 0, "what was scored before it is not lost"
    assert (summary.rows, summary.written, summary.errors) == (ROWS, ROWS - 2, 2)
    with (folder / "out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    good = [x for x in range(ROWS) if x not in (POISON, POISON + 1)]
    assert [(row["x"], row["prediction"]) for row in found] == [(str(x), str(2 * x)) for x in good]
    bad = [json.loads(line) for line in letters.read_text().splitlines()]
    assert [(each["line"], each["row"]["x"]) for each in bad] == [
        (_line(POISON), str(POISON)),
        (_line(POISON + 1), str(POISON + 1)),
    ]
    assert "killed by signal 9" in bad[0]["error"]
    assert "ended with exit status 3" in bad[1]["error"]


def test_an_ndjson_row_that_kills_its_worker_is_kept_with_the_reason(run: Score, folder: Path, deadly: str) -> None:
    (folder / "in.ndjson").write_text("".join(json.dumps({"x": x}) + "\n" for x in range(ROWS)))
    summary = run(deadly, "in.ndjson", "out.ndjson", executor="process", workers=1, on_error="keep")
    assert (summary.rows, summary.written, summary.errors) == (ROWS, ROWS, 2)
    found = [json.loads(line) for line in (folder / "out.ndjson").read_text().splitlines()]
    assert [row["x"] for row in found] == list(range(ROWS))
    wrong = {row["x"]: row["error"] for row in found if row["error"]}
    assert list(wrong) == [POISON, POISON + 1]
    assert wrong[POISON] == "it ended the worker process that scored it (killed by signal 9)"
    assert [row["prediction"] for row in found] == [None if x in wrong else 2 * x for x in range(ROWS)]


def test_what_else_goes_wrong_is_raised_as_it_is(run: Score, folder: Path) -> None:
    (folder / "leaves.py").write_text(
        f"import os, time\nif os.getpid() != {os.getpid()}:\n    raise OSError('not in a worker')\n"
        "def double(row):\n    time.sleep(0.003)\n    return row['x'] * 2\n"
    )
    (folder / "in.ndjson").write_text("".join(json.dumps({"x": x}) + "\n" for x in range(100)))
    with pytest.raises(InvalidInput, match="importing leaves failed: OSError: not in a worker"):
        run("leaves:double", "in.ndjson", "out.ndjson", executor="process", workers=1, on_error="skip")


class TestHalves:
    def test_text_is_cut_where_a_row_begins(self) -> None:
        decoder = Decoder("csv", ("a", "b"), {"a": "text", "b": "text"})
        first = b'1,"x\ny"\n\n2,"z\n"\n'
        second = b'3,"\n\n"\n4,w\n\n'
        block = Block(first + second, 11)
        assert decoder.halves(block) == (Block(first, 11), Block(second, 16))
        assert decoder.halves(Block(b'3,"\n\n"\n', 5)) == ()
        assert decoder.halves(Block(b"\n\n", 5)) == ()

    def test_ndjson(self) -> None:
        halves = Decoder("ndjson").halves(Block(b'\n{"a":1}\nnonsense\n\n{"a":3}\n', 1))
        assert halves == (Block(b'\n{"a":1}\n', 1), Block(b'nonsense\n\n{"a":3}\n', 3))

    @pytest.mark.parametrize("rows", [1, 2, 5])
    def test_arrow(self, rows: int) -> None:
        values: list[dict[str, Any]] = [{"a": i, "b": "text"} for i in range(rows)]
        halves = Decoder("parquet", ("a", "b")).halves(Block(to_stream(pa.RecordBatch.from_pylist(values)), 100))
        if rows == 1:
            assert halves == ()
            return
        assert [each.line for each in halves] == [100, 100 + rows // 2]
        assert [row for each in halves for row in from_stream(each.data).to_pylist()] == values
