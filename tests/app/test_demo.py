"""The demo: its streams, files as streams, its player against a server that misbehaves, and the whole of it as a process."""

from __future__ import annotations

import csv
import fcntl
import itertools
import json
import math
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.app.demo.board import LiveBoard, PlainBoard, as_data, event_text, status_line, summary
from everloop.app.demo.csvfile import is_missing, open_csv
from everloop.app.demo.feeder import Feeder
from everloop.app.demo.score import Score
from everloop.app.demo.streams import SLOPE_EVERY, Stream, bundled, slope
from everloop.core.errors import InvalidInput

EVERLOOP = [sys.executable, "-c", "from everloop.app.cli import main; main()"]


# --- streams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", bundled(), ids=lambda stream: stream.name)
def test_every_stream_is_there_without_a_download(stream: Stream) -> None:
    first = list(itertools.islice(stream.play(), 5))
    assert len(first) == 5
    assert first == list(itertools.islice(stream.play(), 5))
    json.dumps(first)
    if stream.length is not None:
        assert sum(1 for _ in stream.play()) == stream.length


def test_the_slope_changes() -> None:
    examples = list(itertools.islice(slope(), 2 * SLOPE_EVERY))

    def fitted(part: list[Any]) -> float:
        return sum(x[0] * y for x, y in part) / sum(x[0] ** 2 for x, _ in part)

    assert abs(fitted(examples[:SLOPE_EVERY]) - fitted(examples[SLOPE_EVERY:])) > 1


# --- files ---------------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "f.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_is_typed_from_all_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffage;city;empty;y\n1;Rome;;0\n2.5;?;;1\n\nNA;Oslo, N;;\n")
    file = open_csv(path, "y")
    assert [(f.name, f.kind, f.nullable) for f in file.schema.fields] == [
        ("age", "number", True),
        ("city", "text", True),
    ]
    assert (file.left_out, file.count, file.task) == (("empty",), 3, "classification")
    rows = [
        ({"age": 1.0, "city": "Rome"}, 0),
        ({"age": 2.5, "city": None}, 1),
        ({"age": None, "city": "Oslo, N"}, None),
    ]
    assert list(file.rows()) == rows == list(file.rows())


@pytest.mark.parametrize(
    ("values", "task", "first"),
    [
        (["a", "b"] * 10, "classification", "a"),
        (["0", "1"] * 10, "classification", 0),
        ([str(i) for i in range(100)], "regression", 0.0),
        (["0.5", "1"] * 10, "regression", 0.5),
    ],
)
def test_what_a_column_is_to_be_predicted_as(tmp_path: Path, values: list[str], task: str, first: object) -> None:
    file = open_csv(written(tmp_path, "x,y\n" + "".join(f"1,{value}\n" for value in values)), "y")
    assert file.task == task
    label = next(file.rows())[1]
    assert (label, type(label)) == (first, type(first))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,y\n", "a header and no rows"),
        ("a,b\n1,2\n", "no column 'y'; it has a, b"),
        ("a,Y\n1,2\n", "no column 'y'"),
        ("a,yy\n1,2\n", "did you mean 'yy'"),
        ("a,a,y\n1,2,3\n", "two columns are named 'a'"),
        ("1,2,y\n1,2,3\n4,5\n", "line 3: 2 values, but the header names 3 columns"),
        ("1,2\n3,4\n", "no column 'y'|only numbers"),
        ("a,y\n1,\n", "column 'y' has no values"),
        ("y\n1\n", "no column but 'y'"),
        ("a,y\n,1\n", "no column but 'y'"),
        (b"a,y\n\xff\xfe,1\n", "not UTF-8"),
        (b"a,y\x00\n1,2\n", "not a text file|cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        open_csv(written(tmp_path, text), "y")


@pytest.mark.parametrize("name", ["nowhere.csv", "."])
def test_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"no file|is a folder"):
        open_csv(tmp_path / name, "y")


cells = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8),
)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=20))
def test_whatever_a_csv_writer_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, Any]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "f.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("a", "b", "y"), *((a, b, i) for i, (a, b) in enumerate(rows))])
    if all(is_missing(str(value)) for row in rows for value in row):
        with pytest.raises(InvalidInput, match="no column but"):
            open_csv(path, "y")
        return
    found = open_csv(path, "y")
    read = list(found.rows())
    assert [label for _, label in read] == list(range(len(rows)))
    for (features, _), given_row in zip(read, rows, strict=True):
        for field in found.schema.fields:
            value, was = features[field.name], given_row["ab".index(field.name)]
            assert value is None or (value == was if isinstance(value, float) and isinstance(was, float) else True)
            assert value is not None or field.nullable
            assert not (isinstance(value, float) and not math.isfinite(value))


# --- the player ----------------------------------------------------------------------------------------------------------


class Scripted(ThreadingHTTPServer):
    """A server that answers what `script` says for (verb, body)."""

    daemon_threads = True

    def __init__(self, script: Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]]) -> None:
        outer = self
        self.asked: list[tuple[str, dict[str, Any]]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                verb = self.path.rpartition("/")[2]
                outer.asked.append((verb, body))
                status, answer = script(verb, body)
                payload = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Scripted:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


def played(
    script: Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]], count: int, delay: int
) -> tuple[Score, list[Any]]:
    score = Score({"s": ""})
    stream = Stream("s", "", lambda: iter([([float(i)], float(i)) for i in range(count)]))
    with Scripted(script) as server:
        feeder = Feeder(stream, server.url, score, threading.Event(), rate=1e6, delay=delay, most=None, again=False)
        feeder.start()
        feeder.join(20)
        assert not feeder.is_alive()
    return score, server.asked


def test_labels_come_late_by_features_at_first_and_then_by_request_id() -> None:
    asked = itertools.count()

    def script(verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if verb == "feedback":
            return 202, {"accepted": 1, "duplicate": False, "rejected": []}
        n = next(asked)
        if n < 2:
            return 409, {"code": "model_untrained", "detail": "nothing learned"}
        return 200, {"prediction": 0.0, "model_version": 1, "request_id": f"r-{n}"}

    score, requests = played(script, 6, delay=3)
    verbs = [verb for verb, _ in requests]
    assert verbs == ["predict"] * 4 + ["feedback", "predict"] * 2 + ["feedback"] * 4
    labels = [body for verb, body in requests if verb == "feedback"]
    assert [label["label"] for label in labels] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert [("features" in label, label.get("request_id")) for label in labels] == [
        (True, None),
        (True, None),
        *((False, f"r-{n}") for n in (2, 3, 4, 5)),
    ]
    model = score.models["s"]
    assert (model.played, model.cold, model.predicted, model.labels, model.failed) == (6, 2, 4, 6, 0)
    assert score.problems() == []


def test_a_busy_server_is_asked_again() -> None:
    answers = itertools.cycle(
        [
            (503, {"code": "overloaded", "detail": "full"}),
            (200, {"prediction": 1, "model_version": 1, "request_id": "r-1"}),
        ]
    )
    score, _ = played(lambda _, __: next(answers), 3, delay=0)
    assert (score.models["s"].waits, score.models["s"].failed) == (6, 0)


def test_failures_are_counted_and_told() -> None:
    def script(verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if verb == "predict" and body["features"] == [1.0]:
            return 500, {"code": "internal", "detail": "broken"}
        return 200, {"prediction": 1, "model_version": 1, "request_id": "r-1"}

    score, _ = played(script, 3, delay=0)
    assert score.models["s"].failed == 1
    assert score.problems() == ["s: 1 requests failed, the last with: predict: the server answered 500: broken"]


def test_a_server_that_is_gone_ends_the_stream() -> None:
    score = Score({"s": ""})
    stream = Stream("s", "", lambda: iter([([1.0], 1.0)] * 1000))
    feeder = Feeder(stream, "http://127.0.0.1:9", score, threading.Event(), rate=1e6, delay=0, most=None, again=True)
    feeder.start()
    feeder.join(20)
    assert not feeder.is_alive()
    assert score.models["s"].failed == 50


def test_versions_that_go_back_are_a_problem() -> None:
    score = Score({"s": ""})
    for version in (1, 2, 1):
        score.answered("s", 0.001, version)
    assert score.problems() == ["s: 1 answers came from an older version than one before"]


def test_the_version_is_the_one_that_serves_even_if_it_never_answered() -> None:
    score = Score({"s": ""})
    score.answered("s", 0.001, 3)
    assert not score.heard_all_swaps()
    score.happened({"model": "s", "kind": "swapped", "at": 0.0, "message": "", "version": 4})
    score.told("s", {"quality": {}, "learner": {}, "serving_version": 4})
    assert score.heard_all_swaps()
    assert as_data(score, 1.0)["models"][0]["version"] == 4
    score.answered("s", 0.001, 3)  # older than what was told, but not than what has answered
    assert score.models["s"].went_back == 0


def test_a_model_that_learned_nothing_is_a_problem() -> None:
    assert Score({"s": ""}).problems() == ["s: learned nothing from 0 labels"]


# --- the screen ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def score() -> Score:
    score = Score({"line": "", "bugs": ""})
    for i in range(100):
        score.answered("line", i / 1e4, 3)
    score.told(
        "line",
        {
            "quality": {"n": 9, "mae": 1.5, "baseline_mae": 2.0, "window": {"mae": 0.5, "baseline_mae": 2}},
            "learner": {"is_training": True},
        },
    )
    score.told("bugs", {"quality": {"accuracy": 0.25, "baseline_accuracy": 0.5, "window": {}}, "learner": {}})
    event = {"model": "line", "kind": "drift", "at": 0.0, "message": "errors [bold]rose[/]", "version": 3}
    assert score.happened(event)
    assert not score.happened({**event, "kind": "fit_started"})
    score.failure("bugs", "no")
    score.mark(0.0)
    score.mark(2.0)
    return score


def test_the_screen_and_the_lines_show_the_score(score: Score) -> None:
    from rich.console import Console

    console = Console(width=80, height=30, color_system=None)
    with console.capture() as captured:
        console.print(LiveBoard(score, "http://x").screen(12))
        console.print(summary(score))
    text = captured.get()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for said in ("mae 0.5", "mae 1.5", "25.0%", "errors [bold]rose[/]", "v3", "5.00", "9.90"):
        assert said in text or said in status_line(score.models["line"], 1.0)
    assert "1 ERRORS" in status_line(score.models["bugs"], 1.0)
    assert "drift v3" in event_text(score.events[0]).plain
    data = as_data(score, 1.0)
    assert data["models"][0] | {"drifts": 1, "quality": 1.5, "baseline": 2.0, "errors": 0} == data["models"][0]


def test_plain_lines_leave_refused_challengers_to_the_summary(score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    event = {"model": "line", "at": 0.0, "message": "said", "version": 2}
    with PlainBoard(score, "http://x") as board:
        for kind in ("drift", "fitted", "rejected", "swapped"):
            score.happened({**event, "kind": kind})
            board.event({**event, "kind": kind})
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]] == ["drift", "swapped"]
    assert as_data(score, 1.0)["models"][0]["rejected"] == 1


# --- all of it -----------------------------------------------------------------------------------------------------------


def demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EVERLOOP, "demo", *arguments], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.e2e
def test_once_learns_every_stream(tmp_path: Path) -> None:
    # Long enough for the canary that answers the drift to come to its end while there is still traffic.
    done = demo("--once", "--examples", "800", "--rate", "120", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {model["model"]: model for model in json.loads(done.stdout)["models"]}
    assert set(found) == {stream.name for stream in bundled()}
    for model in found.values():
        assert model["examples"] == model["labels"] == 800
        assert model["errors"] == 0
        assert model["version"] >= 1
    assert found["slope"]["drifts"] >= 1
    assert found["slope"]["swaps"] >= 2
    assert found["slope"]["quality"] < found["slope"]["baseline"]
    assert "drift" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_a_file_with_text_and_gaps_is_learned(tmp_path: Path) -> None:
    rows = ["size,city,price"]
    rows += [
        f"{'' if i % 9 == 0 else i % 7},{'Rome' if i % 3 else 'Oslo'},{i % 7 + (10 if i % 3 else 0) + 0.5}"
        for i in range(400)
    ]
    (tmp_path / "homes 1.csv").write_text("\n".join(rows))
    done = demo("--once", "--stream", "homes 1.csv", "--target", "price", "--rate", "150", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'price' is taken for regression" in done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert last[:2] == ["homes-1", "400"]
    assert last[-1] == "0"


@pytest.mark.e2e
def test_a_kind_that_does_not_suit_the_column_is_told(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("x,y\n1,a\n2,b\n")
    done = demo("--once", "--stream", "f.csv", "--target", "y", "--kind", "linear", cwd=tmp_path)
    assert done.returncode == 1
    assert "line 2 has 'a', which is not a number" in done.stderr
    done = demo("--once", "--stream", "f.csv", "--target", "y", "--kind", "liner", cwd=tmp_path)
    assert done.returncode == 1
    assert "did you mean 'linear'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.e2e
def test_why_nothing_could_be_learned_is_told(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(
        "town,y\n" + "".join(f"{'Rome' if i % 3 else 'Oslo'},{i % 2}\n" for i in range(120))
    )
    done = demo("--once", "--stream", "f.csv", "--target", "y", "--kind", "logistic", "--rate", "500", cwd=tmp_path)
    assert done.returncode == 1
    assert "f: learned nothing from 120 labels: " in done.stderr


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    yield ours, theirs
    os.close(ours)


@pytest.mark.e2e
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_live_screen_cleanly(tmp_path: Path, terminal: tuple[int, int], sig: int) -> None:
    ours, theirs = terminal
    process = subprocess.Popen([*EVERLOOP, "demo"], cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, stdin=theirs)
    os.close(theirs)
    seen = b""
    try:
        while b"no-change" not in seen or b"published" not in seen:
            seen += os.read(ours, 65536)
        process.send_signal(sig)
        while True:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # the other end is closed: it has ended
                break
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert b"Traceback" not in stderr
    assert b"no-change" in seen
