"""The part of a journal that is the same wherever its writer writes: what is queued, and who waits for it.

`append` costs its caller the packing of the row and a place in the queue; the acknowledgement comes from the writer after
the database has it. Reads go past the writer and see what is committed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from everloop.core.clock import Clock
from everloop.core.errors import EverloopError
from everloop.core.events import Event
from everloop.core.types import Example, Label, PredictionRecord
from everloop.stores.group import QueuedAppend, QueuedEvent, QueuedRecord
from everloop.stores.ports import AppendDone, Appended, Checkpoint, JournalStats
from everloop.stores.writer import Writer

C = TypeVar("C")


class Reader(Protocol):
    """Reads what is committed, beside the writer. Raises StoreUnavailable, Closed."""

    def examples(self, model: str, *, after: int, limit: int, latest: bool) -> list[Example]: ...

    def count_examples(self, model: str, *, after: int) -> int: ...

    def tally(self, what: str, model: str = "") -> int: ...

    def bytes(self) -> int: ...

    def predictions(
        self, model: str, *, after: int, limit: int, latest: bool
    ) -> list[tuple[int, PredictionRecord]]: ...

    def events(self, model: str | None, *, after: int, limit: int, latest: bool) -> list[Event]: ...

    def checkpoint(self, model: str) -> Checkpoint | None: ...

    def close(self) -> None: ...


class WrittenJournal(Generic[C]):
    """The `Journal` port, but for checkpoints, leases and retention."""

    def __init__(self, clock: Clock, writer: Writer[C], reader: Reader) -> None:
        self._clock = clock
        self._writer = writer
        self._reader = reader

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

    def load_checkpoint(self, model: str) -> Checkpoint | None:
        return self._reader.checkpoint(model)

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
        self._reader.close()


def _nothing(connection: Any) -> None:
    """What a flush waits for."""
