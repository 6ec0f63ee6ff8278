"""The real command: killed and resumed, interrupted, streamed, larger than its memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.e2e
EVERLOOP = [sys.executable, "-P", "-c", "from everloop.app.cli import main; main()"]
MODULE = """
import time

def slow(row):
    time.sleep(0.002)
    return row["x"] * 2

def loud(row):
    print("talk")
    return row["x"]

def twice(rows):
    return [row["x"] * 2 for row in rows]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "fn.py").write_text(MODULE)
    yield tmp_path
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)], "a process was left running"


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder), "NO_COLOR": "1"}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*EVERLOOP, "score", *arguments],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def score(folder: Path, *arguments: str, code: int = 0, given: str | None = None) -> tuple[str, str]:
    done = subprocess.run(
        [*EVERLOOP, "score", *arguments],
        cwd=folder,
        env=environment(folder),
        input=given if given is not None else "",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def rows_kept(folder: Path) -> int:
    """What the state file counts; 0 where there is none."""
    try:
        return int(json.loads((folder / "out.csv.part.json").read_text())["rows"])
    except FileNotFoundError:
        return 0


def wait_for_rows(folder: Path, process: subprocess.Popen[str], rows: int) -> None:
    until = time.monotonic() + 60
    pause = threading.Event()
    while rows_kept(folder) < rows:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        pause.wait(0.02)


def write_rows(path: Path, count: int) -> None:
    path.write_text("x,note\n" + "".join(f'{i},"row, {i}"\n' for i in range(count)))


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_killed_again_and_again_it_goes_on_and_comes_to_the_same_bytes(folder: Path, executor: str) -> None:
    write_rows(folder / "in.csv", 3000)
    command = ("fn:slow", "in.csv", "-o", "out.csv", "--executor", executor, "--workers", "2")
    kept = 0
    for _ in range(3):
        process = start(folder, *command)
        try:
            wait_for_rows(folder, process, kept + 200)
        finally:
            process.kill()
            process.communicate()
        assert not (folder / "out.csv").exists()
        assert rows_kept(folder) > kept
        kept = rows_kept(folder)
    out, said = score(folder, *command, "--json")
    assert "goes on behind" in said
    summary = json.loads(out)
    assert summary["resumed"] >= kept
    assert summary["rows"] == summary["written"] == 3000
    lines = (folder / "out.csv").read_text().splitlines()
    assert lines[1:] == [f'{i},"row, {i}",{2 * i}' for i in range(3000)]
    assert not list(folder.glob("out.csv.part*"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on(folder: Path, how: signal.Signals) -> None:
    write_rows(folder / "in.csv", 5000)
    command = ("fn:slow", "in.csv", "-o", "out.csv", "--executor", "process", "--workers", "2")
    process = start(folder, *command)
    wait_for_rows(folder, process, 100)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    score(folder, *command, "--quiet")
    assert len((folder / "out.csv").read_text().splitlines()) == 5001


def test_a_killed_worker_costs_no_row(folder: Path) -> None:
    write_rows(folder / "in.csv", 3000)
    process = start(folder, "fn:slow", "in.csv", "-o", "out.csv", "--executor", "process", "--workers", "2")
    for rows in (300, 600):
        wait_for_rows(folder, process, rows)
        workers = psutil.Process(process.pid).children()
        assert workers
        workers[0].kill()
    _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert (folder / "out.csv").read_text().splitlines()[1:] == [f'{i},"row, {i}",{2 * i}' for i in range(3000)]


def test_streams_from_and_to_pipes(folder: Path) -> None:
    given = "".join(f'{{"x": {i}}}\n' for i in range(500))
    out, said = score(folder, "fn:twice", "-", "--batch", "--format", "ndjson", "--progress", given=given)
    assert [json.loads(line)["prediction"] for line in out.splitlines()] == [2 * i for i in range(500)]
    assert "500 rows" in said
    out, _ = score(folder, "fn:twice", "-", "--batch", "--format", "ndjson", "-o", "o.csv.gz", "-q", given=given)
    assert out == ""
    assert (folder / "o.csv.gz").exists()
    assert not list(folder.glob("*.part*"))


@pytest.mark.parametrize("executor", ["serial", "thread", "process"])
def test_stdout_is_for_data_even_if_the_function_prints(folder: Path, executor: str) -> None:
    write_rows(folder / "in.csv", 3000)
    out, said = score(folder, "fn:loud", "in.csv", "--keep", "x", "--executor", executor)
    assert out.splitlines() == ["x,prediction", *(f"{i},{i}" for i in range(3000))]
    assert said.count("talk") == 3000
    out, _ = score(folder, "fn:loud", "in.csv", "-o", "out.csv", "--executor", executor, "--json")
    assert json.loads(out)["rows"] == 3000


def test_nobody_reads_on(folder: Path) -> None:
    write_rows(folder / "in.csv", 50_000)
    line = f"{sys.executable} -P -c 'from everloop.app.cli import main; main()' score fn:twice in.csv --batch | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "x,note,prediction\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_wrong_is_one_sentence(folder: Path) -> None:
    (folder / "in.csv").write_text("x\n1\n2\nx\n" + "3\n" * 2000)
    write_rows(folder / "fine.csv", 10)
    for arguments, code, said in [
        (("fn:slow", "nowhere.csv"), 1, "everloop: there is no file nowhere.csv"),
        (
            ("fn:slow", "in.csv", "--type", "x=integer"),
            1,
            "in.csv, line 4, column 'x': expected a finite number, got 'x'",
        ),
        (("fn:slow", "in.csv", "--type", "x=float"), 2, "expected COLUMN=text|number|integer|boolean"),
        (("fn:slow", "in.csv", "--json"), 2, "say -o FILE"),
        (("fn:slow", "in.csv", "--workers", "0"), 2, "--workers"),
        (("gone.onnx", "fine.csv"), 1, "there is no file gone.onnx"),
    ]:
        _, error = score(folder, *arguments, code=code)
        assert said in error
        assert "Traceback" not in error


@pytest.mark.parametrize(("source", "into"), [("in.csv", "out.parquet"), ("in.parquet", "out.csv")])
@pytest.mark.timeout(300)
def test_memory_is_flat(folder: Path, source: str, into: str) -> None:
    """Three times the rows take no more memory, once there are more than a few groups of them: less than half of what they are larger."""
    rows = 30_000
    few, many = 4, 13
    most = {}
    for times in (few, many):
        text = "".join(f'{i},"{i:0200d}"\n' for i in range(rows))
        with (folder / "in.csv").open("w") as file:
            file.write("x,note\n")
            for _ in range(times):
                file.write(text)
        if source == "in.parquet":
            score(
                folder,
                "fn:twice",
                "in.csv",
                "-o",
                "in.parquet",
                "--batch",
                "--force",
                "--prediction",
                "p",
                "-q",
                "--type",
                "note=text",
            )
        arguments = (
            "fn:twice",
            source,
            "-o",
            into,
            "--batch",
            "--force",
            "-q",
            "--executor",
            "process",
            "--workers",
            "1",
        )
        process = start(folder, *arguments)
        most[times] = watched(process)
        out, said = process.communicate()
        assert process.returncode == 0, said
        assert out == ""
    size = rows * (many - few) * 210
    assert most[many] - most[few] < size / 2, f"{most} for {size:,} bytes more"


def watched(process: subprocess.Popen[str]) -> int:
    """The largest memory that it and its workers had together."""
    most = 0
    pause = threading.Event()
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            most = max(most, sum(each.memory_info().rss for each in family))
        except psutil.NoSuchProcess:
            continue
        pause.wait(0.02)
    return most
