"""The in-memory catalog: models, versions and rollouts of one process.

A change works on a copy of its model's shelf and puts it in place at the end, so a reader always has one state and never waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import msgspec

from everloop.core.errors import Closed, ModelNotFound
from everloop.core.events import Event
from everloop.policy.keys import KeyRecord
from everloop.policy.rollout import Rollout
from everloop.stores.joining import event_values
from everloop.stores.memory.journal import MemoryJournal
from everloop.stores.ports import ModelRecord, Report, VersionRecord
from everloop.stores.settling import (
    as_text,
    check_key,
    check_name,
    check_rollout,
    check_versions,
    name_taken,
    no_version,
)
from everloop.stores.shelving import ShelfCatalog


class _Numbers(msgspec.Struct, frozen=True):
    """The highest a name ever had; outlives the model, so that no number is ever used again."""

    version: int = 0
    rollout: int = 0


class _MemoryShelf:
    """The `Shelf` port over copies of dictionaries."""

    def __init__(self, model: ModelRecord, numbers: _Numbers, *, created: bool = False) -> None:
        self.created = created
        self.model = model
        self.history: list[int] = []
        self.numbers = numbers
        self.events: list[Event] = []
        self.changed = created
        self._versions: dict[int, VersionRecord] = {}
        self._rollouts: dict[int, Rollout] = {}

    def copy(self) -> _MemoryShelf:
        copy = _MemoryShelf(self.model, self.numbers)
        copy.history = list(self.history)
        copy._versions = dict(self._versions)
        copy._rollouts = dict(self._rollouts)
        return copy

    def put_model(self, record: ModelRecord, history: Sequence[int] | None = None) -> None:
        as_text(record)
        self.changed = True
        self.model = record
        if history is not None:
            self.history = list(history)

    def versions(self) -> list[VersionRecord]:
        return [self._versions[number] for number in sorted(self._versions)]

    def version(self, number: int) -> VersionRecord:
        try:
            return self._versions[number]
        except KeyError:
            raise no_version(self.model.name, number, sorted(self._versions)) from None

    def next_number(self) -> int:
        self.changed = True
        self.numbers = msgspec.structs.replace(self.numbers, version=self.numbers.version + 1)
        return self.numbers.version

    def put_version(self, record: VersionRecord) -> None:
        check_name(record, self._versions.values())
        as_text(record)
        self.changed = True
        self._versions[record.version] = record

    def delete_version(self, number: int) -> None:
        self.version(number)
        self.changed = True
        del self._versions[number]

    def rollout(self) -> Rollout | None:
        return self._rollouts[max(self._rollouts)] if self._rollouts else None

    def rollouts(self) -> list[Rollout]:
        return [self._rollouts[number] for number in sorted(self._rollouts)]

    def next_rollout(self) -> int:
        self.changed = True
        self.numbers = msgspec.structs.replace(self.numbers, rollout=self.numbers.rollout + 1)
        return self.numbers.rollout

    def put_rollout(self, rollout: Rollout) -> None:
        check_rollout(rollout, self.numbers.rollout)
        as_text(rollout)
        self.changed = True
        self._rollouts[rollout.id] = rollout

    def log(self, event: Event) -> None:
        self.events.append(event)


class MemoryCatalog(ShelfCatalog):
    """The `Catalog` port without a file."""

    def __init__(self, journal: MemoryJournal) -> None:
        """`journal` gets the events of changes."""
        super().__init__()
        self._journal = journal
        self._writing = threading.Lock()  # held for a whole change
        self._lock = threading.Lock()  # held while what is below is put in place
        self._shelves: dict[str, _MemoryShelf] = {}
        self._numbers: dict[str, _Numbers] = {}
        self._reports: dict[tuple[str, int], dict[str, Report]] = {}
        self._findings: dict[tuple[str, int], bytes] = {}
        self._keys: dict[str, KeyRecord] = {}
        self._key_uses: dict[str, float] = {}
        self._revision = 0
        self._closed = False

    @contextlib.contextmanager
    def change(self, name: str, new: ModelRecord | None = None) -> Iterator[_MemoryShelf]:
        with self._not_nested(), self._writing:
            self._check_open()
            if new is None or new.name in self._shelves:
                shelf = self._shelf(name).copy()
            else:
                as_text(new)
                shelf = _MemoryShelf(new, self._numbers.get(name, _Numbers()), created=True)
            yield shelf
            self._tell(shelf.events)
            with self._lock:
                self._shelves[name] = shelf
                self._numbers[name] = shelf.numbers
                self._revision += shelf.changed

    @contextlib.contextmanager
    def look(self, name: str) -> Iterator[_MemoryShelf]:
        yield self._shelf(name)

    def create_model(self, record: ModelRecord, event: Event | None = None) -> None:
        with self._not_nested(), self._writing:
            self._check_open()
            if record.name in self._shelves:
                raise name_taken(record.name)
            as_text(record)
            self._tell([event] if event else [])
            with self._lock:
                self._shelves[record.name] = _MemoryShelf(record, self._numbers.get(record.name, _Numbers()))
                self._revision += 1

    def delete_model(self, name: str, event: Event | None = None, *, versions: Sequence[int] | None = None) -> None:
        with self._not_nested(), self._writing:
            self._check_open()
            check_versions(name, (record.version for record in self._shelf(name).versions()), versions)
            self._tell([event] if event else [])
            with self._lock:
                del self._shelves[name]
                self._reports = {key: kept for key, kept in self._reports.items() if key[0] != name}
                self._findings = {key: kept for key, kept in self._findings.items() if key[0] != name}
                self._revision += 1

    def list_models(self) -> list[ModelRecord]:
        with self._lock:
            return [self._shelves[name].model for name in sorted(self._shelves)]

    def active_rollouts(self) -> list[Rollout]:
        with self._lock:
            return [r for name in sorted(self._shelves) for r in self._shelves[name].rollouts() if r.active]

    def put_report(self, model: str, rollout: int, report: Report) -> None:
        with self._lock:
            self._check_open()
            if self._find(model, rollout) is not None:
                self._reports.setdefault((model, rollout), {})[report.source] = report

    def reports(self, model: str, rollout: int) -> list[Report]:
        with self._lock:
            kept = self._reports.get((model, rollout), {})
            return [kept[source] for source in sorted(kept)]

    def put_findings(self, model: str, rollout: int, payload: bytes, *, step_revision: int) -> bool:
        with self._lock:
            self._check_open()
            found = self._find(model, rollout)
            if found is None or found.revision != step_revision:
                return False
            self._findings[model, rollout] = bytes(payload)
            return True

    def findings(self, model: str, rollout: int) -> bytes | None:
        with self._lock:
            return self._findings.get((model, rollout))

    def keys(self) -> list[KeyRecord]:
        with self._lock:
            return sorted(self._keys.values(), key=lambda record: (record.created_at, record.id))

    def put_keys(self, records: Sequence[KeyRecord]) -> None:
        with self._lock:
            self._check_open()
            for record in records:
                check_key(self._keys.get(record.id), record)
            self._keys.update({record.id: record for record in records})
            self._revision += 1

    def touch_keys(self, ids: Sequence[str], now: float) -> None:
        with self._lock:
            self._key_uses.update(dict.fromkeys(self._keys.keys() & set(ids), now))

    def key_uses(self) -> dict[str, float]:
        with self._lock:
            return dict(self._key_uses)

    def revision(self) -> int:
        return self._revision

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the catalog is closed")

    def _shelf(self, name: str) -> _MemoryShelf:
        with self._lock:
            try:
                return self._shelves[name]
            except KeyError:
                raise ModelNotFound.named(name, self._shelves) from None

    def _find(self, model: str, rollout: int) -> Rollout | None:
        shelf = self._shelves.get(model)
        return next((r for r in shelf.rollouts() if r.id == rollout), None) if shelf else None

    def _tell(self, events: Sequence[Event]) -> None:
        """Before anything is put in place: an event that cannot be kept, or a closed journal, refuses the whole change."""
        for event in events:
            event_values(event)
        for event in events:
            self._journal.log(event)
