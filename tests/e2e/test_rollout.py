"""From training to 100 %, by command line alone, against `everloop serve` as a process: a canary that labels judge reaches everybody, a
bad version comes back by itself, the timeline tells it, and neither a restart nor `kill -9` in mid-step loses the thread."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from everloop.app.cli.commands import app
from everloop.app.client import Client
from everloop.core.errors import Conflict, EverloopError, Forbidden, StoreUnavailable

EVERLOOP = [sys.executable, "-c", "from everloop.app.cli import main; main()"]
KEY = "an-override-key-for-tests"
PACE = 0.01
"""Seconds between two users: they leave a small machine room for what is tested."""
PATIENCE = 90.0
"""Seconds for whatever is waited for: a slow machine that does much else is no failure."""
runner = CliRunner()


class Serving:
    """`everloop serve` on one folder and one port, which is ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EVERLOOP_")}
        with (self.folder / "serve.log").open("a") as log:
            self.process = subprocess.Popen(
                [*EVERLOOP, "serve", "--port", str(self.port)],
                cwd=self.folder,
                env={**environ, "EVERLOOP_OVERRIDE_KEYS": KEY},
                stdout=log,
                stderr=log,
                text=True,
            )
        found = until(lambda: re.findall(r"serves at http://127.0.0.1:(\d+)", self.log()), "the server's address")
        self.port = int(found[-1])
        until(lambda: self.log().count("Ctrl-C ends it") == self.log().count("serves at"), "the server to be ready")

    def log(self) -> str:
        assert self.process is not None
        text = (self.folder / "serve.log").read_text()
        assert self.process.poll() is None, f"the server has ended:\n{text}"
        return text

    def end(self, sig: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(sig)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        log = self.folder / "serve.log"
        log.write_text(log.read_text().replace("serves at", "served at").replace("Ctrl-C ends it", "it ended"))


class Users(threading.Thread):
    """They ask for the price of a size, and later tell the true one, 2 x size; a server that is away is waited for."""

    def __init__(self, serving: Serving) -> None:
        super().__init__(name="users", daemon=True)
        self._serving = serving
        self._enough = threading.Event()
        self.answered: dict[int, int] = {}
        """Version -> answers."""
        self.trouble: list[str] = []

    def run(self) -> None:
        chance = random.Random(7)
        with Client(self._serving.url, timeout=PATIENCE) as client:
            while not self._enough.wait(PACE):
                size, user = chance.uniform(0, 100), chance.randrange(10_000)
                try:
                    body = {"features": [size], "unit": f"user {user}"}
                    got = client.call("POST", "/v1/models/price/predict", body, again=True)
                    version = got["model_version"]
                    self.answered[version] = self.answered.get(version, 0) + 1
                    label = {"request_id": got["request_id"], "label": 2 * size + chance.gauss(0, 1)}
                    client.feedback("price", [label])
                except ConnectionError:
                    self._enough.wait(0.05)
                except EverloopError as error:
                    # Asked just as the server went: the prediction was told, and its record was not on disk yet.
                    if error.code not in (
                        "starting",
                        "draining",
                        "prediction_not_found",
                        "closed",
                        "store_unavailable",
                    ):
                        self.trouble.append(repr(error))

    def stop(self) -> None:
        self._enough.set()
        self.join()


def until(there: Callable[[], Any], what: str) -> Any:
    """What `there` gives once it is true."""
    end = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not (found := there()):
        assert time.monotonic() < end, f"waited for {what} in vain"
        pause.wait(0.2)
    return found


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    made = Serving(tmp_path)
    made.start()
    yield made
    made.end(signal.SIGKILL)


@pytest.fixture
def users(serving: Serving) -> Iterator[Callable[[], Users]]:
    started: list[Users] = []

    def start() -> Users:
        started.append(Users(serving))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def run(serving: Serving) -> Callable[..., Result]:
    def command(*arguments: str, code: int = 0) -> Result:
        done = runner.invoke(app, [*arguments, "--url", serving.url])
        assert done.exit_code == code, f"everloop {' '.join(arguments)} ended with {done.exit_code}:\n{done.output}"
        return done

    return command


@pytest.fixture
def told(run: Callable[..., Result]) -> Callable[..., Any]:
    return lambda *arguments: json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def watch(serving: Serving) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """`everloop rollout watch`, once it has said where the rollout stands."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [*EVERLOOP, "rollout", "watch", "price", "--url", serving.url]
        started.append(
            subprocess.Popen(command, cwd=serving.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        assert started[-1].stderr is not None
        assert "running" in started[-1].stderr.readline()
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def model_file(path: Path, slope: float) -> str:
    """A scikit-learn model file: price = slope x size."""
    from sklearn.linear_model import LinearRegression

    import everloop

    X = np.linspace(0, 100, 50).reshape(-1, 1)
    return str(everloop.save_model(LinearRegression().fit(X, slope * X[:, 0]), path))


def teach(run: Callable[..., Result], tmp_path: Path) -> None:
    """A model that has learned what is right, from labels, as version 1; the next one it would make by itself is far away."""
    lines = [json.dumps({"features": [size], "label": 2.0 * size}) for size in range(60)]
    (tmp_path / "prices.ndjson").write_text("\n".join(lines))
    run(
        "models", "create", "price", "--kind", "linear", "--set", "interval_sec=86400", "--set", "drift_detection=false"
    )
    run("feedback", "price", "--features", f"@{tmp_path / 'prices.ndjson'}")
    run("models", "train", "price")


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_from_training_to_everybody_and_a_bad_one_comes_back(
    tmp_path: Path,
    serving: Serving,
    users: Callable[[], Users],
    run: Callable[..., Result],
    told: Callable[..., Any],
) -> None:
    teach(run, tmp_path)
    asking = users()

    good = model_file(tmp_path / "good.skops", 2.0)
    done = run("models", "register", "price", good, "--stage", "--name", "v2.0", "--note", "from CI")
    assert done.stdout.strip() == "2"
    assert "everloop rollout start price 2" in done.stderr
    plan = ("--steps", "20,50", "--seconds", "0.5", "--samples", "40", "--labels", "30", "--no-latency")
    done = run("rollout", "start", "price", *plan, "--note", "spring", "--wait")
    assert done.stdout.strip() == "promoted"
    assert "step 1 of 2 (20 %)" in done.stderr
    assert "step 2 of 2 (50 %)" in done.stderr
    versions = {v["version"]: v for v in told("models", "versions", "price")["versions"]}
    assert (versions[2]["status"], versions[2]["share"], versions[1]["status"]) == ("live", 1.0, "retired")
    before = dict(asking.answered)
    until(lambda: asking.answered[2] > before[2] + 20, "everybody on version 2")

    bad = model_file(tmp_path / "bad.skops", -1.0)
    run("models", "register", "price", bad, "--stage", "--name", "v3.0")
    plan = ("--steps", "30", "--seconds", "600", "--samples", "100", "--no-latency")
    done = run("rollout", "start", "price", "v3.0", *plan, "--wait", code=1)
    assert done.stdout.strip() == "rolled_back"
    ended = told("rollout", "show", "price")
    assert ended["verdict"] == "roll_back"
    assert "quality" in ended["reason"]
    quality = next(g for g in ended["evidence"]["gates"] if g["gate"] == "quality")
    assert (quality["verdict"], quality["e_value"] >= quality["needed"]) == ("roll_back", True)
    page = run("rollout", "show", "price").stdout
    for word in ("v3.0", "rolled back", "quality", "champion", "challenger"):
        assert word in page or word == "v3.0"
    run("rollout", "start", "price", "v3.0", "--steps", "a lot", code=2)
    assert told("models", "versions", "price")["versions"][2]["status"] == "rejected"
    assert asking.trouble == []

    history = told("rollout", "history", "price")["rollouts"]
    assert [(r["challenger"], r["state"], r["note"]) for r in history] == [
        (2, "promoted", "spring"),
        (3, "rolled_back", ""),
    ]
    story = run("models", "timeline", "price", "--limit", "100").stdout
    kinds = ["registered", "published", "rollout_started", "rollout_advanced", "rollout_ended", "promoted"]
    kinds += ["published", "rollout_started", "rollout_ended"]
    places, at = [], 0
    for kind in kinds:
        at = story.find(kind, at + 1)
        places.append(at)
    assert -1 not in places, story
    for words in ("canary 20 % → 50 %", "step 2 of 2 (50 %)", "quality"):
        assert words in story, story


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_a_restart_and_a_kill_in_mid_step_go_on(
    tmp_path: Path,
    serving: Serving,
    users: Callable[[], Users],
    run: Callable[..., Result],
    told: Callable[..., Any],
    watch: Callable[[], subprocess.Popen[str]],
) -> None:
    teach(run, tmp_path)
    run("models", "register", "price", model_file(tmp_path / "good.skops", 2.0), "--stage")
    # More requests than come by before the second restart, and no others than that ask for more.
    run("rollout", "start", "price", "2", "--steps", "50", "--seconds", "0", "--samples", "1000000", "--no-latency")
    asking = users()

    def seen() -> int:
        evidence = told("rollout", "show", "price")["evidence"]
        return int(evidence["step"]["samples"])

    had = until(seen, "the challenger's first answers")
    watching = watch()
    weights = told("models", "traffic", "price")["weights"]
    for sig in (signal.SIGKILL, signal.SIGTERM):
        serving.end(sig)
        serving.start()
        now = told("rollout", "show", "price")
        assert (now["id"], now["state"], now["step"], now["share"]) == (1, "running", 0, 0.5)
        assert now["evidence"]["step"]["samples"] >= had, "what was seen before is not forgotten"
        assert told("models", "traffic", "price")["weights"] == weights
        had = until(lambda had=had: max(0, seen() - had) and seen(), "the challenger to go on answering")  # type: ignore[misc]
    revision = told("rollout", "show", "price")["revision"]
    run("rollout", "pause", "price", "--revision", str(revision + 5), code=1)
    assert run("rollout", "pause", "price", "--note", "looking").stdout.strip() == "paused"
    serving.end(signal.SIGKILL)
    serving.start()
    assert told("rollout", "show", "price")["state"] == "paused"
    assert run("rollout", "resume", "price").stdout.strip() == "running"
    assert run("rollout", "promote", "price", "--note", "enough").stdout.strip() == "promoted"
    told_at_last, talk = watching.communicate(timeout=PATIENCE)
    assert (watching.returncode, told_at_last) == (0, "promoted\n"), f"whoever watches waits for the server: {talk}"
    before = dict(asking.answered)
    until(lambda: asking.answered.get(2, 0) > before.get(2, 0) + 20, "everybody on version 2")
    assert asking.trouble == []


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_split_shadow_aliases_and_choosing_a_version(
    tmp_path: Path, serving: Serving, users: Callable[[], Users], run: Callable[..., Result], told: Callable[..., Any]
) -> None:
    teach(run, tmp_path)
    run("models", "register", "price", model_file(tmp_path / "other.skops", 3.0), "--stage", "--name", "v2.0")
    run("models", "alias", "price", "next", "v2.0")
    assert told("models", "alias", "price")["aliases"] == {"champion": 1, "next": 2}
    assert told("models", "tag", "price", "next", "reviewed=yes")["tags"] == {"reviewed": "yes"}
    assert told("models", "note", "price", "next", "looks high")["note"] == "looks high"
    run("models", "alias", "price", "--remove", "next")

    def ask(**headers: str) -> Any:
        with Client(serving.url) as client:
            return client.call("POST", "/v1/models/price/predict", {"features": [10.0]}, headers=headers)

    with pytest.raises(Forbidden):
        ask(**{"Everloop-Version": "v2.0"})
    with pytest.raises(Conflict, match="not live"):
        ask(**{"Everloop-Version": "v2.0", "Everloop-Key": KEY})
    told("models", "traffic", "price", "champion=99%", "v2.0=1%")

    def open_here() -> Any:
        try:
            return ask(**{"Everloop-Version": "v2.0", "Everloop-Key": KEY})
        except (StoreUnavailable, Conflict):
            return None

    answer = until(open_here, "version 2 to be open")
    assert (answer["model_version"], round(answer["prediction"])) == (2, 30)
    assert {ask(**{"Everloop-Version": "champion", "Everloop-Key": KEY})["model_version"] for _ in range(5)} == {1}

    told("models", "traffic", "price", "champion=100%")
    asking = users()
    run("rollout", "start", "price", "v2.0", "--strategy", "shadow", "--samples", "50", "--seconds", "0")
    ended = until(
        lambda: (found := told("rollout", "show", "price"))["state"] not in ("running", "paused") and found,
        "the shadow's end",
    )
    assert set(asking.answered) == {1}, "nobody is answered by a shadow"
    assert ended["state"] == "rolled_back", ended["reason"]
    assert "that both answered" in ended["reason"], "the same labels judge both"
    assert ended["evidence"]["step"]["labels"] > 0
    assert ended["evidence"]["shadow"]["agreed"] == 0
    assert asking.trouble == []

    copy = tmp_path / "price.everloop"
    run("models", "export", "price", "-o", str(copy))
    assert run("models", "import", str(copy), "--as", "copy", "--live").stdout.strip() == "copy"
    with Client(serving.url) as client:
        assert round(client.predict("copy", [10.0])["prediction"]) == 20
    run("models", "archive", "copy", "v2.0")
    assert int(run("models", "collect", "--archived").stdout) >= 0
