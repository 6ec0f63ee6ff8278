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
MADE_BY_OTHERS = {"by_size", "text", "image", "factors"}
"""What only the optimiser makes, of models that have an example of their own; and what is built in, which `test_showcase` serves."""
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
class Made:
    """What the examples said."""

    folder: Path
    environ: dict[str, str]
    words: list[str]
    """For the command line of `everloop serve`."""
    asked: dict[str, dict[str, Any]]
    """Example -> model -> the row to ask it."""
    errors: dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("runtimes")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EVERLOOP_")}
    ran = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(folder), *(str(FOLDER / f"{name}.py") for name in EXAMPLES)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = Made(folder, environ, [], {}, {})
    for example, said in json.loads(ran.stdout.splitlines()[-1]).items():
        lines = said["out"].splitlines()
        found.errors[example] = said["error"]
        for what, row in zip(lines[::2], lines[1::2], strict=False):
            found.words += shlex.split(what)
            found.asked.setdefault(example, {})[what.partition("=")[0]] = json.loads(row)
    return found


@pytest.fixture(scope="module")
def client(made: Made) -> Iterator[Client]:
    log = made.folder / "serve.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*EVERLOOP, "serve", *made.words, "--memory", "--port", "0", "--trust-pickle"],
            cwd=made.folder,
            env={**made.environ, "PYTHONFAULTHANDLER": "1"},
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
            yield client
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_says_how_it_is_run(example: str) -> None:
    assert f"python examples/runtimes/{example}.py FOLDER" in (FOLDER / f"{example}.py").read_text()


@pytest.mark.e2e
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_and_says_what_to_serve_and_a_row_to_ask(made: Made, example: str) -> None:
    assert made.errors[example] == ""
    assert made.asked.get(example)


@pytest.mark.e2e
@pytest.mark.parametrize("example", EXAMPLES)
def test_what_an_example_makes_is_served_and_answers(made: Made, client: Client, example: str) -> None:
    for model, row in made.asked[example].items():
        if isinstance(row, dict) and "inputs" in row:
            found = client.call("POST", f"/v2/models/{model}/infer", row)
            assert found["outputs"]
            continue
        found = client.call("POST", f"/v1/models/{model}/predict", {"features": row})
        assert found["prediction"] is not None
        again = client.call("POST", f"/v1/models/{model}/predict", {"instances": [row, row]})
        assert again["predictions"] == [found["prediction"]] * 2


@pytest.mark.e2e
def test_every_runtime_has_an_example(made: Made, client: Client) -> None:
    models = [model for asked in made.asked.values() for model in asked]
    runtimes = {client.get(f"/v1/models/{model}/versions")["versions"][-1]["runtime"] for model in models}
    assert sorted(FORMATS.keys() - runtimes - MADE_BY_OTHERS) == []
