"""A slow model beside a fast one, both loaded: what the fast one's clients notice.

The slow one takes 200 ms a call: asleep (`waits`), computing in C without the interpreter (`computes`), or in Python with the interpreter
held (`burns`). The server has one core for both, and the load the other. In turns with the same load on the fast one alone (A B A B …).
The fast one is asked at a fixed rate well below what it can do: who waits for its own queue would not notice a neighbour.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec

from everloop.app.bench.arrivals import Arrivals, percentile
from everloop.app.bench.load import Client, post
from everloop.app.bench.processes import everloop_server
from everloop.app.bench.rows import Context, Result, Row, against, ratio_in_turns, spread
from everloop.app.bench.slow import WIDTH, Kind, Slow, register

KINDS: dict[Kind, str] = {"waits": "waits", "computes": "computes in C", "burns": "computes in Python"}
SECONDS = 0.2
RATE = 2000.0
SLOW_CONNECTIONS = 8


def run(context: Context, folder: Path) -> Result:
    models: dict[str, Slow | None] = {"fast": None}
    register(folder / "models", models | {kind: Slow(kind, SECONDS, 0.0) for kind in KINDS})
    rows: list[Row] = []
    data: dict[str, Any] = {}
    with everloop_server(folder, "--data-dir", str(folder / "models"), "--trust-pickle") as server:
        server.wait()
        _fast(server.port, 1.0)
        for kind, told in KINDS.items():
            alone: list[Arrivals] = []
            beside: list[Arrivals] = []
            slow = 0
            rounds = context.rounds(5, 2)
            for turn in range(rounds):
                context.say(f"neighbours: one that {told}, {turn + 1} of {rounds}")
                alone.append(_fast(server.port, context.seconds(4, 2)))
                neighbour = _Neighbour(server.port, kind)
                with neighbour:
                    beside.append(_fast(server.port, context.seconds(4, 2)))
                slow += neighbour.answered
            p99 = [
                [percentile([each.latency for each in load.found], 0.99) for load in loads] for loads in (beside, alone)
            ]
            ratio = ratio_in_turns(*p99)
            clean = all(load.statuses().keys() == {200} and not load.lost for load in alone + beside) and slow > 0
            detail = (
                f"alone {spread([s * 1e3 for s in p99[1]], ' ms')}, beside {spread([s * 1e3 for s in p99[0]], ' ms')}; "
                f"{slow} answers of the slow one"
            )
            what = f"p99 beside a model that {told} for {SECONDS * 1e3:.0f} ms, of alone"
            rows.append(against("neighbours", what, ratio, "at most", 1.5, detail=detail, ok=clean))
            data[kind] = {"beside": p99[0], "alone": p99[1], "slow_answers": slow}
    return Result(rows, data)


def _fast(port: int, seconds: float) -> Arrivals:
    body = msgspec.json.encode({"features": [1.0] * WIDTH})
    load = Arrivals(port, [post("/v1/models/fast/predict", body)], RATE, seconds, connections=64)
    load.run()
    return load


class _Neighbour:
    """Connections that keep the slow model busy, meanwhile."""

    def __init__(self, port: int, kind: Kind) -> None:
        request = post(f"/v1/models/{kind}/predict", msgspec.json.encode({"features": [1.0] * WIDTH}))
        self.answered = 0
        self._client = Client(port, SLOW_CONNECTIONS, lambda _: request, self._count)
        self._thread = threading.Thread(target=self._client.run)

    def _count(self, _connection: int, status: int, _body: bytes) -> None:
        self.answered += status == 200

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._client.stop()
        self._thread.join()
