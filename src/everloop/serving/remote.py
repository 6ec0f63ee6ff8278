"""A session in a process of its own: Python code of somebody's, for as long as its version is not the champion.

While such a model computes it holds the interpreter, and every thread of the server waits; a defect in its native code ends the process
that it runs in. So a version beside the champion whose runtime is Python code is opened once, by its trial (`trial`), in a process that
it keeps. The lane's thread waits for it in a system call. What it asks costs some 0.1 ms more than in this process; a batch pays once.

The process ends when the last call on the retired lane has, at once when a run takes too long (`guard`), and with the server, however that
ends. One that died is not started again: a crash is a guard, and there is nothing to be learned from the next.

What the way to the process costs is no property of the version: as the champion it goes none. On a busy machine it is several times what a
small model takes, and an equal version would be found slower. So the process tells how long the model itself took, and the rest of the
wait, the `detour`, is not weighed.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.errors import (
    ArtifactCorrupt,
    EverloopError,
    Failure,
    ItemFailed,
    ItemTimeout,
    ModelFailed,
    WorkerDied,
    explain,
)
from everloop.core.schema import Schema, Target
from everloop.core.types import Row
from everloop.runtime.artifact import Trust
from everloop.runtime.formats import PYTHON
from everloop.runtime.session import Matrix, Session
from everloop.serving.remote_process import (
    ANSWER,
    DONE,
    FAILED,
    REFUSED,
    RUN,
    SCORES,
    SECONDS,
    Opening,
    RemoteProcess,
    decode_failed,
    pack_array,
    unpack_array,
)
from everloop.serving.runner import failure
from everloop.serving.worker import Worker
from everloop.stores.ports import VersionRecord

if TYPE_CHECKING:
    from everloop.parallel.executors.calling import Caller
    from everloop.registry.catalog import Registry

RUNTIMES = PYTHON
"""Those whose answers are Python code. Our own arithmetic needs no guard, and ONNX Runtime lets the interpreter go while it computes."""
NICENESS = 5
"""A third of the weight of the server on a core that they share (sched(7)): one that burns leaves the champion its turn, and an equal one still
gets what a canary needs. At 10 it has a tenth, so clients of a canary of half of the traffic would wait on any busy machine. Whether it is
found slower does not depend on it: waiting for a core is not weighed."""
_NICENESS_APART = 10
"""Nobody waits for it but the learner."""
_SECONDS_APART = 60.0


class Waits(threading.local):
    detour = 0.0


class RemoteSession:
    """Safe from any thread; one call at a time."""

    def __init__(self, record: VersionRecord, trust: Trust, *, niceness: int = NICENESS) -> None:
        """Starts the process and returns at once. Raises OSError where no process can be started."""
        from everloop.parallel.executors.calling import Caller

        manifest = record.manifest
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = manifest.classes
        self.dtype: Any = np.float64 if manifest.schema.numeric else object
        self.seconds = math.inf
        """That a call may take, where no guard watches it: the process then ends."""
        self.error: ModelFailed | None = None
        """Why it answers no more."""
        self._record = record
        self._trust = trust
        self._lock = threading.Lock()
        """Held by who speaks with the process."""
        self._waits = Waits()
        self._caller: Caller = Caller(RemoteProcess(), niceness=niceness, blas_threads=_threads())

    @property
    def pid(self) -> int:
        return self._caller.pid

    def open(self, payload: bytes, rows: Sequence[Row], seconds: float) -> None:
        """Load the artifact there, and try it on `rows`. Raises ModelFailed (it crashed, or took more than `seconds`), ArtifactCorrupt."""
        opening = Opening(self._record.manifest, self._trust, os.getpid(), list(rows))
        with self._lock:
            self._call(msgspec.msgpack.encode(opening), seconds)
            reply = self._call(payload, seconds)
        if reply[:1] == REFUSED:
            raise ArtifactCorrupt(str(reply[1:], "utf-8", "replace"))

    def run(self, X: Matrix) -> Matrix:
        answers = self._ask(RUN, X)
        if answers is None:
            raise self._failed("it answered nothing", "shape")
        return answers

    def scores(self, X: Matrix) -> npt.NDArray[np.float64] | None:
        return self._ask(SCORES, X)

    def take_detour(self) -> float:
        """Seconds that calls of this thread have waited beyond what the model took, since it was last asked."""
        detour, self._waits.detour = self._waits.detour, 0.0
        return detour

    def kill(self) -> None:
        """At once, from any thread; whoever waits for an answer is told that it failed."""
        self._caller.kill()

    def close(self) -> None:
        """The process ends; nobody waits for that."""
        self.kill()
        ending = Worker("everloop-remote-end")
        ending.submit(self._end)
        ending.stop()

    def _end(self) -> None:
        with self._lock:
            self._caller.close()

    def _ask(self, kind: bytes, X: Matrix) -> Matrix | None:
        data = pack_array(X, kind)
        with self._lock:
            begun = perf_counter()
            reply = self._call(data, self.seconds)
            waited = perf_counter() - begun
            try:
                (seconds,) = SECONDS.unpack_from(reply)
                self._waits.detour += max(0.0, waited - max(0.0, seconds))
                kind, rest = reply[SECONDS.size : SECONDS.size + 1], memoryview(reply)[SECONDS.size + 1 :]
                if kind == ANSWER:
                    return unpack_array(rest)
                if kind == DONE and not rest:
                    return None
                failed = decode_failed(rest) if kind == FAILED else None
            except Exception as error:  # whatever can be wrong with bytes that somebody's code may have written
                raise self._lost("crash", f"its process answered what nobody can read: {explain(error)}") from error
            if failed is None:
                raise self._lost("crash", "its process answered what nobody can read")
        if not failed.told:
            raise self._failed(failed.message, "raised")
        raised = ModelFailed(failed.message)
        raised.how = failed.how if failed.how in {"not_finite", "shape"} else "raised"
        raise raised

    def _call(self, data: bytes, seconds: float) -> bytes:
        if self.error is not None:
            raise self._failed(self.error.message, self.error.how)
        try:
            return self._caller.call(data, seconds)
        except ItemTimeout as error:
            raise self._lost("timeout", f"it did not answer within {seconds:g} s") from error
        except WorkerDied as error:
            raise self._lost("crash", error.message) from error
        except ItemFailed as error:  # neither an answer nor an exception of an ordinary kind
            raise self._failed(error.message, "raised") from error
        except Exception as error:  # what came was no frame of ours
            raise self._lost("crash", f"its process wrote what nobody can read: {explain(error)}") from error

    def _lost(self, how: Failure, why: str) -> ModelFailed:
        self._caller.close()
        self.error = ModelFailed(why)
        self.error.how = how
        return self._failed(why, how)

    def _failed(self, what: str, how: Failure) -> ModelFailed:
        return failure(self._record.model, self._record.version, what, how)


def open_apart(record: VersionRecord, registry: Registry) -> Session:
    """For whoever asks a version that does not serve, apart from requests: in a process of its own where that is Python code. Takes
    seconds. Raises what opening raises; what it raises later is ModelFailed."""
    if record.manifest.runtime not in RUNTIMES:
        return registry.open_session(record)
    payload = registry.payload(record)
    session = RemoteSession(record, registry.trust, niceness=_NICENESS_APART)
    session.seconds = _SECONDS_APART
    try:
        session.open(payload, (), _SECONDS_APART)
    except EverloopError:
        session.close()
        raise
    return session


def _threads() -> int:
    """As many threads of linear algebra as a library takes by itself, and so as it will have in this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
