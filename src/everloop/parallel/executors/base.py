"""The port: what every executor does. `tests/contracts/test_executors.py` holds all of them to it.

An executor is opened for one function and used by one thread, the caller's. Nothing runs behind the caller's back except its workers:
`collect` is where results are waited for, so a consumer that reads no further lets the whole run stand still.
"""

from __future__ import annotations

from typing import Protocol

from everloop.parallel.work import Chunk, Done, ExecutorKind


class Executor(Protocol):
    kind: ExecutorKind
    workers: int

    @property
    def room(self) -> int:
        """How many more chunks can be submitted usefully now (running ones and a short queue for each worker); may be 0."""

    @property
    def running(self) -> int:
        """Chunks submitted and not yet collected."""

    def submit(self, chunk: Chunk) -> None:
        """Never blocks. Raises NotPicklable, before anything is sent, for items that cannot travel; everything else comes back by
        `collect`, in any order."""

    def collect(self, timeout: float | None = None) -> list[Done]:
        """Wait until at least one chunk is back or lost; [] after `timeout` seconds, and at once where nothing is running.

        An item's exception is itself, or one like it with the worker's traceback as its cause; notes that name the item are the
        engine's to add. Raises NotPicklable where no worker can load the function, WorkerDied where workers die as they start."""

    def close(self, *, kill: bool = False) -> None:
        """Give the workers back to whom they belong, or end them. `kill`: end at once those that are running something. Idempotent;
        whatever was running is dropped."""
