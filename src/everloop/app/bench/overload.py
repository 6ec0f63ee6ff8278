"""Three times the load that a server can bear: what is still answered, how soon, what a refusal takes, and what remains of it.

The model computes in C on the server's own core, so whatever refusals cost is missing there. In turns: what 32 connections get at most,
one request at a time (the capacity), and Poisson arrivals at three times that rate. Latencies count from when a request was due.
"""

from __future__ import annotations

import http.client
import statistics
import time
from pathlib import Path
from typing import Any

import msgspec

from everloop.app.bench.arrivals import Arrivals, percentile, run_all
from everloop.app.bench.load import Client, post
from everloop.app.bench.processes import Server, everloop_server
from everloop.app.bench.rows import Context, Result, Row, against, counted, ratio_in_turns, spread
from everloop.app.bench.slow import WIDTH, Slow, register

MODEL = "slow"
PATH = f"/v1/models/{MODEL}/predict"
CALL_SECONDS, ROW_SECONDS = 0.002, 0.002
TARGET = 0.15
CONNECTIONS = 32
TIMES = 3.0
MODEST = 0.1
"""Of the capacity: what a caller asks for who is not to notice the others."""
MIB = 1 << 20


class Round(msgspec.Struct):
    capacity: float
    goodput: float
    p99: float
    refusal_p50: float
    refusal_p99: float
    recovery: float
    grown: int
    statuses: dict[int, int]
    lost: int


def run(context: Context, folder: Path) -> Result:
    register(folder / "models", {MODEL: Slow("computes", CALL_SECONDS, ROW_SECONDS)})
    rounds: list[Round] = []
    options = ("--trust-pickle", "--set", f"serving.target_latency_ms={TARGET * 1e3:g}")
    with everloop_server(folder, "--data-dir", str(folder / "models"), *options) as server:
        server.wait()
        _capacity(server, 1.0)
        number = context.rounds(2, 1)
        for turn in range(number):
            context.say(f"overload, {turn + 1} of {number}")
            rounds.append(_round(context, server, turn))
        context.say("overload, a modest caller beside a greedy one")
        beside = _beside(server, statistics.median(each.capacity for each in rounds), context.seconds(10, 4))
    return Result([*_rows(rounds), beside], {"rounds": [msgspec.to_builtins(each) for each in rounds]})


def _requests() -> list[bytes]:
    return [post(PATH, msgspec.json.encode({"features": [float(i)] * WIDTH})) for i in range(64)]


def _capacity(server: Server, seconds: float) -> float:
    """Answers a second, to connections that wait for theirs."""
    answered = 0

    def count(_connection: int, status: int, _body: bytes) -> None:
        nonlocal answered
        answered += status == 200

    requests = _requests()
    began = time.perf_counter()
    Client(server.port, CONNECTIONS, lambda i: requests[i], count).run(seconds)
    return answered / (time.perf_counter() - began)


def _round(context: Context, server: Server, seed: int) -> Round:
    seconds = context.seconds(30, 5)
    capacity = _capacity(server, context.seconds(4, 2))
    load = Arrivals(server.port, _requests(), TIMES * capacity, seconds, seed=seed)
    before = server.resident()
    load.run()
    recovery = _recovered(server)
    good = [each.latency for each in load.found if each.status == 200]
    refused = [each.on_the_wire for each in load.found if each.status == 503]
    return Round(
        capacity,
        sum(each.status == 200 and each.answered <= seconds for each in load.found) / seconds,
        percentile(good, 0.99),
        percentile(refused, 0.5),
        percentile(refused, 0.99),
        recovery,
        server.resident() - before,
        load.statuses(),
        load.lost,
    )


def _recovered(server: Server) -> float:
    """Seconds until a request is answered as on an idle server (in three times what the model takes)."""
    began = time.perf_counter()
    body = msgspec.json.encode({"features": [1.0] * WIDTH})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        while True:
            asked = time.perf_counter()
            connection.request("POST", PATH, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200 and time.perf_counter() - asked < 3 * (CALL_SECONDS + ROW_SECONDS):
                return time.perf_counter() - began
            if time.perf_counter() - began > 30:
                return float("inf")
    finally:
        connection.close()


def _beside(server: Server, capacity: float, seconds: float) -> Row:
    """Two addresses: one asks for three times the capacity, the other for a tenth."""
    greedy = Arrivals(server.port, _requests(), TIMES * capacity, seconds, seed=1)
    modest = Arrivals(server.port, _requests(), MODEST * capacity, seconds, seed=2, connections=64, source="127.0.0.2")
    run_all([greedy, modest])
    answered = sum(each.status == 200 for each in modest.found) / max(1, len(modest.found))
    p99 = percentile([each.latency for each in modest.found if each.status == 200], 0.99)
    detail = f"its p99 {p99 * 1e3:.0f} ms; the other: {_told(greedy.statuses())}"
    return against(
        "overload", "answered, of a caller's requests beside one who asks 30 times as much", answered, "at least",
        0.99, "of them", detail=detail,
    )  # fmt: skip


def _rows(rounds: list[Round]) -> list[Row]:
    statuses: dict[int, int] = {}
    for each in rounds:
        for status, number in each.statuses.items():
            statuses[status] = statuses.get(status, 0) + number
    lost = sum(each.lost for each in rounds)
    clean = not lost and not set(statuses) - {200, 503}
    detail = (
        f"capacity {spread([each.capacity for each in rounds], ' /s')}, {_told(statuses)}, {lost} without an answer; "
        f"refusals p50 {spread([each.refusal_p50 * 1e3 for each in rounds], ' ms')}"
    )
    goodput = ratio_in_turns([each.goodput for each in rounds], [each.capacity for each in rounds])

    def row(what: str, value: float, sense: Any, bar: float, unit: str) -> Row:
        return against("overload", what, value, sense, bar, unit, detail=detail, ok=clean)

    grown = [each.grown / MIB for each in rounds]
    return [
        row(f"answered at {TIMES:g} times the capacity, of the capacity", goodput, "at least", 0.9, "×"),
        row("p99 of what was accepted", max(each.p99 for each in rounds) * 1e3, "at most", TARGET * 1e3, "ms"),
        row("p99 of refusals", max(each.refusal_p99 for each in rounds) * 1e3, "at most", 5, "ms"),
        row("after the load, until it answers as before", max(each.recovery for each in rounds), "at most", 1, "s"),
        counted(
            "overload",
            "memory that a round adds",
            "at most 8 MiB in the last",
            ", ".join(f"{each:.1f} MiB" for each in grown),
            passed=grown[-1] <= 8,
        ),
    ]


def _told(statuses: dict[int, int]) -> str:
    return ", ".join(f"{number:,} times {status}" for status, number in sorted(statuses.items()))
