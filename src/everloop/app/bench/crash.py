"""`kill -9` at a random instant, again and again, under feedback: every acknowledged label is in the journal, once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path

from everloop.app.bench.labels import FEEDBACK, MODEL
from everloop.app.bench.load import Client, post
from everloop.app.bench.processes import everloop_server
from everloop.app.bench.rows import Context, Result, counted
from everloop.core.clock import SystemClock

KILLS = 50
CONNECTIONS = 16
CATCH_UP_SECONDS = 60.0


def run(context: Context, folder: Path) -> Result:
    kills = KILLS if not context.quick else 3
    data = folder / "crash"
    rng = random.Random(5)
    acknowledged: set[int] = set()
    sent = 0
    sending = [0] * CONNECTIONS

    def one(connection: int) -> bytes:
        nonlocal sent
        sent += 1
        sending[connection] = sent
        return post(FEEDBACK, b'{"features":[%d],"label":%d}' % (sent % 97, sent))

    def answered(connection: int, status: int, _body: bytes) -> None:
        if status == 202:
            acknowledged.add(sending[connection])

    for kill in range(kills):
        context.say(f"kill -9, {kill + 1} of {kills}: {len(acknowledged):,} labels acknowledged so far")
        with everloop_server(folder, "--data-dir", str(data)) as server:
            server.wait()
            if kill == 0:
                # A learner that never lives a second falls behind; the bound on its backlog is not what is measured here.
                spec = {"name": MODEL, "kind": "linear", "learning": {"max_queue_size": 10_000_000}}
                server.call("POST", "/v1/models", spec)
            client = Client(server.port, CONNECTIONS, one, answered)
            assassin = threading.Timer(rng.uniform(0.05, 0.6), server.kill)
            assassin.start()
            client.run(30)
            assassin.join()
    found = _journal(data)
    labels, learned = _learned(folder, data)
    missing = len(acknowledged - found.keys())
    twice = sum(count > 1 for count in found.values())
    strange = len(found.keys() - set(range(1, sent + 1)))
    detail = f"{sent:,} sent, {len(acknowledged):,} acknowledged, {found.total():,} found; learned {learned:,}"
    row = counted(
        "crash",
        f"kill -9, {kills} times: acknowledged labels missing, or there twice; learned twice, or not",
        "0, 0; 0",
        f"{missing}, {twice}; {abs(learned - labels)}",
        passed=missing == twice == strange == 0 and learned == labels == found.total() and len(acknowledged) > 0,
        detail=detail,
    )
    return Result([row], {"sent": sent, "acknowledged": len(acknowledged)})


def _journal(data: Path) -> Counter[int]:
    """How often each label is in the journal."""
    from everloop.stores.sqlite import SqliteJournal

    journal = SqliteJournal(data / "everloop.db", clock=SystemClock())
    try:
        found: Counter[int] = Counter()
        after = 0
        while batch := journal.examples(MODEL, after=after, limit=10_000):
            found.update(int(example.label) for example in batch)
            after = batch[-1].id
        return found
    finally:
        journal.close()


def _learned(folder: Path, data: Path) -> tuple[int, int]:
    """What the server itself says when it is up again and has caught up: its labels, and how many of them it learned."""
    import msgspec

    with everloop_server(folder, "--data-dir", str(data)) as server:
        server.wait()
        until = time.monotonic() + CATCH_UP_SECONDS
        while True:
            status, text = server.call("GET", f"/v1/models/{MODEL}")
            if status != 200:
                raise RuntimeError(f"the server answers {status} after the last restart: {text.decode()}")
            told = msgspec.json.decode(text)
            learned = int(told["learner"]["examples_learned"])
            if learned >= told["labels"] or time.monotonic() > until:
                return int(told["labels"]), learned
            time.sleep(0.05)
