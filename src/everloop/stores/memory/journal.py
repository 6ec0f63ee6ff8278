"""The in-memory journal: what an engine without a data folder remembers, bounded, and gone with the process.

One lock, no thread: an append does its work on the caller's thread and calls `done` before it returns. Bounded by rows and
bytes: the oldest predictions go first, and examples that their learner has taken; an unlearned example never goes.

Forgetting an example forgets its prediction, too, and all older ones: otherwise the same label could come again and count
twice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

import msgspec

from everloop.core.clock import Clock
from everloop.core.errors import Closed, EverloopError
from everloop.core.events import Event
from everloop.core.schema import Encoding
from everloop.core.types import Example, Label, PredictionRecord
from everloop.stores.joining import (
    address_of,
    check_label,
    check_record,
    conflicting,
    no_such_row,
    not_found,
    pack_row,
    packed_row,
    reused_key,
    storable,
)
from everloop.stores.memory.examples import Examples, Kept, as_example
from everloop.stores.memory.records import Records, record_bytes
from everloop.stores.ports import AppendDone, Appended, Checkpoint, JournalStats


class _Key(msgspec.Struct, frozen=True):
    body: str
    outcomes: list[int | EverloopError]
    at: float


class MemoryJournal:
    """The `Journal` port without a file."""

    def __init__(
        self,
        *,
        clock: Clock,
        max_predictions: int = 100_000,
        max_examples: int = 200_000,
        max_bytes: int = 64 << 20,
        max_events: int = 10_000,
        max_keys: int = 100_000,
    ) -> None:
        """`max_predictions` counts rows; `max_bytes` holds for predictions and for examples, each."""
        self._clock = clock
        self._max_predictions = max_predictions
        self._max_examples = max_examples
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._records = Records()
        self._examples = Examples()
        self._examples_check = max_examples
        self._bytes_check = max_bytes
        self._keys: dict[tuple[str, str], _Key] = {}
        self._events: deque[Event] = deque(maxlen=max_events)
        self._checkpoints: dict[str, Checkpoint] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._last_event = 0
        self._closed = False

    def record(self, record: PredictionRecord) -> bool:
        check_record(record)
        with self._lock:
            self._check_open()
            self._records.add(record)
            if self._records.rows > self._max_predictions or self._records.bytes > self._max_bytes:
                self._trim_predictions()
        return True

    def append(self, labels: Sequence[Label], done: AppendDone, *, idempotency_key: str = "", body: str = "") -> None:
        done(self.append_now(labels, idempotency_key=idempotency_key, body=body))

    def append_now(self, labels: Sequence[Label], *, idempotency_key: str = "", body: str = "") -> Appended:
        storable(idempotency_key, "Idempotency-Key")
        rows: list[tuple[Encoding, bytes] | None] = []
        for label in labels:
            check_label(label)
            rows.append(None if label.row is None else pack_row(label.row))
        with self._lock:
            self._check_open()
            if not labels:
                return Appended([])
            key = (labels[0].model, idempotency_key)
            if idempotency_key and (seen := self._keys.get(key)) is not None:
                if seen.body != body:
                    return Appended([reused_key(idempotency_key) for _ in labels])
                return Appended(list(seen.outcomes), duplicate=True)
            before = self._examples.last
            outcomes = [self._add(label, row) for label, row in zip(labels, rows, strict=True)]
            accepted = any(isinstance(outcome, int) for outcome in outcomes)
            if idempotency_key and accepted:
                self._keys[key] = _Key(body, outcomes, self._clock.now())
                while len(self._keys) > self._max_keys:
                    del self._keys[next(iter(self._keys))]
            if self._examples.held > self._examples_check or self._examples.bytes > self._bytes_check:
                self._trim_examples()
            there = accepted and self._examples.last == before and all(isinstance(o, int) for o in outcomes)
            return Appended(list(outcomes), duplicate=there)

    def log(self, event: Event) -> None:
        with self._lock:
            self._check_open()
            self._last_event += 1
            self._events.append(msgspec.structs.replace(event, id=self._last_event))

    def flush(self) -> None:
        """Nothing is ever queued."""

    def examples(self, model: str, *, after: int = 0, limit: int = 1000, latest: bool = False) -> list[Example]:
        with self._lock:
            chosen = self._examples.page(model, after=after, limit=max(limit, 0), latest=latest)
        return [as_example(model, kept) for kept in chosen]

    def count_examples(self, model: str, *, after: int = 0) -> int:
        with self._lock:
            return self._examples.count(model, after)

    def examples_total(self, model: str) -> int:
        return self._examples.total(model)

    def predictions(
        self, model: str, *, after: int = 0, limit: int = 1000, latest: bool = False
    ) -> list[tuple[int, PredictionRecord]]:
        limit = max(limit, 0)
        with self._lock:
            if latest:
                newest = takewhile(lambda entry: entry[0] > after, reversed(self._records.by_id.items()))
                return list(islice((e for e in newest if e[1].model == model), limit))[::-1]
            found = ((i, r) for i, r in self._records.by_id.items() if i > after and r.model == model)
            return list(islice(found, limit))

    def events(
        self, *, model: str | None = None, after: int = 0, limit: int = 100, latest: bool = False
    ) -> list[Event]:
        with self._lock:
            found = [e for e in self._events if e.id > after and (model is None or e.model == model)]
        limit = max(limit, 0)
        return found[max(0, len(found) - limit) :] if latest else found[:limit]

    def save_checkpoint(self, model: str, checkpoint: Checkpoint) -> None:
        with self._lock:
            self._check_open()
            self._checkpoints[model] = checkpoint

    def load_checkpoint(self, model: str) -> Checkpoint | None:
        return self._checkpoints.get(model)

    def acquire_lease(self, name: str, owner: str, *, now: float, ttl: float) -> bool:
        with self._lock:
            self._check_open()
            holder, until = self._leases.get(name, (owner, now))
            if holder != owner and until > now:
                return False
            self._leases[name] = (owner, now + ttl)
            return True

    def release_lease(self, name: str, owner: str) -> None:
        with self._lock:
            if name in self._leases and self._leases[name][0] == owner:
                del self._leases[name]

    def prune(self, *, now: float, max_age: float | None, max_bytes: int | None) -> int:
        with self._lock:
            self._check_open()
            gone = 0
            if max_age is not None:
                horizon = now - max_age
                old = takewhile(lambda entry: entry[1].at < horizon, self._records.by_id.items())
                gone += self._records.drop([record_id for record_id, _ in old])
                gone += self._drop_examples(list(takewhile(lambda kept: kept.at < horizon, self._learned())))
                for key in [key for key, _ in takewhile(lambda kept: kept[1].at < horizon, self._keys.items())]:
                    del self._keys[key]
                while self._events and self._events[0].at < horizon:
                    self._events.popleft()
                    gone += 1
            if max_bytes is not None:
                gone += self._drop_oldest(self._bytes() - max_bytes)
            return gone

    def forget_model(self, model: str) -> None:
        with self._lock:
            self._check_open()
            self._records.drop([i for i, r in self._records.by_id.items() if r.model == model])
            self._examples.forget(model)
            self._checkpoints.pop(model, None)
            for key in [key for key in self._keys if key[0] == model]:
                del self._keys[key]

    def stats(self) -> JournalStats:
        with self._lock:
            return JournalStats(
                predictions=self._records.rows,
                examples=self._examples.held,
                events=len(self._events),
                dropped=0,
                pending=0,
                bytes=self._bytes(),
            )

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the journal is closed")

    def _add(self, label: Label, packed: tuple[Encoding, bytes] | None) -> int | EverloopError:
        if packed is not None:
            return self._examples.add(label, None, packed)
        address = address_of(label)
        if address is None:
            return not_found(label)
        there = self._examples.labelled(address)
        found = self._records.find(address[0], address[1])
        if there is not None and there.model == label.model:  # what others were told of is nobody's to learn
            return there.id if there.label == label.label else conflicting(label, there.label)
        if there is not None or found is None or found[1].model != label.model:
            return not_found(label)
        record_id, record = found
        if label.index >= record.rows:
            return no_such_row(label, record.rows)
        position = (address[1] - record.first) * record.rows + label.index
        data = packed_row(record.encoding, record.features, record.count * record.rows, position)
        return self._examples.add(
            label,
            address,
            (record.encoding, data),
            prediction=record.predictions[position],
            version=record.version,
            record_id=record_id,
        )

    def _bytes(self) -> int:
        return self._records.bytes + self._examples.bytes

    def _learned(self) -> Iterator[Kept]:
        """Examples that their model's checkpoint has passed, oldest first."""
        return self._examples.learned(self._checkpoints)

    def _drop_examples(self, doomed: Sequence[Kept]) -> int:
        """`doomed` are the oldest learned ones; their predictions go with them, and all older ones."""
        if not doomed:
            return 0
        self._examples.drop(doomed)
        newest = max(one.record_id for one in doomed)
        return len(doomed) + self._records.drop(list(takewhile(lambda i: i <= newest, self._records.by_id)))

    def _drop_oldest(self, excess: int) -> int:
        """Predictions and learned examples by the same measure of age, until `excess` bytes are free."""
        records = iter(self._records.by_id.items())
        learned = self._learned()
        record, example = next(records, None), next(learned, None)
        predictions: list[int] = []
        examples: list[Kept] = []
        while excess > 0 and (record is not None or example is not None):
            if record is not None and (example is None or record[1].at <= example.at):
                predictions.append(record[0])
                excess -= record_bytes(record[1])
                record = next(records, None)
            elif example is not None:
                examples.append(example)
                excess -= example.size
                example = next(learned, None)
        return self._records.drop(predictions) + self._drop_examples(examples)

    def _trim_examples(self) -> None:
        slack = self._max_examples // 100
        excess = self._examples.held - self._max_examples + slack
        spare = self._examples.bytes - self._max_bytes * 99 // 100
        doomed = []
        for kept in self._learned():
            if excess <= 0 and spare <= 0:
                break
            doomed.append(kept)
            excess -= 1
            spare -= kept.size
        self._drop_examples(doomed)
        # Where nothing could go (nothing is learned yet), looking again at every append would cost more than it frees.
        self._examples_check = max(self._max_examples, self._examples.held + slack)
        self._bytes_check = max(self._max_bytes, self._examples.bytes + self._max_bytes // 100)

    def _trim_predictions(self) -> None:
        rows = self._records.rows - self._max_predictions * 99 // 100
        doomed = []
        for record_id, record in self._records.by_id.items():
            if rows <= 0:
                break
            doomed.append(record_id)
            rows -= record.count * record.rows
        self._records.drop(doomed)
        if self._records.bytes > self._max_bytes:
            self._drop_predictions_to(self._max_bytes * 99 // 100)

    def _drop_predictions_to(self, most: int) -> int:
        doomed = []
        left = self._records.bytes
        for record_id, record in self._records.by_id.items():
            if left <= most:
                break
            doomed.append(record_id)
            left -= record_bytes(record)
        return self._records.drop(doomed)
