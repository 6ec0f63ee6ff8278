"""What opening an artifact costs where nothing is loaded yet: seconds, and memory of the process, in a process of its own.

The process reads one msgpack `Asked` from stdin and writes one `Cost` to stdout. It finds modules where this one does: files of the current
folder hide nothing that is installed. What the library of a runtime takes counts: a server that holds nothing else pays for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import msgspec

from everloop.core.errors import explain
from everloop.core.types import Row
from everloop.parallel.executors.handle import search_path
from everloop.runtime.artifact import Trust, load_session
from everloop.stores.ports import Manifest

SECONDS = 120.0
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from everloop.optimization.opening import main; main()"
)


class Asked(msgspec.Struct):
    manifest: Manifest
    payload: bytes
    rows: list[Row]
    """Asked one by one, as warming up does."""
    trust: Trust


class Cost(msgspec.Struct, frozen=True):
    load_seconds: float
    """Importing its library included."""
    first_seconds: float
    """The first answer to one row."""
    memory_bytes: int
    """That the process has grown by, once it has answered; of no other process."""
    error: str = ""


def measure_opening(
    manifest: Manifest, payload: bytes, rows: list[Row], *, trust: Trust, seconds: float = SECONDS
) -> Cost:
    """In a process of its own, which is ended after `seconds`. `error` tells why there is nothing to tell."""
    asked = Asked(manifest, payload, rows, trust)
    try:
        done = subprocess.run(  # noqa: S603 - our own program, no shell
            [sys.executable, "-P", "-c", _BOOT, json.dumps(search_path())],
            input=msgspec.msgpack.encode(asked),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Cost(0.0, 0.0, 0, f"it was not open after {seconds:g} s")
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return Cost(0.0, 0.0, 0, words[-1] if words else f"its process ended with code {done.returncode}")
    return msgspec.msgpack.decode(done.stdout, type=Cost)


def answer(asked: Asked) -> Cost:
    import numpy as np  # noqa: F401  every server has it: not the model's cost
    import psutil

    from everloop.optimization.asking import one_row

    process = psutil.Process()
    before = process.memory_info().rss
    begun = time.perf_counter()
    session = load_session(asked.manifest, asked.payload, trust=asked.trust)
    loaded = time.perf_counter()
    first = 0.0
    for row in asked.rows:
        one_row(session, row)(row)
        first = first or time.perf_counter() - loaded
    grown = process.memory_info().rss - before
    session.close()
    return Cost(loaded - begun, first, max(grown, 0))


def main() -> None:
    with os.fdopen(os.dup(1), "wb") as told:
        os.dup2(2, 1)  # what the model prints is no answer
        asked = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Asked)
        try:
            cost = answer(asked)
        except Exception as error:  # whatever a model raises: told, and dropped for it
            cost = Cost(0.0, 0.0, 0, explain(error))
        told.write(msgspec.msgpack.encode(cost))
