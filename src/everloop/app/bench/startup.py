"""How long until something happens: the import, `--help`, a server that answers."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from everloop.app.bench.material import breast_cancer_onnx
from everloop.app.bench.processes import everloop_command, everloop_server
from everloop.app.bench.rows import Context, Result, against, spread


def seconds_of(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    return time.perf_counter() - began


def run(context: Context, folder: Path) -> Result:
    """Whole processes, the start of the interpreter and its end included. The first run of each, which fills the file
    cache, does not count."""
    rounds = context.rounds(9, 3)
    model = breast_cancer_onnx(folder / "bc.onnx")
    imports = [sys.executable, "-c", "import everloop"]
    shown = [*everloop_command(), "--help"]
    took: dict[str, list[float]] = {"import": [], "help": [], "ready": []}
    for turn in range(rounds + 1):
        context.say(f"start-up, round {turn} of {rounds}")
        took["import"].append(seconds_of(imports))
        took["help"].append(seconds_of(shown))
        with everloop_server(folder, f"bc={model}") as server:
            took["ready"].append(server.wait())
    counted = {name: values[1:] for name, values in took.items()}
    bars = (
        ("import", "python -c 'import everloop'", 0.2),
        ("help", "everloop --help", 0.4),
        ("ready", "everloop serve bc=bc.onnx until ready", 1.5),
    )
    rows = [
        against(
            "start-up", what, statistics.median(counted[name]), "at most", bar, "s", detail=spread(counted[name], " s")
        )
        for name, what, bar in bars
    ]
    return Result(rows, counted)
