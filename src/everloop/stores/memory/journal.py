"""The in-memory journal: what an engine without a data folder remembers, bounded, and gone with the process.

One lock, no thread: an append does its work on the caller's thread and calls `done` before it returns. Bounded by rows and
bytes: the oldest predictions go first, and examples that their learner has taken; an unlearned example never goes.

Forgetting an example forgets its prediction, too, and all older ones: otherwise the same label could come again and count
twice.
"""

from __future__ import annotations

import heapq
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from operator import attrgetter

import msgspec

from everloop.core.clock import Clock
from everloop.core.errors import Closed, EverloopError
from everloop.core.events import Event
from everloop.core.schema import Encoding
from everloop.core.types import Example, Label, PredictionRecord, Scalar, request_id
from everloop.stores.joining import (
    Address,
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
    unpack_row,
)
from everloop.stores.memory.records import OVERHEAD, Records, record_bytes
from everloop.stores.ports import AppendDone, Appended, Checkpoint, JournalStats


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """One example, its row packed: a list of 30 floats would take four times the memory."""

    id: int
    label: Scalar
    at: float
    address: Address | None
    encoding: Encoding
    data: bytes
    prediction: Scalar | None
    version: int | None
    validation: bool
    record_id: int
    """The journal id of the prediction it was joined with; 0 if it brought its own row."""


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
        self._examples: dict[str, list[_Kept]] = {}
        self._examples_held = 0
        self._examples_bytes = 0
        self._examples_check = max_examples
        self._bytes_check = max_bytes
        self._totals: dict[str, int] = {}
        self._labelled: dict[Address, _Kept] = {}
        self._keys: dict[tuple[str, str], _Key] = {}
        self._events: deque[Event] = deque(maxlen=max_events)
        self._checkpoints: dict[str, Checkpoint] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._last_example = 0
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
            before = self._last_example
            outcomes = [self._add(label, row) for label, row in zip(labels, rows, strict=True)]
            accepted = any(isinstance(outcome, int) for outcome in outcomes)
            if idempotency_key and accepted:
                self._keys[key] = _Key(body, outcomes, self._clock.now())
                while len(self._keys) > self._max_keys:
                    del self._keys[next(iter(self._keys))]
            if self._examples_held > self._examples_check or self._examples_bytes > self._bytes_check:
                self._trim_examples()
            there = accepted and self._last_example == before and all(isinstance(o, int) for o in outcomes)
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
            kept = self._examples.get(model, [])
            start = bisect_right(kept, after, key=attrgetter("id"))
            if latest:
                start = max(start, len(kept) - max(limit, 0))
            chosen = kept[start : start + max(limit, 0)]
        return [_example(model, k) for k in chosen]

    def count_examples(self, model: str, *, after: int = 0) -> int:
        with self._lock:
            kept = self._examples.get(model, [])
            return len(kept) - bisect_right(kept, after, key=attrgetter("id"))

    def examples_total(self, model: str) -> int:
        return self._totals.get(model, 0)

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
            for kept in self._examples.pop(model, ()):
                self._uncount(kept)
            self._totals.pop(model, None)
            self._checkpoints.pop(model, None)
            for key in [key for key in self._keys if key[0] == model]:
                del self._keys[key]

    def stats(self) -> JournalStats:
        with self._lock:
            return JournalStats(
                predictions=self._records.rows,
                examples=self._examples_held,
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
            return self._keep(label, None, packed)
        address = address_of(label)
        if address is None:
            return not_found(label)
        there = self._labelled.get(address)
        found = self._records.find(address[0], address[1])
        if there is not None:
            return there.id if there.label == label.label else conflicting(label, there.label)
        if found is None or found[1].model != label.model:
            return not_found(label)
        record_id, record = found
        if label.index >= record.rows:
            return no_such_row(label, record.rows)
        position = (address[1] - record.first) * record.rows + label.index
        data = packed_row(record.encoding, record.features, record.count * record.rows, position)
        return self._keep(
            label,
            address,
            (record.encoding, data),
            prediction=record.predictions[position],
            version=record.version,
            record_id=record_id,
        )

    def _keep(
        self,
        label: Label,
        address: Address | None,
        packed: tuple[Encoding, bytes],
        *,
        prediction: Scalar | None = None,
        version: int | None = None,
        record_id: int = 0,
    ) -> int:
        self._last_example += 1
        kept = _Kept(
            self._last_example,
            label.label,
            label.at,
            address,
            *packed,
            prediction,
            version,
            label.validation,
            record_id,
        )
        self._examples.setdefault(label.model, []).append(kept)
        self._totals[label.model] = self._totals.get(label.model, 0) + 1
        if address is not None:
            self._labelled[address] = kept
        self._examples_held += 1
        self._examples_bytes += _example_bytes(kept)
        return kept.id

    def _bytes(self) -> int:
        return self._records.bytes + self._examples_bytes

    def _learned(self) -> Iterator[_Kept]:
        """Examples that their model's checkpoint has passed, oldest first."""
        passed = [
            islice(kept, bisect_right(kept, self._checkpoints[model].cursor, key=attrgetter("id")))
            for model, kept in self._examples.items()
            if model in self._checkpoints
        ]
        return heapq.merge(*passed, key=attrgetter("id"))

    def _drop_examples(self, doomed: Sequence[_Kept]) -> int:
        """`doomed` are the oldest learned ones, so each model loses a prefix of its list."""
        if not doomed:
            return 0
        ids = {kept.id for kept in doomed}
        for kept in self._examples.values():
            del kept[: sum(1 for _ in takewhile(lambda one: one.id in ids, kept))]
        for one in doomed:
            self._uncount(one)
        newest = max(one.record_id for one in doomed)
        return len(doomed) + self._records.drop(list(takewhile(lambda i: i <= newest, self._records.by_id)))

    def _drop_oldest(self, excess: int) -> int:
        """Predictions and learned examples by the same measure of age, until `excess` bytes are free."""
        records = iter(self._records.by_id.items())
        learned = self._learned()
        record, example = next(records, None), next(learned, None)
        predictions: list[int] = []
        examples: list[_Kept] = []
        while excess > 0 and (record is not None or example is not None):
            if record is not None and (example is None or record[1].at <= example.at):
                predictions.append(record[0])
                excess -= record_bytes(record[1])
                record = next(records, None)
            elif example is not None:
                examples.append(example)
                excess -= _example_bytes(example)
                example = next(learned, None)
        return self._records.drop(predictions) + self._drop_examples(examples)

    def _uncount(self, kept: _Kept) -> None:
        self._examples_held -= 1
        self._examples_bytes -= _example_bytes(kept)
        if kept.address is not None:
            del self._labelled[kept.address]

    def _trim_examples(self) -> None:
        slack = self._max_examples // 100
        excess = self._examples_held - self._max_examples + slack
        spare = self._examples_bytes - self._max_bytes * 99 // 100
        doomed = []
        for kept in self._learned():
            if excess <= 0 and spare <= 0:
                break
            doomed.append(kept)
            excess -= 1
            spare -= _example_bytes(kept)
        self._drop_examples(doomed)
        # Where nothing could go (nothing is learned yet), looking again at every append would cost more than it frees.
        self._examples_check = max(self._max_examples, self._examples_held + slack)
        self._bytes_check = max(self._max_bytes, self._examples_bytes + self._max_bytes // 100)

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


def _example_bytes(kept: _Kept) -> int:
    return len(kept.data) + OVERHEAD


def _example(model: str, kept: _Kept) -> Example:
    return Example(
        id=kept.id,
        model=model,
        row=unpack_row(kept.encoding, kept.data),
        label=kept.label,
        at=kept.at,
        request_id=None if kept.address is None else request_id(kept.address[0], kept.address[1]),
        index=0 if kept.address is None else kept.address[2],
        prediction=kept.prediction,
        version=kept.version,
        validation=kept.validation,
    )
