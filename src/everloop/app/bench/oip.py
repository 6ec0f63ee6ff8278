"""The Open Inference Protocol over HTTP: one row of 3,000 floats as bytes, as its JSON, and as our own JSON, in turns.

Servers on one core, an ONNX linear regression, 64 connections. What is measured is the way of the numbers through the server: the model
itself is one product of vectors, and the server of the bar records nothing, since 12 kB a request are the disk's to take, whichever way
they came. A server that records everything, as it does by itself, is told beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from everloop.app.bench.load import JSON, need_wrk, wrk
from everloop.app.bench.material import linear_data, wide_onnx
from everloop.app.bench.processes import Server, everloop_server
from everloop.app.bench.rows import Context, Result, Row, against, counted, ratio_in_turns, spread

WIDTH = 3000
CONNECTIONS = 64
_INFER = "/v2/models/wide/infer"


class Way(NamedTuple):
    """Of one way of asking, a number a round."""

    per_second: list[float]
    cpu: list[float]
    """Seconds of the server's processor time a request."""
    failed: list[int]


class Asked(NamedTuple):
    path: str
    body: bytes
    headers: Mapping[str, str]


def run(context: Context, folder: Path) -> Result:
    """Raises Skip where wrk is missing."""
    need_wrk()
    model = wide_onnx(folder / "wide.onnx", WIDTH)
    ways = requests()
    runs: dict[str, dict[str, Way]] = {}
    for kind, options in (("plain", ["--record", "0"]), ("recorded", [])):
        place = folder / kind
        place.mkdir()
        with everloop_server(place, f"wide={model}", *options) as server:
            server.wait()
            _check(server, ways["json"], ways["oip_json"])
            runs[kind] = _in_turns(context, server, ways, folder, kind)
    failed = sum(sum(way.failed) for found in runs.values() for way in found.values())
    detail = "; ".join(f"{kind}: " + ", ".join(_told(*each) for each in found.items()) for kind, found in runs.items())
    what = f"requests/s with {WIDTH:,} floats as bytes, of our own JSON"
    times = ratio_in_turns(runs["plain"]["oip_binary"].per_second, runs["plain"]["json"].per_second)
    rows: list[Row] = [against("oip", what, times, "at least", 4, detail=detail, ok=failed == 0)]
    if failed:
        rows.append(counted("oip", "requests that failed", "none", str(failed), passed=False))
    data = {
        kind: {
            name: {"per_second": statistics.median(way.per_second), "cpu_us": statistics.median(way.cpu) * 1e6}
            for name, way in found.items()
        }
        for kind, found in runs.items()
    }
    return Result(rows, data)


def _told(name: str, way: Way) -> str:
    return f"{name} {spread(way.per_second, ' /s')}, {statistics.median(way.cpu) * 1e6:.0f} µs of processor time each"


def requests() -> dict[str, Asked]:
    """The same row three ways."""
    import numpy as np

    row = linear_data(WIDTH, rows=2)[0][0].astype(np.float32)
    numbers = row.astype(float).tolist()
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, WIDTH]}
    raw = row.tobytes()
    described = tensor | {"parameters": {"binary_data_size": len(raw)}}
    head = msgspec.json.encode({"inputs": [described], "parameters": {"binary_data_output": True}})
    binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return {
        "json": Asked("/v1/models/wide/predict", msgspec.json.encode({"features": numbers}), JSON),
        "oip_json": Asked(_INFER, msgspec.json.encode({"inputs": [tensor | {"data": numbers}]}), JSON),
        "oip_binary": Asked(_INFER, head + raw, binary),
    }


def _check(server: Server, json: Asked, oip: Asked) -> None:
    """Both ways give the same answer, or there is nothing to compare."""
    answers = []
    for asked in (json, oip):
        status, text = server.call("POST", asked.path, msgspec.Raw(asked.body))
        if status != 200:
            raise RuntimeError(f"{asked.path} answered {status}: {text.decode()[:500]}")
        answer = msgspec.json.decode(text)
        answers.append(answer["prediction"] if asked is json else answer["outputs"][0]["data"][0])
    if abs(answers[0] - answers[1]) > 1e-6 * max(1.0, abs(answers[0])):
        raise RuntimeError(f"the ways disagree: {answers}")


def _in_turns(context: Context, server: Server, ways: dict[str, Asked], folder: Path, kind: str) -> dict[str, Way]:
    seconds, rounds = context.seconds(3, 1), context.rounds(5 if kind == "plain" else 2, 1)
    found = {name: Way([], [], []) for name in ways}
    for turn in range(rounds):
        context.say(f"oip, {kind}, round {turn + 1} of {rounds}")
        for name, asked in ways.items():
            before = server.cpu_seconds()
            run = wrk(
                server.port,
                asked.path,
                asked.body,
                connections=CONNECTIONS,
                seconds=seconds,
                folder=folder,
                headers=asked.headers,
            )
            found[name].per_second.append(run.per_second)
            found[name].cpu.append((server.cpu_seconds() - before) / max(1, run.requests))
            found[name].failed.append(run.refused + run.socket_errors)
    return found
