"""Bad canaries under load: each comes back by itself, and those whom the champion answers notice nothing.

Two measurements of a real server, for a challenger that raises on half of the rows, answers NaN, is slow (asleep, or
computing in Python), answers wrongly:

back    a canary of 10 % with the gates as they are by default, asked by 32 connections that read every answer and label some of them:
        how long until it is rolled back, and whether anybody got anything but a 200 with the champion's or the challenger's answer.
p99     the champion's clients (a unit in the champion's buckets) while the bad canary *stays*: its gates are off for this measurement,
        and two more connections ask nothing but it. In turns with the same load without a rollout (A B A B …).
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from everloop.app.bench.load import Client, WrkRun, need_wrk, post, wrk
from everloop.app.bench.processes import Server, everloop_server
from everloop.app.bench.rows import Context, Result, Row, Skip, against, counted, ratio_in_turns, skipped, spread
from everloop.app.continuum import Continuum
from everloop.policy.routing import BUCKETS, bucket_of

MODEL = "sums"
PATH = f"/v1/models/{MODEL}/predict"
KINDS = ("raises", "nan", "slow", "burns", "wrong")
WIDTH = 8
SHARE = 0.1
CONNECTIONS = 32
LABELLED = 4
"""One connection of so many sends the label of each answer."""
CHAMPION_CONNECTIONS = 16
CHALLENGER_CONNECTIONS = 2
PATIENCE = 60.0
SLOW_SECONDS = 0.02
_OFF = {"errors": False, "latency": False, "quality": False, "failures": 10**9}


class Bad:
    """Answers the sum of a row; `kind` says how badly. Well-behaved where the first number is negative."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def predict(self, X: Any) -> Any:
        import numpy as np

        answers = X.sum(axis=1)
        bad = X[:, 0] >= 0
        if self.kind == "raises" and bad.any():
            raise ValueError("no such row")
        if self.kind == "slow":
            time.sleep(SLOW_SECONDS)
        if self.kind == "burns":
            until = time.thread_time() + SLOW_SECONDS
            while time.thread_time() < until:
                sum(range(200))
        if self.kind == "nan":
            return np.where(bad, np.nan, answers)
        return answers + 1.0 if self.kind == "wrong" else answers


class _Answer(msgspec.Struct):
    prediction: float | None = None
    model_version: int = 0
    request_id: str = ""


class Asking:
    """Connections that ask random rows, read what comes back, and label what some of them got."""

    def __init__(self, port: int, seed: int) -> None:
        import numpy as np

        rng = np.random.default_rng(seed)
        self._rows = rng.normal(size=(512, WIDTH)).round(4)
        self._sums = self._rows.sum(axis=1)
        self._posts = [post(PATH, msgspec.json.encode({"features": row.tolist()})) for row in self._rows]
        self._at = list(range(CONNECTIONS))
        self._label: list[bytes | None] = [None] * CONNECTIONS
        self._noise = rng.normal(scale=0.1, size=512)
        self._decode = msgspec.json.Decoder(_Answer).decode
        self.client = Client(port, CONNECTIONS, self._next, self._answered)
        self.answers: dict[int, int] = {}
        """By version."""
        self.refused: dict[int, int] = {}
        self.met: float | None = None
        """When the challenger first answered."""
        self.wrong = 0
        """Answers that neither version gives."""

    def _next(self, connection: int) -> bytes:
        label, self._label[connection] = self._label[connection], None
        return label or self._posts[self._at[connection] % len(self._posts)]

    def _answered(self, connection: int, status: int, text: bytes) -> None:
        if status == 202:
            return
        if status != 200:
            self.refused[status] = self.refused.get(status, 0) + 1
            return
        answer = self._decode(text)
        right = float(self._sums[self._at[connection] % len(self._posts)])
        self.answers[answer.model_version] = self.answers.get(answer.model_version, 0) + 1
        if answer.model_version > 1 and self.met is None:
            self.met = time.time()
        off = 9.0 if answer.prediction is None else answer.prediction - right
        self.wrong += min(abs(off), abs(off - 1.0) if answer.model_version > 1 else 9.0) > 0.2
        if connection % LABELLED == 0:
            noise = self._noise[self._at[connection] % len(self._posts)]
            body = {"request_id": answer.request_id, "label": right + float(noise)}
            self._label[connection] = post(f"/v1/models/{MODEL}/feedback", msgspec.json.encode(body))
        self._at[connection] += CONNECTIONS


def run(context: Context, folder: Path) -> Result:
    """The second part needs wrk; without it its rows are left out."""
    versions = _register(folder / "canaries")
    rows: list[Row] = []
    data: dict[str, Any] = {}
    with everloop_server(folder, "--data-dir", str(folder / "canaries"), "--trust-pickle") as server:
        server.wait()
        for kind in KINDS:
            rows += _back(context, server, kind, versions[kind], data)
        try:
            need_wrk()
            rows += _p99(context, server, versions, folder, data)
        except Skip as why:
            rows.append(skipped("bad_canaries", str(why)))
    return Result(rows, data)


def _register(data: Path) -> dict[str, int]:
    """A champion that has learned the sum, and a version of each kind. Returns kind -> version."""
    import cloudpickle
    import numpy as np

    rng = np.random.default_rng(3)
    X = rng.normal(size=(500, WIDTH))
    with Continuum(data_dir=data, trust_pickle=True) as engine:
        engine.register_model(MODEL, "linear", learning={"auto_swap": False, "interval_sec": 1e6})
        engine.add_training_examples(MODEL, X.tolist(), (X.sum(axis=1) + rng.normal(scale=0.01, size=500)).tolist())
        engine.train_model(MODEL)
        registry = engine.engine.services.registry
        good = registry.version(MODEL, 1).manifest
        odd = msgspec.structs.replace(good, runtime="sklearn", lineage={}, metrics={})
        return {
            kind: registry.add_version(MODEL, odd, cloudpickle.dumps(Bad(kind)), live=False).version for kind in KINDS
        }


# -- back by itself --


def _back(context: Context, server: Server, kind: str, version: int, data: dict[str, Any]) -> list[Row]:
    seconds: list[float] = []
    met: list[float] = []
    needed: list[float] = []
    reasons: list[str] = []
    asked = refused = errors = wrong = 0
    rounds = context.rounds(3, 1)
    for number in range(rounds):
        context.say(f"bad canaries: one that {_told(kind)}, {number + 1} of {rounds}")
        asking = Asking(server.port, seed=number)
        ended: dict[str, Any] = {}
        watcher = threading.Thread(target=_watch, args=(server, version, asking, ended))
        watcher.start()
        asking.client.run()
        watcher.join()
        if "error" in ended:
            raise RuntimeError(ended["error"])
        seconds.append(ended["ended_at"] - ended["started_at"])
        needed.append(ended["requests"])
        if asking.met is not None:
            met.append(max(0.0, ended["ended_at"] - asking.met))
        reasons.append(f"{ended['state']}: {ended['reason']}")
        asked += sum(asking.answers.values())
        refused += sum(asking.refused.values())
        errors += asking.client.socket_errors
        wrong += asking.wrong
    back = all(reason.startswith("rolled_back") for reason in reasons)
    data[kind] = {"seconds": seconds, "met": met, "requests": needed, "reasons": reasons}
    what = f"a canary that {_told(kind)}, under {CONNECTIONS} connections"
    measured = f"after {spread(needed)} of its requests, {spread(seconds, ' s')} after the rollout's start"
    if met:
        measured += f", {spread(met, ' s')} after its first answer"
    clean = not refused and not errors and not wrong
    told = f"{refused} non-2xx, {errors} socket errors, {wrong} wrong of {asked:,} answers"
    return [
        counted("bad_canaries", what, "rolled back by itself", measured, passed=back, detail=reasons[-1]),
        counted("bad_canaries", f"{what}: what its clients saw", "200 and an answer", told, passed=clean),
    ]


def _watch(server: Server, version: int, asking: Asking, ended: dict[str, Any]) -> None:
    """Start it, and stop the load when it has ended."""
    try:
        time.sleep(0.5)
        # One step that does not end by itself: only evidence ends it.
        _start(server, version, steps=[SHARE], seconds=3600.0)
        until = time.monotonic() + PATIENCE
        while True:
            found = _rollout(server)
            if found["state"] != "running" or time.monotonic() > until:
                break
            time.sleep(0.02)
        ended.update({name: found[name] for name in ("state", "reason", "started_at")})
        ended["ended_at"] = found["ended_at"] or time.time()
        ended["requests"] = found["evidence"]["challenger"]["requests"]
        if found["state"] == "running":
            _act(server, "stop")
        time.sleep(0.5)
    except Exception as error:
        ended["error"] = f"{type(error).__name__}: {error}"
    finally:
        asking.client.stop()


# -- the champion's clients --


def _p99(context: Context, server: Server, versions: dict[str, int], folder: Path, data: dict[str, Any]) -> list[Row]:
    alone: dict[str, list[WrkRun]] = {kind: [] for kind in KINDS}
    beside: dict[str, list[WrkRun]] = {kind: [] for kind in KINDS}
    rounds = context.rounds(7, 2)
    _load(server, context, folder)
    for number in range(rounds):
        for kind in KINDS:
            context.say(f"bad canaries: the champion's clients beside one that {_told(kind)}, {number + 1} of {rounds}")
            alone[kind].append(_load(server, context, folder))
            _start(server, versions[kind], steps=[SHARE], seconds=3600.0, gates=_OFF)
            _until_open(server)
            beside[kind].append(_load(server, context, folder))
            _act(server, "stop")
    rows: list[Row] = []
    for kind in KINDS:
        ratio = ratio_in_turns([run.p99 for run in beside[kind]], [run.p99 for run in alone[kind]])
        failed = sum(run.refused + run.socket_errors for run in alone[kind] + beside[kind])
        detail = ", ".join(
            f"{name} {spread([run.p99 * 1e3 for run in runs], ' ms')}, {spread([run.per_second for run in runs], ' /s')}"
            for name, runs in (("without", alone[kind]), ("with", beside[kind]))
        )
        what = f"p99 of the champion's clients beside a canary that {_told(kind)}, of without one"
        rows.append(
            against("bad_canaries", what, ratio, "at most", 1.2, detail=f"{detail}; {failed} failed", ok=failed == 0)
        )
        data.setdefault(kind, {})["p99"] = ratio
    return rows


def _load(server: Server, context: Context, folder: Path) -> WrkRun:
    """The champion's clients, while some ask the challenger; what the former saw."""
    theirs: list[WrkRun] = []
    seconds = context.seconds(3, 1)

    def ask(unit: str, connections: int, name: str) -> WrkRun:
        own = folder / name
        own.mkdir(exist_ok=True)
        body = msgspec.json.encode({"features": [1.0] * WIDTH, "unit": unit})
        return wrk(server.port, PATH, body, connections=connections, seconds=seconds, folder=own)

    other = threading.Thread(
        target=lambda: theirs.append(ask(_unit(challenger=True), CHALLENGER_CONNECTIONS, "challenger"))
    )
    other.start()
    found = ask(_unit(challenger=False), CHAMPION_CONNECTIONS, "champion")
    other.join()
    refused = sum(run.refused + run.socket_errors for run in theirs)
    return msgspec.structs.replace(found, refused=found.refused + refused)


def _unit(*, challenger: bool) -> str:
    """A unit that a canary of `SHARE` begins with, or one that it never reaches: the newest version has the first buckets."""
    edge = SHARE * BUCKETS
    units = (f"user-{number}" for number in range(10_000))
    return next(unit for unit in units if (bucket_of(MODEL, unit) < edge) == challenger)


def _until_open(server: Server) -> None:
    """Asking it until it has been asked. Raises RuntimeError."""
    body = {"features": [1.0] * WIDTH, "unit": _unit(challenger=True)}
    until = time.monotonic() + PATIENCE
    while not _rollout(server)["evidence"]["challenger"]["requests"]:
        server.call("POST", PATH, body)
        if time.monotonic() > until:
            raise RuntimeError(f"the challenger was not open after {PATIENCE:.0f} s: {_rollout(server)['reason']}")
        time.sleep(0.02)


def _start(server: Server, version: int, **plan: Any) -> None:
    status, text = server.call("POST", f"/v1/models/{MODEL}/rollout", {"version": version, **plan})
    if status not in {200, 201}:
        raise RuntimeError(f"the rollout could not be started: {status} {text.decode()[:300]}")


def _act(server: Server, action: str) -> None:
    status, text = server.call("POST", f"/v1/models/{MODEL}/rollout/{action}", {})
    if status != 200:
        raise RuntimeError(f"the rollout could not be changed: {status} {text.decode()[:300]}")


def _rollout(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(server.call("GET", f"/v1/models/{MODEL}/rollout")[1])
    return found


def _told(kind: str) -> str:
    return {
        "raises": "raises on half of the rows",
        "nan": "answers NaN",
        "slow": f"takes {SLOW_SECONDS * 1e3:.0f} ms",
        "burns": f"computes for {SLOW_SECONDS * 1e3:.0f} ms in Python",
        "wrong": "answers wrongly",
    }[kind]
