"""The trial: a challenger is opened and run in a process of its own before it comes into this one.

A model is somebody's code: loading it may hang, and native code may end the whole process. What does so in its trial costs one process
that nobody waits for. It is shown recent rows, one at a time and all at once, as traffic would. Being slow or raising on a row is no
reason to refuse it: that is what the gates are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from everloop.core.errors import ArtifactCorrupt, EverloopError, ItemFailed, ItemTimeout, ModelFailed, WorkerDied
from everloop.core.types import Row
from everloop.stores.ports import Manifest, VersionRecord

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry
    from everloop.runtime.artifact import Trust

SECONDS = 30.0
"""What starting the process, loading and running may take together."""

Trial = Callable[[VersionRecord, Sequence[Row]], None]
"""Raises ModelFailed (it crashed or hung), ArtifactCorrupt and what else opening raises."""


class _Job(msgspec.Struct):
    manifest: Manifest
    payload: bytes
    rows: list[Row]
    pickle: bool
    types: tuple[str, ...]


def in_a_process(registry: Registry, trust: Trust, seconds: float = SECONDS) -> Trial:
    """The trial as it is meant to be."""

    def trial(record: VersionRecord, rows: Sequence[Row]) -> None:
        from everloop.parallel.executors.calling import Caller

        job = _Job(record.manifest, registry.payload(record), list(rows), trust.pickle, tuple(trust.types))
        caller = Caller(run_job, niceness=10)
        try:
            refused = caller.call(msgspec.msgpack.encode(job), seconds)
        except ItemTimeout as error:
            raise _failed(
                "timeout", f"it did not open within {seconds:g} s, in a trial before it gets traffic"
            ) from error
        except WorkerDied as error:
            raise _failed("crash", f"it crashed in a trial before it gets traffic: {error.message}") from error
        except ItemFailed as error:
            raise ArtifactCorrupt(f"it could not be opened in a trial: {error.message}") from error
        finally:
            caller.close()
        if refused:
            raise ArtifactCorrupt(refused.decode())

    return trial


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
