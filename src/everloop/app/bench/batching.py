"""Batching under a latency target: a model of 5 ms a call whose batch of 32 rows costs 8 ms, asked by a Poisson process over HTTP.

The ideal batched rate is that of full batches of 32 one after the other, 32 rows every 8 ms. The model waits, as for an accelerator; or it
computes in C on the server's own core, without the interpreter, which the server's own work then has to share. Nothing tells the batcher
what the model costs: it is given the target, learns, and is asked what it has learned. At low load it takes turns (A B A B …) with fixed
windows, which the same server is told to wait for. Latencies count from when a request was due.
"""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any

import msgspec

from everloop.app.bench.arrivals import Arrivals, percentile
from everloop.app.bench.load import post
from everloop.app.bench.processes import Server, everloop_server
from everloop.app.bench.rows import Context, Result, Row, against, ratio_in_turns, spread
from everloop.app.bench.slow import WIDTH, Kind, Slow, register

KINDS: dict[Kind, str] = {"waits": "waits", "computes": "computes in C"}
CALL, FULL, ROWS = 0.005, 0.008, 32
"""Seconds of one row and of `ROWS` rows."""
IDEAL = ROWS / FULL
OFFERED = 0.9
"""Of the ideal rate."""
TARGET_MS = 50.0
LOW_RATE = 20.0
"""Requests a second that hardly ever meet."""


def run(context: Context, folder: Path) -> Result:
    row = (FULL - CALL) / (ROWS - 1)
    register(folder / "models", {kind: Slow(kind, CALL - row, row) for kind in KINDS})
    rows: list[Row] = []
    data: dict[str, Any] = {}
    with everloop_server(folder, "--data-dir", str(folder / "models"), "--trust-pickle") as server:
        server.wait()
        for kind, told in KINDS.items():
            _tell(server, kind, target_latency_ms=TARGET_MS)
            found, data[kind] = _loaded(context, server, kind, told)
            rows += found
        made, data["low"] = _low(context, server)
        rows.append(made)
    return Result(rows, data)


def _loaded(context: Context, server: Server, kind: Kind, told: str) -> tuple[list[Row], dict[str, Any]]:
    rates: list[float] = []
    late: list[float] = []
    rounds, seconds = context.rounds(3, 1), context.seconds(10, 4)
    clean = True
    _asked(server, kind, OFFERED * IDEAL / 4, 1.0)
    for turn in range(rounds):
        context.say(f"batching: a model that {told}, {turn + 1} of {rounds}")
        load = _asked(server, kind, OFFERED * IDEAL, seconds, seed=turn)
        good = [each for each in load.found if each.status == 200]
        rates.append(sum(each.answered <= seconds for each in good) / seconds)
        late.append(percentile([each.latency for each in good], 0.99) * 1e3)
        clean = clean and not load.lost and not set(load.statuses()) - {200, 503}
    learned = _learned(server, kind)
    detail = (
        f"{spread(rates, ' /s')} of {IDEAL:,.0f}; batches of {learned['mean_rows']:.0f} rows on average, full at {learned['full_rows']}, "
        f"released {_counts(learned['released'])}"
    )
    share = sum(rates) / len(rates) / IDEAL
    what = f"a model that {told}: answered"
    return [
        against("batching", f"{what}, of the ideal batched rate", share, "at least", 0.85, detail=detail, ok=clean),
        against("batching", f"{what}, p99", max(late), "at most", TARGET_MS, "ms", detail=detail, ok=clean),
    ], {"rates": rates, "p99_ms": late, "learned": learned}


def _low(context: Context, server: Server) -> tuple[Row, dict[str, Any]]:
    """Ours beside fixed windows, by the model that waits."""
    kind: Kind = "waits"
    ours: list[float] = []
    fixed: list[float] = []
    rounds, seconds = context.rounds(5, 2), context.seconds(6, 2)
    for turn in range(rounds):
        context.say(f"batching: at low load, {turn + 1} of {rounds}")
        for found, window in ((fixed, TARGET_MS), (ours, None)):
            _tell(server, kind, window_ms=window, target_latency_ms=None if window else TARGET_MS)
            load = _asked(server, kind, LOW_RATE, seconds, seed=turn)
            found.append(percentile([each.latency for each in load.found if each.status == 200], 0.5) * 1e3)
    detail = f"p50 {spread(ours, ' ms')} against {spread(fixed, ' ms')}"
    ratio = ratio_in_turns(fixed, ours)
    what = f"p50 of fixed {TARGET_MS:.0f} ms windows at low load, of ours"
    return against("batching", what, ratio, "at least", 3, detail=detail), {"ours_ms": ours, "fixed_ms": fixed}


def _asked(server: Server, model: str, rate: float, seconds: float, seed: int = 0) -> Arrivals:
    path = f"/v1/models/{model}/predict"
    requests = [post(path, msgspec.json.encode({"features": [float(i)] * WIDTH})) for i in range(64)]
    load = Arrivals(server.port, requests, rate, seconds, seed=seed)
    load.run()
    return load


def _tell(server: Server, model: str, **serving: float | None) -> None:
    status, answer = _call(server, "PATCH", model, {"serving": serving})
    if status != 200:
        raise RuntimeError(f"{status}: {answer!r}")


def _learned(server: Server, model: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(_call(server, "GET", model)[1])["batching"]
    return found


def _call(server: Server, method: str, model: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        payload = None if body is None else msgspec.json.encode(body)
        connection.request(method, f"/v1/models/{model}", payload, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _counts(released: dict[str, int]) -> str:
    return ", ".join(f"{why} {count}" for why, count in released.items())
