"""`kill -9` of a server that is making a version faster: nothing is left running, nothing is lost, and the next server begins again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest

from everloop.app.client import Client
from everloop.core.errors import EverloopError

EVERLOOP = [sys.executable, "-c", "from everloop.app.cli import main; main()"]
PATIENCE = 120.0
T = TypeVar("T")


def until(look: Callable[[], T], what: str) -> T:
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.2)
    return found


class Serving:
    """`everloop serve` on one folder, which is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, *arguments: str) -> None:
        log = self.folder / "serve.log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EVERLOOP_")}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*EVERLOOP, "serve", "--port", "0", *arguments], cwd=self.folder, env=environ, stdout=out, stderr=out
            )
        found = until(lambda: re.findall(r"serves at (http://\S+)", log.read_text()), "address of the server")
        self.url = found[-1]

    def end(self, sig: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(sig)
            self.process.wait(60)
            self.process = None

    def attempts(self) -> list[dict[str, Any]]:
        with Client(self.url) as client:
            try:
                events = client.get("/v1/models/m/timeline?limit=1000")["events"]
            except EverloopError:
                return []
        return [event for event in events if event["kind"] in ("optimize_started", "optimized", "not_optimized")]

    def ask(self, rows: list[list[float]]) -> dict[str, Any]:
        with Client(self.url) as client:
            found: dict[str, Any] = client.call("POST", "/v1/models/m/predict", {"instances": rows})
        return found


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    found = Serving(tmp_path)
    yield found
    found.end(signal.SIGKILL)


@pytest.mark.e2e
def test_a_server_that_is_killed_while_it_makes_a_version_faster(serving: Serving) -> None:
    from sklearn.ensemble import GradientBoostingRegressor

    import everloop

    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    model = GradientBoostingRegressor(n_estimators=5).fit(X, X[:, 0])
    everloop.save_model(model, serving.folder / "m.skops")
    eager = ["--set", "optimize.min_examples=50", "--set", "optimize.settle_sec=0"]

    serving.start("m=m.skops", *eager)
    before = serving.ask(X.tolist())
    until(serving.attempts, "attempt")
    assert serving.process is not None
    family = psutil.Process(serving.process.pid).children(recursive=True)
    assert family, "it runs in a process of its own"
    serving.end(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == [], "which does not outlive the server"

    serving.start(*eager)
    after = serving.ask(X.tolist())
    assert after["predictions"] == before["predictions"]
    told = until(lambda: serving.attempts()[1:], "second attempt")
    assert told[0]["kind"] == "optimize_started"
    serving.end(signal.SIGTERM)
