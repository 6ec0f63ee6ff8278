"""The Fastify example, its Python models in its own process, against the same application with FastAPI behind it.

Both are the same routes, checks and Python classes (`examples/fastify`); what differs is how the models are asked. A side's processes
share one core, the load has the other one, and they are asked in turns. Memory is what a side's processes have to themselves and their
share of what they share (PSS), so that pages of two processes are not counted twice.
It needs wrk, Node and the built example: `npm ci && npm run build` in clients/typescript, then in examples/fastify.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from everloop.app.bench.load import WrkRun, need_wrk, wrk
from everloop.app.bench.processes import Server, free_port
from everloop.app.bench.rows import Row, Skip, against, ratio_in_turns, spread

EXAMPLE = Path(__file__).parents[1] / "examples" / "fastify"
CONNECTIONS = 64
MIB = 2**20
TEXT = "This is amazing! Elide makes polyglot programming so easy!"
SENTIMENT = "/api/predict/sentiment"
ASKED: dict[str, Any] = {
    SENTIMENT: {"text": TEXT},
    "/api/predict/recommend": {"user_id": "user123", "context": {"category": "tech"}, "limit": 10},
    "/api/predict/batch": {"texts": [TEXT, "Great product!", "Terrible service", "Okay experience"] * 4},
}


class Side:
    """One way of running the API: its processes, and what was measured of it."""

    def __init__(self, front: Server, *others: Server) -> None:
        self.front = front
        self.servers = (front, *others)
        self.runs: dict[str, list[WrkRun]] = {path: [] for path in ASKED}
        self.resident: list[int] = []

    def per_second(self, path: str) -> list[float]:
        return [run.per_second for run in self.runs[path]]

    @property
    def failed(self) -> int:
        return sum(run.refused + run.socket_errors for runs in self.runs.values() for run in runs)

    def memory(self) -> int:
        return sum(proportional(server.process.pid) for server in self.servers)


def run(quick: bool) -> list[dict[str, Any]]:
    """Rows for `benchmarks/run.py`. Raises Skip for what is missing."""
    need_wrk()
    node = shutil.which("node")
    if node is None:
        raise Skip("there is no Node on the PATH")
    if importlib.util.find_spec("fastapi") is None:
        raise Skip("FastAPI is not installed: pip install 'everloop[bench]'")
    for built in (EXAMPLE / "dist" / "peer.js", EXAMPLE.parents[1] / "clients" / "typescript" / "dist" / "index.js"):
        if not built.exists():
            raise Skip(
                f"{built} is not built: npm ci && npm run build, in clients/typescript and then in examples/fastify"
            )
    with tempfile.TemporaryDirectory(prefix="everloop-bench-polyglot-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        sides = {"bridge": _ours(node, folder, stack), "http": _theirs(node, folder, stack)}
        _check(sides)
        _measure(sides, folder, rounds=2 if quick else 5, seconds=1 if quick else 4)
    return [
        {
            "what": row.what,
            "bar": row.bar,
            "measured": row.measured,
            "ratio": row.ratio,
            "pass": row.passed,
            "detail": row.detail,
        }
        for row in _rows(sides)
    ]


def proportional(pid: int) -> int:
    """Bytes of a process: its own pages, and its share of those that it shares. Raises Skip where the system does not tell."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if not rollup.exists():
        raise Skip("the memory of a process, its share of shared pages counted, is told by Linux only")
    (line,) = (line for line in rollup.read_text().splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024


def _ours(node: str, folder: Path, stack: contextlib.ExitStack) -> Side:
    return Side(_node(node, "server", folder, stack))


def _theirs(node: str, folder: Path, stack: contextlib.ExitStack) -> Side:
    port = free_port()
    command = [sys.executable, str(EXAMPLE / "bench" / "fastapi_app.py"), str(port)]
    models = stack.enter_context(Server("fastapi", command, port, folder=folder, ready_path="/openapi.json"))
    models.wait()
    return Side(_node(node, "peer", folder, stack, f"http://127.0.0.1:{port}"), models)


def _node(node: str, program: str, folder: Path, stack: contextlib.ExitStack, *arguments: str) -> Server:
    port = free_port()
    settings = ["NODE_ENV=production", "LOG_LEVEL=warn", f"PORT={port}", f"PYTHON={sys.executable}"]
    command = ["env", *settings, node, str(EXAMPLE / "dist" / f"{program}.js"), *arguments]
    server = stack.enter_context(Server(program, command, port, folder=folder, ready_path="/health"))
    server.wait()
    return server


def _check(sides: dict[str, Side]) -> None:
    """Both give the same answers, or there is nothing to compare."""
    for path, body in ASKED.items():
        answers = {}
        for name, side in sides.items():
            status, text = side.front.call("POST", path, body)
            if status != 200:
                raise RuntimeError(f"{name} answered {status} at {path}: {text.decode()}")
            answer = msgspec.json.decode(text)
            del answer["latency_ms"]
            answers[name] = answer
        if answers["bridge"] != answers["http"]:
            raise RuntimeError(f"the servers disagree at {path}: {answers}")


def _measure(sides: dict[str, Side], folder: Path, *, rounds: int, seconds: float) -> None:
    for turn in range(-1, rounds):
        for path, asked in ASKED.items():
            lasts = seconds if path == SENTIMENT else max(1.0, seconds / 2)
            for side in sides.values():
                body = msgspec.json.encode(asked)
                done = wrk(side.front.port, path, body, connections=CONNECTIONS, seconds=lasts, folder=folder)
                if turn >= 0:  # The first turn warms up.
                    side.runs[path].append(done)
                if path == SENTIMENT and turn >= 0:
                    side.resident.append(side.memory())


def _rows(sides: dict[str, Side]) -> list[Row]:
    ours, theirs = sides["bridge"], sides["http"]
    failed = ours.failed + theirs.failed
    ratios = {path: ratio_in_turns(ours.per_second(path), theirs.per_second(path)) for path in ASKED}
    p99 = {name: statistics.median(run.p99 * 1e3 for run in side.runs[SENTIMENT]) for name, side in sides.items()}
    detail = (
        f"requests/s: bridge {spread(ours.per_second(SENTIMENT))}, Fastify → HTTP → FastAPI "
        f"{spread(theirs.per_second(SENTIMENT))}; p99 {p99['bridge']:.1f} ms, {p99['http']:.1f} ms; "
        + ", ".join(f"{path} {ratio:.2f}×" for path, ratio in ratios.items() if path != SENTIMENT)
        + (f"; {failed} failed" if failed else "")
    )
    memory = ratio_in_turns([float(each) for each in ours.resident], [float(each) for each in theirs.resident])
    sizes = ", ".join(f"{name} {statistics.median(side.resident) / MIB:.0f} MiB" for name, side in sides.items())
    what = f"sentiment, requests/s at {CONNECTIONS} connections, of Fastify → HTTP → FastAPI"
    return [
        against("polyglot", what, ratios[SENTIMENT], "at least", 3, detail=detail, ok=failed == 0),
        against("polyglot", "resident memory (PSS, all processes), of the same", memory, "at most", 0.6, detail=sizes),
    ]
