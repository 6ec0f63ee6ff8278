"""What each runtime costs a server that starts with it: loading, warming up, and whether the first request pays for anything.

Each runtime is a server process of its own, with nothing else in it. What opening the version took (its library's import, loading, warming
and measuring) is what the server itself tells on the timeline. Then one connection asks: the first request after the server said that it
is ready, beside the 99th percentile of those that follow. A first request may be unlucky, too, so servers are started several times, and the
middle one of their ratios counts.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from everloop.app.bench.processes import Server, everloop_server
from everloop.app.bench.rows import Context, Result, Row, against, spread
from everloop.app.bench.runtime_models import MAKERS, row
from everloop.runtime.formats import FORMATS

REQUESTS = 400
PATH = "/v1/models/m/predict"
MOST = 2.0


@dataclass
class Seen:
    """Of one runtime, an entry a start. Seconds."""

    ready: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    @property
    def penalty(self) -> float:
        return statistics.median(a / b for a, b in zip(self.first, self.p99, strict=True))


def run(context: Context, folder: Path) -> Result:
    models = _made(context, folder)
    seen: dict[str, Seen] = {}
    for turn in range(context.rounds(3, 1)):
        for name, told in models.items():
            if "model" in told:
                context.say(f"runtimes, round {turn + 1}: {name}")
                _start(told["model"], folder, seen.setdefault(name, Seen()))
    rows = [_row(name, seen[name]) for name in seen]
    rows += [
        Row("runtimes", f"{name}: its first request", "", "not measured", None, None, told["why"])
        for name, told in models.items()
        if "why" in told
    ]
    missing = FORMATS.keys() - MAKERS.keys()
    rows += [Row("runtimes", f"{name}: its first request", "", "no model", None, False) for name in sorted(missing)]
    return Result(rows, {name: vars(each) for name, each in seen.items()})


def _made(context: Context, folder: Path) -> dict[str, dict[str, str]]:
    context.say("runtimes: making the models")
    place = folder / "models"
    place.mkdir()
    made = subprocess.run(
        [sys.executable, "-m", "everloop.app.bench.runtime_models", str(place)],
        cwd=place,
        check=True,
        capture_output=True,
        timeout=300,
    )
    found: dict[str, dict[str, str]] = json.loads(made.stdout.splitlines()[-1])
    return found


def _start(model: str, folder: Path, seen: Seen) -> None:
    with everloop_server(folder, f"m={model}", "--memory", "--trust-pickle") as server:
        seen.ready.append(server.wait())
        seen.opened.append(_opened(server))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.connect()
        body = msgspec.json.encode({"features": row()})
        try:
            seen.first.append(_asked(connection, body))
            steady = [_asked(connection, body) for _ in range(REQUESTS)]
        finally:
            connection.close()
    seen.p50.append(statistics.median(steady))
    seen.p99.append(statistics.quantiles(steady, n=100)[-1])


def _opened(server: Server) -> float:
    """Seconds that loading and warming took, as the server tells."""
    _, answer = server.call("GET", "/v1/models/m/timeline")
    events: list[dict[str, Any]] = json.loads(answer)["events"]
    return float(next(event["data"]["seconds"] for event in events if event["kind"] == "swapped"))


def _asked(connection: http.client.HTTPConnection, body: bytes) -> float:
    begun = time.perf_counter()
    connection.request("POST", PATH, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    took = time.perf_counter() - begun
    if answer.status != 200:
        raise RuntimeError(f"a prediction was answered with {answer.status}")
    return took


def _row(name: str, seen: Seen) -> Row:
    detail = (
        f"{name}: load and warm {spread(seen.opened, ' s')}, server ready after {spread(seen.ready, ' s')}; "
        f"first request {statistics.median(seen.first) * 1e3:.3g} ms, then p50 {statistics.median(seen.p50) * 1e3:.3g} ms, "
        f"p99 {statistics.median(seen.p99) * 1e3:.3g} ms"
    )
    what = f"{name}: its first request, of the steady p99"
    return against("runtimes", what, seen.penalty, "at most", MOST, detail=detail)
