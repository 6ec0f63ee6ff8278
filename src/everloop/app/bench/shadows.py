"""What a shadow costs those who ask the model: one that is well, one that hangs, one that crashes, one that is a hundred times slower.

One server, on one core, with the shadow's process on that same core; for each kind of shadow the load asks it in turns, without a
shadow and with one (A B A B …). Before each turn with one the shadow is up, and afterwards its counts tell that it did what it is for.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from everloop.app.bench.load import Client, WrkRun, need_wrk, post, wrk
from everloop.app.bench.material import BC_PATH, breast_cancer_body, breast_cancer_onnx
from everloop.app.bench.processes import Server, everloop_server
from everloop.app.bench.rows import Context, Result, Row, against, counted, ratio_in_turns, spread
from everloop.app.continuum import Continuum
from everloop.runtime.artifact import Trust, read_model_file

CONNECTIONS = 64
MODEL = "bc"
OPEN_SECONDS = 60.0
KINDS = ("well", "slow", "hangs", "crashes")
_SLOW_SECONDS = 0.001
"""A row: a hundred times what the whole answer takes over HTTP."""
_LIFE = 300
"""Rows that a crashing one survives."""


class Misbehaving:
    """Answers "1"; `kind` says how."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rows = 0

    def predict(self, X: Any) -> Any:
        import numpy as np

        self.rows += len(X)
        if self.kind == "slow":
            until = time.thread_time() + _SLOW_SECONDS * len(X)
            while time.thread_time() < until:
                pass
        elif self.kind == "hangs":
            threading.Event().wait()
        elif self.kind == "crashes" and self.rows > _LIFE:
            os._exit(1)
        return np.ones(len(X), np.int64)


class _Answer(msgspec.Struct):
    prediction: int
    model_version: int


class Turns:
    """Of one kind, a number a round."""

    def __init__(self) -> None:
        self.without: list[WrkRun] = []
        self.beside: list[WrkRun] = []
        self.counts: dict[str, float] = {}
        """What the shadow says of itself, over all rounds."""

    @property
    def p99(self) -> float:
        return ratio_in_turns([run.p99 for run in self.beside], [run.p99 for run in self.without])

    @property
    def speed(self) -> float:
        return ratio_in_turns([run.per_second for run in self.beside], [run.per_second for run in self.without])

    @property
    def failed(self) -> int:
        return sum(run.refused + run.socket_errors for run in self.without + self.beside)


def run(context: Context, folder: Path) -> Result:
    """Raises Skip where wrk is missing."""
    need_wrk()
    data = folder / "shadows"
    versions = _register(data, folder)
    body = breast_cancer_body()
    with everloop_server(folder, "--data-dir", str(data), "--trust-pickle") as server:
        server.wait()
        wrk(server.port, BC_PATH, body, connections=CONNECTIONS, seconds=context.seconds(2, 1), folder=folder)
        turns = {kind: Turns() for kind in KINDS}
        rounds = context.rounds(11, 2)
        for number in range(rounds):
            for kind in KINDS:
                context.say(f"shadows, round {number + 1} of {rounds}: one that {_told(kind)}")
                _round(context, server, versions[kind], turns[kind], body, folder)
        wrong = _wrong(context, server, versions, body)
    rows = [row for kind, one in turns.items() for row in _rows(kind, one)]
    rows.append(
        counted("shadows", "answers beside them that are not the champion's", "none", str(wrong), passed=wrong == 0)
    )
    return Result(rows, {kind: {"p99": one.p99, "per_second": one.speed, **one.counts} for kind, one in turns.items()})


def _register(data: Path, folder: Path) -> dict[str, int]:
    """The ONNX model, and a version of each kind. Returns kind -> version."""
    import cloudpickle

    manifest, payload = read_model_file(breast_cancer_onnx(folder / "bc.onnx"), trust=Trust())
    with Continuum(data_dir=data, trust_pickle=True) as engine:
        registry = engine.engine.services.registry
        registry.register(MODEL, "artifact", task=manifest.task, schema=manifest.schema, target=manifest.target)
        registry.add_version(MODEL, manifest, payload, live=True)
        odd = msgspec.structs.replace(manifest, runtime="sklearn")
        versions = {"well": registry.add_version(MODEL, manifest, payload, live=False).version}
        for kind in KINDS[1:]:
            made = registry.add_version(MODEL, odd, cloudpickle.dumps(Misbehaving(kind)), live=False)
            versions[kind] = made.version
    return versions


def _round(context: Context, server: Server, version: int, turns: Turns, body: bytes, folder: Path) -> None:
    seconds = context.seconds(2, 1)
    turns.without.append(wrk(server.port, BC_PATH, body, connections=CONNECTIONS, seconds=seconds, folder=folder))
    _choose(server, version)
    turns.beside.append(wrk(server.port, BC_PATH, body, connections=CONNECTIONS, seconds=seconds, folder=folder))
    for name, number in _counts(server):
        turns.counts[name] = turns.counts.get(name, 0.0) + number
    _choose(server, None)


def _choose(server: Server, shadow: int | None) -> None:
    """Let this version be the shadow, and wait until it is up. Raises RuntimeError."""
    status, text = server.call("PUT", f"/v1/models/{MODEL}/traffic", {"weights": {"1": 1.0}, "shadow": shadow})
    if status != 200:
        raise RuntimeError(f"the traffic could not be set: {status} {text.decode()[:300]}")
    until = time.monotonic() + OPEN_SECONDS
    while dict(_counts(server)).get("up", 0.0) != (shadow is not None):
        if time.monotonic() > until:
            raise RuntimeError(f"the shadow, version {shadow}, was not there after {OPEN_SECONDS:.0f} s")
        time.sleep(0.02)


def _counts(server: Server) -> Iterator[tuple[str, float]]:
    """What Prometheus would see of the shadow."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", "/metrics", headers={"accept": "text/plain"})
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    for name, labels, number in re.findall(r"^everloop_shadow_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        outcome = re.search(r'outcome="(\w+)"', labels)
        yield (
            (outcome[1] if outcome and name == "rows_total" else name if not outcome else f"{name}:{outcome[1]}"),
            float(number),
        )


def _wrong(context: Context, server: Server, versions: dict[str, int], body: bytes) -> int:
    """Ask with a client that reads every answer, beside each kind."""
    decode = msgspec.json.Decoder(_Answer).decode
    request = post(BC_PATH, body)
    right = decode(server.call("POST", BC_PATH, msgspec.Raw(body))[1]).prediction
    wrong = 0

    def answered(_connection: int, status: int, text: bytes) -> None:
        nonlocal wrong
        if status != 200:
            wrong += 1
            return
        answer = decode(text)
        wrong += answer.prediction != right or answer.model_version != 1

    for version in versions.values():
        _choose(server, version)
        client = Client(server.port, CONNECTIONS, lambda _connection: request, answered)
        client.run(context.seconds(2, 1))
        wrong += client.socket_errors
    return wrong


def _told(kind: str) -> str:
    return {"well": "is well", "slow": "is a hundred times slower"}.get(kind, kind)


def _rows(kind: str, turns: Turns) -> list[Row]:
    p99 = ", ".join(
        f"{name} {spread([run.p99 * 1e3 for run in runs], ' ms')}, {spread([run.per_second for run in runs], ' /s')}"
        for name, runs in (("without", turns.without), ("with", turns.beside))
    )
    interesting = {
        name: number for name, number in sorted(turns.counts.items()) if number and name != "up" and ":" not in name
    }
    detail = f"{p99}; its counts: {', '.join(f'{name} {number:,.6g}' for name, number in interesting.items())}"
    what = f"p99 at {CONNECTIONS} connections beside a shadow that {_told(kind)}, of without one"
    rows = [against("shadows", what, turns.p99, "at most", 1.1, detail=detail, ok=turns.failed == 0)]
    if kind == "well":
        what = f"requests/s at {CONNECTIONS} connections beside it, of without one"
        rows.append(against("shadows", what, turns.speed, "at least", 0.9, detail=detail, ok=turns.failed == 0))
    return rows
