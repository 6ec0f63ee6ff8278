"""The server against what one could have written instead: requests a second, latency, memory, all on one core.

All three servers run at once, pinned to one core; the load, on another, asks one of them at a time, in turns.
"""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path
from typing import Any

import msgspec

from everloop.app.bench.load import WrkRun, need_wrk, wrk
from everloop.app.bench.material import BC_PATH, breast_cancer_body, breast_cancer_onnx
from everloop.app.bench.processes import Server, bare_server, by_hand_server, everloop_server
from everloop.app.bench.rows import Context, Result, Row, Skip, against, counted, ratio_in_turns, skipped, spread

CONNECTIONS = 64
MEMORY_FROM, MEMORY_TO = 100_000, 1_000_000
MIB = 2**20


class Measured:
    """Of one server, a number a round."""

    def __init__(self) -> None:
        self.busy: list[WrkRun] = []
        self.alone: list[WrkRun] = []
        self.cpu: list[float] = []
        """Seconds of processor time a request, at 64 connections."""
        self.resident: list[int] = []
        """Bytes, right after 64 connections."""

    @property
    def per_second(self) -> list[float]:
        return [run.per_second for run in self.busy]

    @property
    def p50(self) -> list[float]:
        return [run.p50 * 1e6 for run in self.alone]

    @property
    def failed(self) -> int:
        return sum(run.refused + run.socket_errors for run in self.busy + self.alone)


def run(context: Context, folder: Path) -> Result:
    """Raises Skip where wrk is missing; without FastAPI only its rows are left out."""
    need_wrk()
    rows: list[Row] = []
    model = breast_cancer_onnx(folder / "bc.onnx")
    body = breast_cancer_body()
    with contextlib.ExitStack() as stack:
        servers = {
            "everloop": stack.enter_context(everloop_server(folder, f"bc={model}")),
            "bare": stack.enter_context(bare_server(folder)),
        }
        try:
            servers["fastapi"] = stack.enter_context(by_hand_server(folder, model))
            servers["fastapi_async"] = stack.enter_context(by_hand_server(folder, model, on_loop=True))
        except Skip as why:
            rows.append(skipped("http: against FastAPI", str(why)))
        for server in servers.values():
            server.wait()
        _check(servers, body)
        measured = _in_turns(context, servers, body, folder)
        resident = {name: statistics.median(m.resident) for name, m in measured.items()}
        rows += _rows(measured, resident)
        rows.append(_memory(context, servers["everloop"], body, folder))
    data: dict[str, Any] = {
        name: {
            "per_second": statistics.median(m.per_second),
            "p50_us": statistics.median(m.p50),
            "p99_busy_us": statistics.median([r.p99 * 1e6 for r in m.busy]),
            "cpu_us": statistics.median(m.cpu) * 1e6,
            "resident_mb": resident[name] / MIB,
        }
        for name, m in measured.items()
    }
    return Result(rows, data)


def _check(servers: dict[str, Server], body: bytes) -> None:
    """Both model servers give the same answer, or there is nothing to compare."""
    answers = {}
    for name, server in servers.items():
        status, text = server.call("POST", BC_PATH, msgspec.Raw(body))
        if status != 200:
            raise RuntimeError(f"{name} answered {status}: {text.decode()}")
        answers[name] = msgspec.json.decode(text)["prediction"]
    if len({answers[name] for name in answers if name != "bare"}) != 1:
        raise RuntimeError(f"the servers disagree: {answers}")


def _in_turns(context: Context, servers: dict[str, Server], body: bytes, folder: Path) -> dict[str, Measured]:
    seconds, rounds = context.seconds(4, 1), context.rounds(5, 2)
    measured = {name: Measured() for name in servers}
    for server in servers.values():
        wrk(server.port, BC_PATH, body, connections=CONNECTIONS, seconds=context.seconds(2, 1), folder=folder)
    for turn in range(rounds):
        context.say(f"http, round {turn + 1} of {rounds}")
        for name, server in servers.items():
            before = server.cpu_seconds()
            busy = wrk(server.port, BC_PATH, body, connections=CONNECTIONS, seconds=seconds, folder=folder)
            measured[name].cpu.append((server.cpu_seconds() - before) / max(1, busy.requests))
            measured[name].busy.append(busy)
            measured[name].resident.append(server.resident())
        for name, server in servers.items():
            measured[name].alone.append(
                wrk(server.port, BC_PATH, body, connections=1, seconds=seconds / 2, folder=folder)
            )
    return measured


def _rows(measured: dict[str, Measured], resident: dict[str, float]) -> list[Row]:
    ours, bare = measured["everloop"], measured["bare"]
    failed = ours.failed
    detail = ", ".join(f"{name} {spread(m.per_second, ' /s')}" for name, m in measured.items())
    detail += "; processor time a request: "
    detail += ", ".join(f"{name} {statistics.median(m.cpu) * 1e6:.1f} µs" for name, m in measured.items())
    alone = ", ".join(f"{name} {spread(m.p50, ' µs')}" for name, m in measured.items())
    rows = []
    if "fastapi" in measured:
        faster = ratio_in_turns(ours.per_second, measured["fastapi"].per_second)
        what = f"requests/s at {CONNECTIONS} connections, of FastAPI + pydantic by hand"
        rows.append(against("http", what, faster, "at least", 15, detail=detail, ok=failed == 0))
    share = ratio_in_turns(ours.per_second, bare.per_second)
    what = f"requests/s at {CONNECTIONS} connections, of a bare protocol without a model"
    rows.append(against("http", what, share, "at least", 0.45, detail=detail, ok=failed == 0))
    slower = ratio_in_turns(ours.p50, bare.p50)
    rows.append(against("http", "p50 at one connection, of the bare protocol", slower, "at most", 3, detail=alone))
    if "fastapi" in measured:
        times = resident["everloop"] / resident["fastapi"]
        memory = ", ".join(f"{name} {size / MIB:.0f} MiB" for name, size in resident.items())
        rows.append(
            against("http", "resident memory, of FastAPI with the same model", times, "at most", 1.5, detail=memory)
        )
    if failed:
        rows.append(counted("http", "requests that failed", "none", str(failed), passed=False))
    return rows


def _memory(context: Context, server: Server, body: bytes, folder: Path) -> Row:
    """How much a server grows from its 100,000th to its 1,000,000th prediction."""
    first, last = (MEMORY_FROM, MEMORY_TO) if not context.quick else (MEMORY_FROM // 10, MEMORY_TO // 10)
    fresh = everloop_server(folder, f"bc={folder / 'bc.onnx'}")
    server.stop()
    with fresh:
        fresh.wait()
        done = 0
        marks: list[int] = []
        for goal in (first, last):
            while done < goal:
                context.say(f"http, memory: {done:,} of {last:,} predictions")
                done += wrk(
                    fresh.port, BC_PATH, body, connections=CONNECTIONS, seconds=1 if goal == first else 4, folder=folder
                ).requests
            marks.append(fresh.resident())
    grown = (marks[1] - marks[0]) / 1e6
    what = f"memory from {first:,} to {last:,} predictions"
    detail = f"{marks[0] / MIB:.1f} MiB, then {marks[1] / MIB:.1f} MiB after {done:,}"
    return against("http", what, grown, "at most", 10, "MB more", detail=detail)
