"""What happens in a shadow's own process: open the artifact, run it on what is shown, answer in plain numbers and words.

Whatever comes back is msgpack, never a pickle: who serves must not run what a shadow could have written. What its model prints goes
nowhere: to read it would be work for the process that serves.

The process steps back as far as it can: it is the nicest there is (`parallel.executors.worker`), the first that the system kills
where memory ends, may only take so much of it, and dies with the thread that started it.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import EverloopError, Failure, ModelFailed, explain
from everloop.core.schema import Encoding, unpack_rows
from everloop.parallel.executors.calling import starved
from everloop.policy.batching import BatchRules
from everloop.runtime.artifact import Trust, load_session
from everloop.serving import confinement
from everloop.serving.runner import Matrix, Runner
from everloop.stores.ports import Manifest

_LARGEST_ANSWER = 8 << 20
"""Bytes of all answers of one batch."""


class Opening(msgspec.Struct, tag="open"):
    """What to open. Its verified bytes are the next message, as they are: packing them would be a copy that the server waits for."""

    model: str
    version: int
    manifest: Manifest
    trust: Trust
    batch_rows: int
    memory_bytes: int
    parent: int


class Batch(msgspec.Struct, tag="run"):
    """Rows to be answered, packed as `core.schema.pack_rows` does."""

    encoding: Encoding
    features: bytes
    rows: int


class Ran(msgspec.Struct, tag="ran"):
    """What became of a batch. Of an `Opening`: none of its rows."""

    answers: list[Any]
    """One a row; None where it failed."""
    failures: list[tuple[int, Failure, str]]
    """Row, how, in which words."""
    seconds: float
    """In the model, without what it waited for a core."""
    cpu_seconds: float
    """Of processor time, since the process began."""


class Refused(msgspec.Struct, tag="refused"):
    """The artifact cannot be opened: the error's code and message."""

    code: str
    message: str


_decode = msgspec.msgpack.Decoder(Opening | Batch).decode
_encode = msgspec.msgpack.Encoder().encode


class ShadowProcess:
    """Made by the process that serves, used in the other one."""

    def __init__(self) -> None:
        self._opening: Opening | None = None
        self._runner: Runner | None = None

    def __call__(self, data: bytes) -> bytes:
        opening, self._opening = self._opening, None
        if opening is None:
            asked = _decode(data)
            if isinstance(asked, Batch):
                return self._run(asked)
            self._opening = asked
        else:
            try:
                self._open(opening, data)
            except EverloopError as error:
                return _encode(Refused(error.code, error.message))
            except Exception as error:
                return _encode(Refused(EverloopError.code, explain(error)))
        return _encode(Ran([], [], 0.0, time.process_time()))

    def _open(self, asked: Opening, payload: bytes) -> None:
        confinement.silence()
        confinement.die_with(asked.parent)
        confinement.go_first()
        session = load_session(asked.manifest, payload, trust=asked.trust)
        self._runner = Runner(session, asked.model, asked.version, BatchRules(max_rows=asked.batch_rows))
        confinement.limit_memory(asked.memory_bytes)

    def _run(self, batch: Batch) -> bytes:
        assert self._runner is not None
        waited, worked, begun = starved("thread-self"), time.thread_time(), time.perf_counter()
        answers, failures = _answer(self._runner, batch)
        passed, worked = time.perf_counter() - begun, time.thread_time() - worked
        seconds = max(worked, passed - (starved("thread-self") - waited))
        try:
            reply = _encode(Ran(answers, failures, seconds, time.process_time()))
            if len(reply) <= _LARGEST_ANSWER:
                return reply
            why = f"its answers to {batch.rows} rows take {len(reply):,} bytes"
        except (TypeError, ValueError, OverflowError) as error:
            why = f"it answered what is no label: {explain(error)}"
        return _encode(Ran([None] * batch.rows, _all(batch.rows, "shape", why), seconds, time.process_time()))


def _answer(runner: Runner, batch: Batch) -> tuple[list[Any], list[tuple[int, Failure, str]]]:
    """Runs a batch that fails by halves, until the rows that make it fail are found: only those have no answer."""
    answers: list[Any] = [None] * batch.rows
    failures: list[tuple[int, Failure, str]] = []
    try:
        X = _matrix(runner, batch)
    except (Exception, SystemExit) as error:
        return answers, _all(batch.rows, "raised", explain(error))

    def search(low: int, high: int) -> None:
        try:
            values = runner.run(X[low:high])
        except (Exception, SystemExit) as error:  # a model may well call sys.exit
            if high - low > 1:
                middle = (low + high) // 2
                search(low, middle)
                search(middle, high)
            else:
                failures.append((low, error.how if isinstance(error, ModelFailed) else "raised", explain(error)))
            return
        for row, value in enumerate(values, low):
            unsound = runner.unsound(value)
            if unsound is None:
                answers[row] = value
            else:
                failures.append((row, unsound.how, unsound.message))

    search(0, batch.rows)
    return answers, failures


def _all(rows: int, how: Failure, why: str) -> list[tuple[int, Failure, str]]:
    return [(row, how, why) for row in range(rows)]


def _matrix(runner: Runner, batch: Batch) -> Matrix:
    if batch.encoding != "msgpack" and np.dtype(runner.session.dtype).kind == "f":
        values = np.frombuffer(batch.features, "<" + batch.encoding).reshape(batch.rows, -1)
        return values.astype(runner.session.dtype)
    return runner.matrix(unpack_rows(batch.encoding, batch.features, batch.rows))
