"""The durable journal: SQLite, one writer thread, group commit. See `writer`, `group`, `reads` and `retention`.

`append` costs its caller the packing of the row and a place in the queue; the acknowledgement comes from the writer after
the disk has it. Reads go past the writer and see what is committed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from sqlite3 import Connection

from everloop.core.clock import Clock
from everloop.core.errors import EverloopError
from everloop.core.events import Event
from everloop.core.types import Example, Label, PredictionRecord
from everloop.stores.group import QueuedAppend, QueuedEvent, QueuedRecord
from everloop.stores.joining import storable
from everloop.stores.ports import AppendDone, Appended, Checkpoint, JournalStats
from everloop.stores.sqlite.file import prepare
from everloop.stores.sqlite.group import SqliteBackend
from everloop.stores.sqlite.owners import Owners
from everloop.stores.sqlite.reads import Reader
from everloop.stores.sqlite.retention import forget_model, prune_age, prune_bytes
from everloop.stores.writer import Writer


class SqliteJournal:
    """The `Journal` port in a file."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        queue_size: int = 100_000,
        record_bytes: int = 64 << 20,
        commit_interval: float = 0.0,
        busy_timeout: float = 5.0,
    ) -> None:
        """`queue_size` bounds the labels that wait to be written, `record_bytes` the predictions. `commit_interval`: seconds
        to wait for more before each commit, trading latency for fewer flushes. `busy_timeout`: seconds to wait for
        another process that writes. Raises StoreUnavailable for a file that is foreign, damaged or from the future."""
        path = Path(path)
        prepare(path, busy_timeout=busy_timeout)
        self._clock = clock
        self._owners = Owners(path.parent / "owners")
        self._reader = Reader(path, busy_timeout=busy_timeout)
        self._writer = Writer(
            SqliteBackend(path, busy_timeout=busy_timeout),
            clock=clock,
            queue_size=queue_size,
            record_bytes=record_bytes,
            commit_interval=commit_interval,
        )

    def record(self, record: PredictionRecord) -> bool:
        return self._writer.put_record(QueuedRecord.of(record))

    def append(self, labels: Sequence[Label], done: AppendDone, *, idempotency_key: str = "", body: str = "") -> None:
        self._writer.put_append(QueuedAppend.of(labels, done, key=idempotency_key, body=body, at=self._clock.now()))

    def append_now(self, labels: Sequence[Label], *, idempotency_key: str = "", body: str = "") -> Appended:
        """Not to be called from a `done`: that runs on the thread this would wait for."""
        told: list[Appended | EverloopError] = []
        waiting = threading.Lock()  # an Event costs four times as much
        waiting.acquire()

        def done(outcome: Appended | EverloopError) -> None:
            told.append(outcome)
            waiting.release()

        self.append(labels, done, idempotency_key=idempotency_key, body=body)
        waiting.acquire()
        outcome = told[0]
        if isinstance(outcome, EverloopError):
            raise outcome
        return outcome

    def log(self, event: Event) -> None:
        self._writer.put_event(QueuedEvent.of(event))

    def flush(self) -> None:
        self._writer.run(_nothing)

    def examples(self, model: str, *, after: int = 0, limit: int = 1000, latest: bool = False) -> list[Example]:
        return self._reader.examples(model, after=after, limit=limit, latest=latest)

    def count_examples(self, model: str, *, after: int = 0) -> int:
        return self._reader.count_examples(model, after=after)

    def examples_total(self, model: str) -> int:
        return self._reader.tally("acknowledged", model)

    def predictions(
        self, model: str, *, after: int = 0, limit: int = 1000, latest: bool = False
    ) -> list[tuple[int, PredictionRecord]]:
        return self._reader.predictions(model, after=after, limit=limit, latest=latest)

    def events(
        self, *, model: str | None = None, after: int = 0, limit: int = 100, latest: bool = False
    ) -> list[Event]:
        return self._reader.events(model, after=after, limit=limit, latest=latest)

    def save_checkpoint(self, model: str, checkpoint: Checkpoint) -> None:
        values = (storable(model, "model"), checkpoint.cursor, checkpoint.at, checkpoint.state)
        self._writer.run(
            lambda c: c.execute(
                "INSERT OR REPLACE INTO checkpoints (model, cursor, at, state) VALUES (?, ?, ?, ?)", values
            )
        )

    def load_checkpoint(self, model: str) -> Checkpoint | None:
        return self._reader.checkpoint(model)

    def acquire_lease(self, name: str, owner: str, *, now: float, ttl: float) -> bool:
        def acquire(connection: Connection) -> bool:
            held = connection.execute("SELECT owner, until FROM leases WHERE name = ?", (name,)).fetchone()
            if held is not None and held[0] != owner and not self._owners.bury(connection, held[0]) and held[1] > now:
                return False
            self._owners.show(owner)
            connection.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (name, owner, now + ttl))
            return True

        return self._writer.run(acquire)

    def release_lease(self, name: str, owner: str) -> None:
        self._writer.run(lambda c: c.execute("DELETE FROM leases WHERE name = ? AND owner = ?", (name, owner)))

    def prune(self, *, now: float, max_age: float | None, max_bytes: int | None) -> int:
        gone = 0
        if max_age is not None:
            gone += prune_age(self._writer.run, horizon=now - max_age)
        if max_bytes is not None:
            gone += prune_bytes(self._writer.run, most=max_bytes)
        return gone

    def forget_model(self, model: str) -> None:
        forget_model(self._writer.run, model)

    def stats(self) -> JournalStats:
        return JournalStats(
            predictions=self._reader.tally("predictions"),
            examples=self._reader.tally("examples"),
            events=self._reader.tally("events"),
            dropped=self._writer.dropped,
            pending=self._writer.pending,
            bytes=self._reader.bytes(),
            failure="" if self._writer.failure is None else self._writer.failure.message,
        )

    def close(self) -> None:
        self._writer.close()
        self._owners.close()
        self._reader.close()


def _nothing(connection: Connection) -> None:
    """What a flush waits for."""
