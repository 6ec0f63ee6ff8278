"""How many labels a second the server acknowledges, each of them durable: with features, and by request id."""

from __future__ import annotations

import random
import time
from pathlib import Path

import msgspec

from everloop.app.bench.load import Client, Next, post
from everloop.app.bench.processes import Server, everloop_server
from everloop.app.bench.rows import Context, Result, Row, against

CONNECTIONS = 64
MODEL = "slope"
PREDICT, FEEDBACK = f"/v1/models/{MODEL}/predict", f"/v1/models/{MODEL}/feedback"


class Tally:
    """What became of a load's requests."""

    def __init__(self) -> None:
        self.accepted = 0
        self.refused: dict[int, int] = {}
        self.bodies: list[bytes] = []

    def answered(self, _connection: int, status: int, body: bytes) -> None:
        if status in (200, 202):
            self.accepted += 1
            self.bodies.append(body)
        else:
            self.refused[status] = self.refused.get(status, 0) + 1

    def __str__(self) -> str:
        refused = ", ".join(f"{count:,} × {status}" for status, count in sorted(self.refused.items()))
        return f"{self.accepted:,} accepted, refused: {refused or 'none'}"


def learning_model(server: Server) -> None:
    """A linear model on the server, with its first version live."""
    spec = {"name": MODEL, "kind": "linear"}
    status, text = server.call("POST", "/v1/models", spec)
    if status not in (200, 201):
        raise RuntimeError(f"the model was not registered: {status} {text.decode()}")
    rng = random.Random(1)
    examples = [{"features": [x], "label": 3 * x + 1} for x in (rng.uniform(0, 10) for _ in range(300))]
    status, text = server.call("POST", FEEDBACK, {"examples": examples})
    if status != 202:
        raise RuntimeError(f"the first examples were refused: {status} {text.decode()}")
    until = time.monotonic() + 30
    while server.call("POST", PREDICT, {"features": [1.0]})[0] != 200:
        if time.monotonic() > until:
            raise RuntimeError("the model was not trained in 30 s")
        time.sleep(0.02)


def run(context: Context, folder: Path) -> Result:
    seconds = context.seconds(8, 2)
    with everloop_server(folder, "--data-dir", str(folder / "labels")) as server:
        server.wait()
        learning_model(server)
        rows = [_with_features(context, server, seconds), _by_request_id(context, server, seconds)]
    return Result(rows, {row.what: row.ratio for row in rows})


def _with_features(context: Context, server: Server, seconds: float) -> Row:
    context.say("labels with their features")
    rng = random.Random(2)

    def one(_connection: int) -> bytes:
        x = rng.uniform(0, 10)
        return post(FEEDBACK, b'{"features":[%.6f],"label":%.6f}' % (x, 3 * x + 1))

    return _rate("labels with features acknowledged", server, one, seconds)


def _by_request_id(context: Context, server: Server, seconds: float) -> Row:
    """Predictions first, their ids kept; then a label for each."""
    goal = int(seconds * 12_000)
    context.say(f"labels by request id: {goal:,} predictions first")
    tally, asked = Tally(), 0

    def ask(_connection: int) -> bytes | None:
        nonlocal asked
        asked += 1
        return post(PREDICT, b'{"features":[%d.5]}' % (asked % 10)) if asked <= goal else None

    Client(server.port, CONNECTIONS, ask, tally.answered).run()
    decoder = msgspec.json.Decoder(dict[str, object])
    ids = [str(decoder.decode(body)["request_id"]) for body in tally.bodies]
    labels = iter(ids)
    context.say("labels by request id")

    def label(_connection: int) -> bytes | None:
        try:
            return post(FEEDBACK, b'{"request_id":"%s","label":2.5}' % next(labels).encode())
        except StopIteration:
            return None

    return _rate("labels by request id acknowledged", server, label, seconds)


def _rate(what: str, server: Server, next_request: Next, seconds: float) -> Row:
    tally = Tally()
    client = Client(server.port, CONNECTIONS, next_request, tally.answered)
    began = time.perf_counter()
    client.run(seconds)
    rate = tally.accepted / (time.perf_counter() - began)
    return against(
        "labels",
        f"{what}, {CONNECTIONS} connections",
        rate,
        "at least",
        5000,
        "/s",
        detail=f"{tally}, {client.socket_errors} socket errors",
        ok=client.socket_errors == 0,
    )
