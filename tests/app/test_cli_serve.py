"""`everloop serve` and the commands against it, as processes: what a person types, from the first start to a restart."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from everloop.app.cli.commands import app

EVERLOOP = [sys.executable, "-c", "from everloop.app.cli import main; main()"]
runner = CliRunner()


class Serving:
    """One `everloop serve` process. `talk` is what it said until it was ready."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EVERLOOP_")}
        self.process = subprocess.Popen(
            [*EVERLOOP, "serve", "--port", "0", *arguments],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.talk = ""
        timer = threading.Timer(60, self.process.kill)
        timer.start()
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.talk += line
            if line.startswith("Ctrl-C"):
                break
        timer.cancel()
        timer.join()
        found = re.search(r"serves at (http://\S+)", self.talk)
        self.url = found[1] if found else ""

    def end(self, sig: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            _, rest = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, rest = self.process.communicate()
        self.talk += rest
        return self.process.returncode


Serve = Callable[..., Serving]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    running: list[Serving] = []

    def start(*arguments: str) -> Serving:
        running.append(Serving(tmp_path, *arguments))
        return running[-1]

    yield start
    for each in running:
        each.end(signal.SIGKILL)


def ask(server: Serving, *arguments: str, stdin: str | None = None) -> Result:
    return runner.invoke(app, [*arguments, "--url", server.url], input=stdin)


def answer(server: Serving, *arguments: str) -> Any:
    done = ask(server, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def onnx_model(path: Path, slope: float) -> None:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LinearRegression

    X = np.linspace(0, 1, 20, dtype=np.float32).reshape(-1, 2)
    path.write_bytes(to_onnx(LinearRegression().fit(X, slope * X.sum(axis=1)), X[:1]).SerializeToString())


@pytest.mark.e2e
def test_a_file_keeps_its_version_until_it_changes(tmp_path: Path, serve: Serve) -> None:
    onnx_model(tmp_path / "m.onnx", 1.0)
    first = serve("m=m.onnx")
    assert "m  version 1, onnx" in first.talk
    assert str(tmp_path / "everloop-data") in first.talk
    assert f"curl -s {first.url}/v1/models/m/predict" in first.talk
    assert f"{first.url}/docs" in first.talk
    done = ask(first, "predict", "m", "1,2")
    assert float(done.stdout) == pytest.approx(3.0, abs=1e-4)
    assert "m version 1" in done.stderr
    assert ["runtime", "onnx"] in [line.split() for line in ask(first, "models", "show", "m").stdout.splitlines()]
    assert first.end() == 0
    assert first.process.stdout is not None

    again = serve("m=m.onnx")
    assert "m  version 1" in again.talk
    assert again.end(signal.SIGINT) == 0

    onnx_model(tmp_path / "m.onnx", 2.0)
    changed = serve("m=m.onnx")
    assert "m  version 2" in changed.talk
    assert answer(changed, "predict", "m", "[1, 2]")["prediction"] == pytest.approx(6.0, abs=1e-4)
    assert answer(changed, "models", "rollback", "m")["version"] == 1
    assert [v["status"] for v in answer(changed, "models", "versions", "m")["versions"]] == ["live", "retired"]
    changed.end()

    alone = serve()
    assert "m  version 1" in alone.talk


@pytest.mark.e2e
def test_a_file_registered_in_the_folder_is_taken_up_by_the_running_server(tmp_path: Path, serve: Serve) -> None:
    server = serve("--data-dir", "data")
    assert "none yet" in server.talk
    onnx_model(tmp_path / "m.onnx", 1.0)
    done = runner.invoke(
        app, ["models", "register", "m", str(tmp_path / "m.onnx"), "--data-dir", str(tmp_path / "data")]
    )
    assert (done.exit_code, done.stdout) == (0, "1\n")
    gone = threading.Event()
    for _ in range(200):
        done = ask(server, "predict", "m", "[1, 2]")
        if done.exit_code == 0:
            break
        gone.wait(0.05)
    assert float(done.stdout) == pytest.approx(3.0, abs=1e-4)


@pytest.mark.e2e
def test_a_model_lives_from_create_to_remove(serve: Serve, tmp_path: Path) -> None:
    server = serve("--memory", "--set", "learning.interval_sec=0")
    assert "in memory only" in server.talk
    done = ask(
        server, "models", "create", "line", "--kind", "linear", "--param", "with_bias=true", "--set", "min_samples=20"
    )
    assert (done.exit_code, done.stdout) == (0, "line\n")
    assert ask(server, "predict", "line", "[1]").exit_code == 1
    lines = "\n".join(json.dumps({"features": [x / 10], "label": 3 * x / 10 + 1}) for x in range(60))
    done = ask(server, "feedback", "line", "--features", "-", stdin=lines)
    assert (done.exit_code, done.stdout) == (0, "60\n")
    assert answer(server, "models", "train", "line")["serving"] is True

    made = answer(server, "predict", "line", "[2]")
    assert made["prediction"] == pytest.approx(7.0, abs=0.01)
    label = ["feedback", "line", "--request-id", made["request_id"], "--label"]
    assert answer(server, *label, "7") == {"accepted": 1, "duplicate": False, "rejected": []}
    assert answer(server, *label, "7")["duplicate"] is True
    assert ask(server, *label, "8").exit_code == 1
    assert ask(server, "feedback", "line", "--features", "[1]", "--label", "many").exit_code == 1

    done = ask(server, "predict", "line", "[[0], [1], [2]]")
    assert [round(float(line)) for line in done.stdout.splitlines()] == [1, 4, 7]
    shown = ask(server, "models", "show", "line").stdout
    assert "with_bias=True" in shown
    assert "61 acknowledged" in shown
    quality = answer(server, "models", "show", "line")["quality"]
    assert answer(server, "models", "list")["models"][0]["quality"] == quality
    header, row = ask(server, "models", "list").stdout.splitlines()
    assert header.split()[-2:] == ["quality", "no-change"]
    assert row.startswith("line")
    assert "mae " in row
    assert "published" in ask(server, "models", "timeline", "line", "-n", "100").stdout
    done = ask(server, "models", "set", "line", "target_latency_ms=20", "max_batch_size=64")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["target_latency_ms", "20"],
        ["max_batch_size", "64"],
    ]
    told = answer(server, "models", "set", "line", "max_batch_size=null")
    assert (told["serving"], told["batching"]["target_seconds"]) == ({"target_latency_ms": 20}, 0.02)
    assert "expected milliseconds" in ask(server, "models", "set", "line", "window_ms=soon").stderr
    near = ask(server, "predict", "lin", "[1]")
    assert near.exit_code == 1
    assert "did you mean 'line'?" in near.stderr

    assert ask(server, "models", "remove", "line").exit_code == 2
    assert ask(server, "models", "remove", "line", "--yes").exit_code == 0
    assert answer(server, "models", "list") == {"models": []}
    assert server.end() == 0
    assert re.search(r"INFO everloop\.models: line: swapped: .*version 1", server.talk)
    assert not (tmp_path / "everloop-data").exists()


@pytest.mark.e2e
def test_a_timeline_can_be_followed(serve: Serve) -> None:
    server = serve("--memory")
    ask(server, "models", "create", "a", "--kind", "linear")
    follower = subprocess.Popen(
        [*EVERLOOP, "models", "timeline", "a", "--follow", "--json", "--url", server.url],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout is not None
        assert [json.loads(follower.stdout.readline())["kind"] for _ in range(2)] == ["registered", "audit"]
        ask(server, "models", "remove", "a", "--yes")
        assert [json.loads(follower.stdout.readline())["kind"] for _ in range(2)] == ["unregistered", "audit"]
        server.end()
        assert follower.wait(timeout=20) == 0
    finally:
        follower.kill()
        follower.communicate()


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("m.pkl", b"\x80\x04K\x01.", "pickle"), ("m.onnx", b"", "m=m.onnx")],
)
def test_a_file_that_is_no_model_is_told(tmp_path: Path, serve: Serve, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    server = serve(f"m={name}", "--memory")
    assert server.end() == 1
    assert said in server.talk
    assert "draining" not in server.talk
    assert "Traceback" not in server.talk


@pytest.mark.e2e
def test_a_port_that_is_taken(tmp_path: Path, serve: Serve) -> None:
    server = serve("--memory")
    port = server.url.rpartition(":")[2]
    checked = runner.invoke(app, ["doctor", "--port", port, "--data-dir", str(tmp_path)])
    assert "everloop is running there" in checked.stdout
    assert checked.exit_code == 0
    other = serve("--memory", "--port", port)
    assert other.end() == 1
    assert f"port {port}" in other.talk


@pytest.mark.e2e
def test_logs_are_json_if_asked(serve: Serve) -> None:
    server = serve("--memory", "--json-logs")
    server.end()
    logged = [json.loads(line) for line in server.talk.splitlines() if line.startswith("{")]
    assert any("draining" in line["message"] and line["level"] == "info" for line in logged)


@pytest.mark.e2e
def test_nothing_is_coloured_for_a_pipe(serve: Serve) -> None:
    server = serve("--memory")
    ask(server, "models", "create", "a", "--kind", "linear")
    for command in (["models", "list"], ["models", "show", "a"], ["models", "timeline", "a"]):
        assert "\x1b[" not in ask(server, *command).output
