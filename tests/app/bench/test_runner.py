from __future__ import annotations

import json
from pathlib import Path

import pytest

from everloop.app.bench import as_table, run_bench
from everloop.app.bench.rows import Context, Result, Skip, against
from everloop.core.errors import InvalidInput


def good(context: Context, folder: Path) -> Result:
    assert folder.is_dir()
    context.say("measuring")
    return Result([against("good", "is fast", 70.0, "at least", 60, detail="as ever")], {"n": 1})


def bad(context: Context, folder: Path) -> Result:
    return Result([against("bad", "is slow", 5.0, "at most", 3)])


def absent(context: Context, folder: Path) -> Result:
    raise Skip("wrk is not installed: apt install wrk")


def broken(context: Context, folder: Path) -> Result:
    raise RuntimeError("the server ended with 1")


SUBJECTS = {"good": good, "absent": absent, "bad": bad, "broken": broken}


def test_missed_bars_come_first_and_nothing_hides_the_rest(tmp_path: Path) -> None:
    said: list[str] = []
    report = run_bench(subjects=SUBJECTS, out=tmp_path, plots=False, say=said.append)
    assert [row.subject for row in report.rows] == ["bad", "broken", "absent", "good"]
    assert [row.subject for row in report.missed] == ["bad", "broken"]
    assert "measuring" in said
    table = as_table(report)
    assert table.index("is slow") < table.index("is fast")
    assert "wrk is not installed" in table
    assert "the server ended with 1" in table
    assert "1 of 4 bars met, 2 missed, 1 not measured" in table


def test_what_was_measured_is_kept_with_its_machine(tmp_path: Path) -> None:
    run_bench(["good"], subjects=SUBJECTS, out=tmp_path, plots=False, quick=True)
    kept = json.loads((tmp_path / "good.json").read_text())
    assert kept["data"] == {"n": 1}
    assert kept["quick"] is True
    assert kept["machine"]["python"]
    assert kept["rows"][0]["passed"] is True
    assert json.loads((tmp_path / "report.json").read_text())["rows"][0]["what"] == "is fast"
    assert not (tmp_path / "bad.json").exists()


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"no benchmark named 'htpp'; there are inprocess, threads, http"):
        run_bench(["htpp"])
