"""The trial: a challenger is opened and run in a process of its own before it comes into this one.

A model is somebody's code: loading it may hang, and native code may end the whole process. What does so in its trial costs one process
that nobody waits for. It is shown recent rows, one at a time and all at once, as traffic would. Being slow or raising on a row is no
reason to refuse it: that is what the gates are for. A trial takes seconds, in which the champion answers and nobody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from everloop.core.errors import (
    ArtifactCorrupt,
    Closed,
    EverloopError,
    ItemFailed,
    ItemTimeout,
    ModelFailed,
    WorkerDied,
    explain,
)
from everloop.core.types import Row
from everloop.serving.worker import Worker
from everloop.stores.ports import Manifest, VersionRecord

if TYPE_CHECKING:
    from everloop.parallel.executors.calling import Caller
    from everloop.registry.catalog import Registry
    from everloop.runtime.artifact import Trust

SECONDS = 120.0
"""What starting the process, loading and running may take together: at low priority, on a machine that is busy serving."""


class Trial(Protocol):
    """Made on a thread of its own, one at a time."""

    def __call__(self, record: VersionRecord, rows: Sequence[Row]) -> None:
        """Raises ModelFailed (it crashed or hung), ArtifactCorrupt and what else opening raises."""

    def end(self) -> None:
        """From another thread: what is under way is ended, and later ones are at once. They raise Closed."""


class _Job(msgspec.Struct):
    manifest: Manifest
    payload: bytes
    rows: list[Row]
    pickle: bool
    types: tuple[str, ...]


class ProcessTrial:
    """The trial as it is meant to be."""

    def __init__(self, registry: Registry, trust: Trust, seconds: float = SECONDS) -> None:
        self._registry = registry
        self._trust = trust
        self._seconds = seconds
        self._lock = threading.Lock()
        self._caller: Caller | None = None
        self._ended = False

    def __call__(self, record: VersionRecord, rows: Sequence[Row]) -> None:
        from everloop.parallel.executors.calling import Caller

        trust = self._trust
        job = _Job(record.manifest, self._registry.payload(record), list(rows), trust.pickle, tuple(trust.types))
        with self._lock:
            if self._ended:
                raise Closed("no more trials")
            caller = self._caller = Caller(run_job, niceness=10)
        try:
            refused = caller.call(msgspec.msgpack.encode(job), self._seconds)
        except ItemTimeout as error:
            raise _failed(
                "timeout", f"it did not open within {self._seconds:g} s, in a trial before it gets traffic"
            ) from error
        except WorkerDied as error:
            if self._ended:
                raise Closed("the trial was ended") from error
            raise _failed("crash", f"it crashed in a trial before it gets traffic: {error.message}") from error
        except ItemFailed as error:
            raise ArtifactCorrupt(f"it could not be opened in a trial: {error.message}") from error
        finally:
            caller.close()
        if refused:
            raise ArtifactCorrupt(refused.decode())

    def end(self) -> None:
        with self._lock:
            self._ended = True
            if self._caller is not None:
                self._caller.kill()


class Trials:
    """Those that were made and are being made: nobody waits for one. Used by the reconciler's step."""

    def __init__(self, trial: Trial, on_done: Callable[[], None]) -> None:
        """`on_done` is called when one is over, on its thread."""
        self._trial = trial
        self._on_done = on_done
        self._worker = Worker("everloop-trial")
        self._made: dict[tuple[str, int, str], EverloopError | Literal["passed", "asked"]] = {}

    def passed(self, record: VersionRecord, rows: Sequence[Row]) -> bool:
        """False: not yet. Raises why it did not pass; asked again, it is tried again."""
        key = (record.model, record.version, record.digest)
        outcome = self._made.get(key)
        if outcome is None:
            self._made[key] = "asked"
            self._worker.submit(partial(self._make, key, record, rows))
            return False
        if isinstance(outcome, EverloopError):
            del self._made[key]
            raise outcome
        return outcome == "passed"

    def close(self) -> None:
        self._trial.end()
        self._worker.stop()

    def _make(self, key: tuple[str, int, str], record: VersionRecord, rows: Sequence[Row]) -> None:
        outcome: EverloopError | Literal["passed"] = "passed"
        try:
            self._trial(record, rows)
        except EverloopError as error:
            outcome = error
        except Exception as error:  # no process can be started, for instance
            outcome = EverloopError(explain(error))
        self._made[key] = outcome
        self._on_done()


def run_job(data: bytes) -> bytes:
    """In the process: msgpack of a `_Job` -> nothing, or why it cannot be opened."""
    from everloop.policy.batching import BatchRules
    from everloop.runtime.artifact import Trust, load_session
    from everloop.serving.runner import Runner

    job = msgspec.msgpack.decode(data, type=_Job)
    try:
        session = load_session(job.manifest, job.payload, trust=Trust(pickle=job.pickle, types=job.types))
    except EverloopError as error:
        return error.message.encode()
    runner = Runner(session, "trial", 0, BatchRules())
    for rows in (*([row] for row in job.rows), job.rows):
        if rows:
            _run(runner, rows)
    return b""


def _run(runner: object, rows: list[Row]) -> None:
    from everloop.serving.runner import Runner

    assert isinstance(runner, Runner)
    try:
        runner.run(runner.matrix(rows))
    except (EverloopError, ValueError, TypeError):
        return  # on these rows it raises: the gates will see that


def _failed(how: str, message: str) -> ModelFailed:
    error = ModelFailed(message)
    error.how = "timeout" if how == "timeout" else "crash"
    return error
