"""Every runtime has an example that makes a model, and each of them is served by one real server and answers.

An example is run as its reader runs it, `python examples/runtimes/NAME.py FOLDER`, but all of them in one process, so that what they
import is imported once. It prints pairs of lines: what to serve, as `everloop serve` takes it, and a row to ask it, as JSON.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from everloop.app.client import Client
from everloop.runtime.formats import FORMATS

FOLDER = Path(__file__).parents[2] / "examples/runtimes"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))
EVERLOOP = [sys.executable, "-c", "from everloop.app.cli import main; main()"]
PATIENCE = 180.0
MADE_BY_OTHERS = {"by_size"}
"""What only the optimiser makes, of models that have an example of their own."""
RUN_ALL = """
import contextlib, io, json, runpy, sys, traceback
from pathlib import Path

said = {}
for script in map(Path, sys.argv[2:]):
    folder = Path(sys.argv[1]) / script.stem
    folder.mkdir()
    sys.argv[:2] = [str(script), str(folder)]
    out = io.StringIO()
    error = ""
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except BaseException:
            error = traceback.format_exc()
    sys.argv[:2] = ["", str(folder.parent)]
    said[script.stem] = {"out": out.getvalue(), "error": error}
print(json.dumps(said))
"""


@dataclass
class Served:
    client: Client
    asked: dict[str, dict[str, Any]]
    """Example -> model -> the row to ask it."""
    errors: dict[str, str]
    log: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("runtimes")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EVERLOOP_")}
    made = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(folder), *(str(FOLDER / f"{name}.py") for name in EXAMPLES)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    asked: dict[str, dict[str, Any]] = {}
    words: list[str] = []
    errors: dict[str, str] = {}
    for example, said in json.loads(made.stdout.splitlines()[-1]).items():
        lines = said["out"].splitlines()
        errors[example] = said["error"]
        for what, row in zip(lines[::2], lines[1::2], strict=False):
            words += shlex.split(what)
            asked.setdefault(example, {})[what.partition("=")[0]] = json.loads(row)
    log = folder / "serve.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*EVERLOOP, "serve", *words, "--memory", "--port", "0", "--trust-pickle"],
            cwd=folder,
            env=environ,
            stdout=out,
            stderr=out,
        )
    try:
        until = time.monotonic() + PATIENCE
        while not (found := re.search(r"serves at (http://\S+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        with Client(found[1]) as client:
            yield Served(client, asked, errors, log)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


@pytest.mark.e2e
@pytest.mark.parametrize("example", EXAMPLES)
def test_what_an_example_makes_is_served_and_answers(served: Served, example: str) -> None:
    assert served.errors[example] == ""
    assert served.asked.get(example), "it says what to serve, and a row to ask"
    for model, row in served.asked[example].items():
        if isinstance(row, dict) and "inputs" in row:
            found = served.client.call("POST", f"/v2/models/{model}/infer", row)
            assert found["outputs"]
            continue
        found = served.client.call("POST", f"/v1/models/{model}/predict", {"features": row})
        assert found["prediction"] is not None
        again = served.client.call("POST", f"/v1/models/{model}/predict", {"instances": [row, row]})
        assert again["predictions"] == [found["prediction"]] * 2


@pytest.mark.e2e
def test_every_runtime_has_an_example(served: Served) -> None:
    models = [model for asked in served.asked.values() for model in asked]
    runtimes = {served.client.get(f"/v1/models/{model}/versions")["versions"][-1]["runtime"] for model in models}
    assert sorted(FORMATS.keys() - runtimes - MADE_BY_OTHERS) == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_says_how_it_is_run(example: str) -> None:
    assert f"python examples/runtimes/{example}.py FOLDER" in (FOLDER / f"{example}.py").read_text()
