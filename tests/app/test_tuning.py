"""`everloop tune`: which items, which alternatives, and a fair race; the command in words, as a table, as JSON, as a picture."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from everloop.app.cli.commands import app
from everloop.app.cli.tune import BAR, bar
from everloop.app.tuning import (
    BUDGET,
    Comparison,
    Measured,
    Race,
    Setting,
    alternatives,
    compare,
    fitting,
    head,
    race_of,
    rows_of,
)
from everloop.core.errors import InvalidInput
from everloop.parallel import PoolManager, set_history_folder

runner = CliRunner()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tunable.py").write_text("def square(x):\n    return x * x\n\ndef name(row):\n    return row['n']\n")
    set_history_folder(tmp_path / "history")
    yield tmp_path
    set_history_folder(None)


def test_items_are_rows_or_the_values_of_a_column(folder: Path) -> None:
    (folder / "t.csv").write_text("n,word\n" + "".join(f"{i},w{i}\n" for i in range(2500)))
    (folder / "t.ndjson").write_text('{"n": 1}\n{"n": 2}\n')
    assert list(rows_of("t.csv", None, None))[2499] == {"n": 2499, "word": "w2499"}
    assert list(rows_of("t.csv", None, "n")) == list(range(2500))
    assert list(rows_of("t.ndjson", None, "n")) == [1, 2]
    with pytest.raises(InvalidInput, match="no column 'm'; it has n, word"):
        next(rows_of("t.csv", None, "m"))
    (folder / "t.csv").write_text("n\n1\n2,3\n")
    with pytest.raises(InvalidInput, match=r"t\.csv, line 3, 2 values"):
        list(rows_of("t.csv", None, None))


def test_a_file_is_read_no_further_than_asked() -> None:
    assert head(iter(range(5)), 3) == ([0, 1, 2], True)
    assert head(iter(range(3)), 3) == ([0, 1, 2], False)
    assert head([], 3) == ([], False)


@pytest.mark.parametrize(
    ("count", "item_seconds", "fits"), [(1000, 0.01, 100), (50, 0.01, 50), (1000, 10.0, 8), (5, 0.0, 5)]
)
def test_a_race_has_as_many_items_as_fit(count: int, item_seconds: float, fits: int) -> None:
    some = fitting(range(count), item_seconds, 1.0)
    assert len(some) == len(set(some)) == fits
    assert some[0] == 0
    assert some[-1] >= count - count // fits - 1, "from all parts of the input"


@pytest.mark.parametrize("cores", [1, 2, 16, 64])
@pytest.mark.parametrize("item_seconds", [1e-7, 1e-5, 1e-3, 0.019, 0.021, 0.1])
def test_a_race_takes_some_seconds_unless_asked_for_more(item_seconds: float, cores: int) -> None:
    race = race_of(range(1_000_000), item_seconds, cores=cores)
    assert 1 <= race.rounds <= 5
    assert race.seconds < (1.7 * BUDGET if item_seconds < 0.05 else 3 * BUDGET)
    assert race.seconds > BUDGET / 5
    wished = race_of(range(1_000_000), item_seconds, cores=cores, rounds=7, seconds=2.0)
    assert wished.rounds == 7
    assert len(wished.items) == pytest.approx(min(1_000_000, 2.0 / item_seconds), rel=0.01, abs=1)


def test_chunks_are_not_tried_on_slow_items() -> None:
    assert {each.chunksize for each in race_of(range(100), 1.0, cores=2).settings} == {None, 1}
    assert len(race_of(range(100), 1.0, cores=2).settings) < len(race_of(range(100), 0.001, cores=2).settings)


@pytest.mark.parametrize(("count", "cores"), [(1, 1), (20, 2), (1000, 2), (100_000, 64)])
def test_alternatives_are_different_and_can_be_run(count: int, cores: int) -> None:
    found = alternatives(count, cores)
    assert len(found) == len(set(found)) <= 30
    assert {each.executor for each in found} == {None, "serial", "thread", "process"}
    assert all(each.workers is None or each.workers <= max(2, count) for each in found)


def test_every_setting_runs_in_every_round_and_medians_count() -> None:
    now = 0.0
    ran: list[int] = []

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    settings = [Setting(), Setting("serial", 1), Setting("thread", 2, 1)]
    with PoolManager() as pool:
        race = Race([1, 2, 3], settings, 3, 1.0)
        said: list[str] = []
        found = compare(ran.append, race, learn=False, pool=pool, say=said.append, clock=clock)
    assert sorted(ran) == [1] * 10 + [2] * 10 + [3] * 10, "three counted rounds, and one for warming up what starts"
    assert said[:2] == ["warming up", "round 1 of 3"]
    assert said[2].startswith("round 2 of 3, about ")
    assert found.chosen.found == Setting("serial", 1, found.chosen.found.chunksize if found.chosen.found else None)
    assert str(found.chosen) == "as chosen: serial"
    assert all(len(each.seconds) == 3 for each in found.measured)
    assert {each.setting for each in found.measured} == set(settings)


def test_a_function_that_fails_is_told_with_its_item() -> None:
    def picky(x: int) -> int:
        if x == 3:
            raise ValueError("three")
        return x

    for settings in ([Setting()], [Setting("serial", 1)], [Setting("thread", 2, 1)]):
        race = Race([1, 2, 3, 4], settings, 1, 1.0)
        with PoolManager() as pool, pytest.raises(InvalidInput, match=r"fails: item 2.*ValueError: three \(in picky"):
            compare(picky, race, learn=False, pool=pool, say=lambda _: None)


def test_what_cannot_be_run_is_left_out_and_told() -> None:
    race = Race([1, 2, 3, 4], [Setting(), Setting("serial", 1), Setting("process", 2, 1)], 1, 1.0)
    with PoolManager() as pool:
        found = compare(lambda _: threading.Lock(), race, learn=False, pool=pool, say=lambda _: None)
    assert len(found.measured) == 2
    assert "cannot" in found.impossible[Setting("process", 2, 1)]


def test_the_quickest_is_first() -> None:
    slow = Measured(Setting("serial", 1), [3.0, 2.0, 9.0])
    quick = Measured(Setting(), [1.0, 5.0, 1.0])
    found = Comparison(10, 3, sorted([slow, quick], key=lambda each: each.median))
    assert (found.best, found.chosen, found.serial) == (quick, quick, slow)


@pytest.mark.parametrize(("share", "length"), [(1.0, BAR), (0.5, BAR // 2), (0.0, 1), (1e-9, 1), (0.51, BAR // 2 + 1)])
def test_bars(share: float, length: int) -> None:
    assert len(bar(share)) == length


def invoke(*arguments: str) -> Any:
    return runner.invoke(app, ["tune", *arguments])


def test_the_choice_in_words_and_as_json(folder: Path) -> None:
    told = invoke("tunable:square", "--range", "50")
    assert told.exit_code == 0, told.output
    assert "square over 50 items runs one after the other" in told.stdout
    assert "Why" in told.stdout
    found = json.loads(invoke("tunable:square", "--items-json", "[1, 2, 3]", "--json").stdout)
    assert (found["executor"], found["n_jobs"], found["items"]) == ("serial", 1, 3)
    (folder / "t.csv").write_text("n\n1\n2\n")
    assert invoke("tunable:name", "--data", "t.csv").exit_code == 0


def test_a_race_as_a_table_as_json_and_as_a_picture(folder: Path) -> None:
    told = invoke(
        "tunable:square", "--range", "40", "--compare", "--rounds", "1", "--seconds", "0.001", "--plot", "t.png", "-q"
    )
    assert told.exit_code == 0, told.output
    assert "as chosen" in told.stdout
    assert "<- best" in told.stdout
    assert "40 items, 1 round in turns" in told.stdout
    assert "as chosen: serial" in told.stdout
    assert (folder / "t.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(invoke("tunable:square", "--range", "25", "--compare", "--rounds", "1", "-q", "--json").stdout)
    settings = found["compared"]["settings"]
    assert {each["executor"] for each in settings} == {"serial", "thread", "process"}
    assert [each["executor"] for each in settings if each["as_chosen"]] == ["serial"]
    assert [each["median_seconds"] for each in settings] == sorted(each["median_seconds"] for each in settings)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "say one of --data FILE"),
        (["--range", "3", "--items-json", "[1]"], 2, "say one of --data FILE"),
        (["--items-json", "[1"], 2, "not JSON"),
        (["--items-json", "{}"], 2, "expected a list"),
        (["--items-json", "[]"], 2, "there are no items"),
        (["--range", "3", "--column", "n"], 2, "--column goes with --data"),
        (["--data", "gone.csv"], 1, "there is no file gone.csv"),
        (["--range", "3", "--plot", "gone/t.png"], 2, "there is no folder gone"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: list[str], code: int, said: str) -> None:
    done = invoke("tunable:square", *arguments)
    assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    assert "no module" in invoke("gone:square", "--range", "3").stderr


def test_what_the_function_prints_is_talk(folder: Path) -> None:
    (folder / "loud.py").write_text("print('imported')\n\ndef loud(x):\n    print('talk')\n    return x\n")
    done = invoke("loud:loud", "--range", "20", "--compare", "--rounds", "1", "--seconds", "0.001", "--json")
    assert json.loads(done.stdout)["function"] == "loud:loud"
    assert "imported" in done.stderr
    assert "talk" in done.stderr
    assert "about" in next(line for line in done.stderr.splitlines() if line.startswith("compares "))
