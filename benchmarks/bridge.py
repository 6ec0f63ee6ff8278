"""Python called from Node: the bridge against the same function behind HTTP and gRPC, and what very many calls leave behind.

The numbers are taken by `clients/typescript/bench/*.ts` in Node; here the peers are started and the bars are held against them.
Node and the Python in it have one core, a peer's server the other one, as two processes would on this machine. Where nobody pins them, a
call that waits alone is mostly two cores that have to be woken, which costs more than the call: that is told beside it.
It needs Node and the built package: `npm ci && npm run build` in clients/typescript.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from everloop.app.bench.processes import Server, cores, free_port, on_core
from everloop.app.bench.rows import Row, Skip, against, counted, spread

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "clients" / "typescript"


def run(quick: bool) -> list[Row]:
    """Rows for `benchmarks/run.py`. Raises Skip where there is no Node or the package is not built."""
    node = shutil.which("node")
    if node is None:
        raise Skip("there is no Node on the PATH")
    if not (PACKAGE / "dist-bench" / "bridge.js").exists():
        raise Skip("the package is not built: (cd clients/typescript && npm ci && npm run build)")
    return _calls(node, quick) + _soak(node, quick)


def _calls(node: str, quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="everloop-bench-bridge-") as folder, contextlib.ExitStack() as stack:
        ports = {}
        for name in ("http", "grpc"):
            ports[name] = free_port()
            command = [sys.executable, str(HERE / "peers" / f"measured_{name}.py"), str(ports[name])]
            stack.enter_context(Server(name, command, ports[name], folder=Path(folder))).wait()
        settings = {**ports, "rounds": 2 if quick else 5, "calls": 2000 if quick else 8000, "python": sys.executable}
        pair = cores()
        with on_core(None if pair is None else pair[1]):
            told = json.loads(_node(node, "bridge", settings))
        free = json.loads(_node(node, "bridge", {**settings, "rounds": 2}))
    latencies, rates = told["latencyUs"], told["callsPerSecond"]

    def median(side: str, which: str = "p50", run: dict[str, Any] = told) -> float:
        return statistics.median(one[which] for one in run["latencyUs"][side])

    def times(side: str, run: dict[str, Any] = told) -> float:
        pairs = zip(run["latencyUs"][side], run["latencyUs"]["fast"], strict=True)
        return statistics.median(theirs["p50"] / ours["p50"] for theirs, ours in pairs)

    def all_of(which: str) -> str:
        return ", ".join(f"{side} {median(side, which):.0f}" for side in latencies)

    detail = f"p50 in µs: {all_of('p50')}; p99: {all_of('p99')}; Node {told['versions']['node']}"
    speeds = ", ".join(f"{side} {spread(values)}" for side, values in rates.items())
    million = told["millionFloatsUs"]
    lags = [one["p99"] for one in told["lagMs"]]
    return [
        against("bridge", "a small call in process, p50", median("fast") / 1e3, "at most", 0.1, "ms", detail=detail),
        against("bridge", "a small call in process, p99", median("fast", "p99") / 1e3, "at most", 0.5, "ms"),
        against("bridge", "the same of a function not declared fast, p50", median("pool") / 1e3, "at most", 0.1, "ms"),
        against("bridge", "against Node to uvicorn, HTTP keep-alive", times("http"), "at least", 4),
        against("bridge", "against grpc-js to grpcio", times("grpc"), "at least", 10),
        against(
            "bridge", "not pinned: a small call in process, p50", median("fast", run=free) / 1e3, "at most", 0.1, "ms"
        ),
        against("bridge", "not pinned: against Node to uvicorn, HTTP keep-alive", times("http", free), "at least", 4),
        against("bridge", "not pinned: against grpc-js to grpcio", times("grpc", free), "at least", 10),
        against(
            "bridge",
            "64 calls in flight, functions declared fast",
            statistics.median(rates["fast"]),
            "at least",
            40_000,
            "calls/s",
            detail=f"calls/s: {speeds}",
        ),
        against(
            "bridge",
            "event loop's lag beside three computing Python threads, p99",
            statistics.median(lags),
            "at most",
            10,
            "ms",
        ),
        against("bridge", "1,000 floats both ways, p50", median("1,000 floats") / 1e3, "at most", 0.25, "ms"),
        against(
            "bridge",
            "1,000,000 floats both ways, as Float64Array, p50",
            million["p50"] / 1e3,
            "at most",
            20,
            "ms",
            detail="8 MB there and 8 MB back, one copy on each way",
        ),
    ]


def _soak(node: str, quick: bool) -> list[Row]:
    calls = 20_000 if quick else 100_000
    rows = []
    for transport in ("in-process", "process"):
        settings = {"calls": calls, "transport": transport, "python": sys.executable}
        told = json.loads(_node(node, "soak", settings, "--expose-gc"))
        early, late = told["residentMb"]
        sound = told["wrong"] == 0 and not any(told["left"].values()) and late - early < 64
        rows.append(
            counted(
                "bridge",
                f"{calls:,} calls with errors, timeouts and aborts, {transport}: wrong, left over, exit code",
                "0, 0, 0, and less than 64 MB more after the first quarter",
                f"{told['wrong']}, {sum(told['left'].values())}, 0, {late - early:+.0f} MB",
                passed=sound,
                detail=f"{told['failed']:,} failed, {told['timedOut']:,} timed out, {told['cancelled']:,} cancelled, as they should",
            )
        )
    return rows


def _node(node: str, program: str, settings: dict[str, Any], *flags: str) -> str:
    """What the program printed. Raises RuntimeError with its stderr if it did not end with 0."""
    command = [node, *flags, f"dist-bench/{program}.js", json.dumps(settings)]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-3000:]}")
    return done.stdout
