"""The Fastify example, its Python models in its own process, against the same application with FastAPI behind it.

Both are the same routes, checks and Python classes (`examples/fastify`); what differs is how the models are asked. Each side has one
worker and the settings that suit it: ours those of the example's `npm start`, the peer Node's own, with which it is fastest. A side's
processes share one core, the load has the other one, and they are asked in turns.

Memory is taken of each side alone, after load: what its processes have to themselves and their share of what they share (PSS). Either
side has the models once, so what one process saves is an interpreter, FastAPI, an HTTP client and what V8 lets lie about. Two rows more
tell how much of it is what: the peer under our settings of V8, and with a FastAPI worker a core, as it would be deployed.
It needs wrk, Node and the built example: `npm ci && npm run build` in clients/typescript, then in examples/fastify.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from everloop.app.bench.load import WrkRun, need_wrk, wrk
from everloop.app.bench.processes import Server, free_port
from everloop.app.bench.rows import Row, Skip, against, ratio_in_turns, spread

EXAMPLE = Path(__file__).parents[1] / "examples" / "fastify"
CONNECTIONS = 64
WORKERS = 2
MORE_WORKERS = f"http, {WORKERS} workers"
ARENAS = 1
SMALL = ("--optimize-for-size",)
"""Of `npm start`: a third less of V8's heap, at the same speed within what can be measured."""
SAME = "http, our settings of V8"
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

    def per_second(self, path: str) -> list[float]:
        return [run.per_second for run in self.runs[path]]

    @property
    def failed(self) -> int:
        return sum(run.refused + run.socket_errors for runs in self.runs.values() for run in runs)

    def memory(self) -> int:
        """Bytes, of all its processes and their children."""
        import psutil

        roots = [psutil.Process(server.process.pid) for server in self.servers]
        return sum(proportional(each.pid) for root in roots for each in (root, *root.children(recursive=True)))


Start = Callable[[Path, contextlib.ExitStack], Side]


def run(quick: bool) -> list[Row]:
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
    rounds, seconds = (2, 1) if quick else (5, 4)
    starts: dict[str, Start] = {
        "bridge": lambda folder, stack: _ours(node, folder, stack),
        "http": lambda folder, stack: _theirs(node, folder, stack, workers=1),
        SAME: lambda folder, stack: _theirs(node, folder, stack, workers=1, flags=SMALL),
        MORE_WORKERS: lambda folder, stack: _theirs(node, folder, stack, workers=WORKERS),
    }
    with tempfile.TemporaryDirectory(prefix="everloop-bench-polyglot-") as name:
        folder = Path(name)
        with contextlib.ExitStack() as stack:
            sides = {name: starts[name](folder, stack) for name in ("bridge", "http")}
            _check(sides)
            _measure(sides, folder, rounds, seconds)
        resident = {name: _resident(start, folder, seconds) for name, start in starts.items()}
    return _rows(sides, resident)


def proportional(pid: int) -> int:
    """Bytes of a process: its own pages, and its share of those that it shares. Raises Skip where the system does not tell."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if not rollup.exists():
        raise Skip("the memory of a process, its share of shared pages counted, is told by Linux only")
    (line,) = (line for line in rollup.read_text().splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024


def _ours(node: str, folder: Path, stack: contextlib.ExitStack) -> Side:
    return Side(_node([node, *SMALL], "server", folder, stack))


def _theirs(node: str, folder: Path, stack: contextlib.ExitStack, *, workers: int, flags: Sequence[str] = ()) -> Side:
    port = free_port()
    app = [sys.executable, str(EXAMPLE / "bench" / "fastapi_app.py"), str(port), str(workers)]
    command = ["env", f"MALLOC_ARENA_MAX={ARENAS}", *app]
    models = stack.enter_context(Server("fastapi", command, port, folder=folder, ready_path="/openapi.json"))
    models.wait()
    return Side(_node([node, *flags], "peer", folder, stack, f"http://127.0.0.1:{port}"), models)


def _node(node: Sequence[str], program: str, folder: Path, stack: contextlib.ExitStack, *arguments: str) -> Server:
    port = free_port()
    settings = [
        "NODE_ENV=production",
        "LOG_LEVEL=warn",
        f"PORT={port}",
        f"PYTHON={sys.executable}",
        f"MALLOC_ARENA_MAX={ARENAS}",
    ]
    command = ["env", *settings, *node, str(EXAMPLE / "dist" / f"{program}.js"), *arguments]
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
        if any(answer != answers["bridge"] for answer in answers.values()):
            raise RuntimeError(f"the servers disagree at {path}: {answers}")


def _measure(sides: dict[str, Side], folder: Path, rounds: int, seconds: float) -> None:
    for turn in range(-1, rounds):
        for path in ASKED:
            lasts = seconds if path == SENTIMENT else max(1.0, seconds / 2)
            for side in sides.values():
                done = _ask(side, path, folder, lasts)
                if turn >= 0:  # The first turn warms up.
                    side.runs[path].append(done)


def _ask(side: Side, path: str, folder: Path, seconds: float) -> WrkRun:
    body = msgspec.json.encode(ASKED[path])
    return wrk(side.front.port, path, body, connections=CONNECTIONS, seconds=seconds, folder=folder)


def _resident(start: Start, folder: Path, seconds: float) -> float:
    """Of a side that runs alone, after load: pages that it would share with the other one are its own."""
    with contextlib.ExitStack() as stack:
        side = start(folder, stack)
        for _ in range(2):
            for path in ASKED:
                _ask(side, path, folder, seconds)
        return float(side.memory())


def _rows(sides: dict[str, Side], resident: dict[str, float]) -> list[Row]:
    ours, theirs = sides["bridge"], sides["http"]
    failed = sum(side.failed for side in sides.values())
    ratios = {path: ratio_in_turns(ours.per_second(path), theirs.per_second(path)) for path in ASKED}
    p99 = {name: statistics.median(run.p99 * 1e3 for run in side.runs[SENTIMENT]) for name, side in sides.items()}
    detail = (
        f"requests/s: bridge {spread(ours.per_second(SENTIMENT))}, http {spread(theirs.per_second(SENTIMENT))}; "
        f"p99 {p99['bridge']:.1f} ms, {p99['http']:.1f} ms; "
        + ", ".join(f"{path} {ratio:.2f}×" for path, ratio in ratios.items() if path != SENTIMENT)
        + (f"; {failed} failed" if failed else "")
    )
    sizes = ", ".join(f"{name} {size / MIB:.0f} MiB" for name, size in resident.items())
    of = "of Fastify → HTTP → FastAPI"
    memory = [
        against(
            "polyglot",
            f"memory after {CONNECTIONS} connections (PSS of all processes), {of}{more}",
            resident["bridge"] / resident[name],
            "at most",
            0.6,
            detail=sizes,
        )
        for name, more in (
            ("http", ", one worker"),
            (SAME, ", one worker, our settings of V8"),
            (MORE_WORKERS, f", {WORKERS} workers"),
        )
    ]
    what = f"sentiment, requests/s at {CONNECTIONS} connections, {of}, one worker"
    return [against("polyglot", what, ratios[SENTIMENT], "at least", 3, detail=detail, ok=failed == 0), *memory]
