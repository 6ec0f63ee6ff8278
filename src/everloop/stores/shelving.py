"""What every catalog does in the same way: changes of one model, written once over a `Shelf`.

The functions take part in whatever transaction their shelf belongs to, so the registry puts several of them and the event that tells
of them into one. `ShelfCatalog` makes catalog methods of them: a backend only says how a transaction begins and ends.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager

import msgspec

from everloop.core.schema import Schema, Target
from everloop.core.types import VersionStatus
from everloop.policy.rollout import Rollout
from everloop.stores.ports import Manifest, ModelRecord, Shelf, VersionRecord
from everloop.stores.settling import check_status, popped, pushed, with_schema


def set_schema(shelf: Shelf, schema: Schema, target: Target | None) -> ModelRecord:
    """As `Catalog.set_schema`. Raises InvalidInput."""
    before = shelf.model
    after = with_schema(before, schema, target)
    if after != before:
        shelf.put_model(after)
    return after


def add_version(
    shelf: Shelf,
    digest: str,
    manifest: Manifest,
    *,
    now: float,
    status: VersionStatus = "staging",
    note: str = "",
    name: str = "",
    tags: dict[str, str] | None = None,
) -> VersionRecord:
    """As `Catalog.add_version`. Raises Conflict."""
    first: VersionStatus = "staging" if status == "live" else status
    number = shelf.next_number()
    record = VersionRecord(shelf.model.name, number, digest, first, now, manifest, note, name, tags or {})
    shelf.put_version(record)
    return make_live(shelf, number) if status == "live" else record


def make_live(shelf: Shelf, number: int) -> VersionRecord:
    """Let `number` serve everybody. An allocation ends, and a shadow that goes live is none any more. Raises VersionNotFound."""
    record = shelf.version(number)
    history = shelf.history if record.status == "live" else pushed(shelf.history, number)
    return _serve(shelf, record, history)


def roll_back(shelf: Shelf) -> VersionRecord:
    """As `Catalog.roll_back`. Raises Conflict."""
    usable = {v.version for v in shelf.versions() if v.status == "retired" and not v.collected}
    history = popped(shelf.model.name, shelf.history, usable)
    return _serve(shelf, shelf.version(history[-1]), history)


def set_status(shelf: Shelf, number: int, status: VersionStatus) -> VersionRecord:
    """As `Catalog.set_status`. Raises VersionNotFound, Conflict."""
    record = shelf.version(number)
    check_status(record, status)
    return _with_status(shelf, record, status)


def _serve(shelf: Shelf, record: VersionRecord, history: list[int]) -> VersionRecord:
    model = shelf.model
    if model.live_version not in (None, record.version):
        _with_status(shelf, shelf.version(model.live_version), "retired")
    after = msgspec.structs.replace(
        model,
        live_version=record.version,
        allocation=None,
        shadow=None if model.shadow == record.version else model.shadow,
    )
    if after != model or history != shelf.history:
        shelf.put_model(after, history)
    return _with_status(shelf, record, "live")


def _with_status(shelf: Shelf, record: VersionRecord, status: VersionStatus) -> VersionRecord:
    if record.status != status:
        record = msgspec.structs.replace(record, status=status)
        shelf.put_version(record)
    return record


class ShelfCatalog(ABC):
    """The part of the `Catalog` port that is the same wherever the shelves are kept."""

    def __init__(self) -> None:
        self._changing = threading.local()

    @abstractmethod
    def change(self, name: str, new: ModelRecord | None = None) -> AbstractContextManager[Shelf]:
        """As `Catalog.change`; its first act is `with self._not_nested()`."""

    @abstractmethod
    def look(self, name: str) -> AbstractContextManager[Shelf]:
        """As `Catalog.look`."""

    @contextlib.contextmanager
    def _not_nested(self) -> Iterator[None]:
        """A thread that waits for its own transaction would wait for ever."""
        if getattr(self._changing, "now", False):
            raise RuntimeError("a change of the catalog was begun inside another one of the same thread")
        self._changing.now = True
        try:
            yield
        finally:
            self._changing.now = False

    def get_model(self, name: str) -> ModelRecord:
        with self.look(name) as shelf:
            return shelf.model

    def versions(self, model: str) -> list[VersionRecord]:
        with self.look(model) as shelf:
            return shelf.versions()

    def get_version(self, model: str, version: int) -> VersionRecord:
        with self.look(model) as shelf:
            return shelf.version(version)

    def rollout(self, model: str) -> Rollout | None:
        with self.look(model) as shelf:
            return shelf.rollout()

    def rollouts(self, model: str) -> list[Rollout]:
        with self.look(model) as shelf:
            return shelf.rollouts()

    def set_schema(self, name: str, schema: Schema, target: Target | None) -> ModelRecord:
        with self.change(name) as shelf:
            return set_schema(shelf, schema, target)

    def add_version(
        self,
        model: str,
        digest: str,
        manifest: Manifest,
        *,
        now: float,
        status: VersionStatus = "staging",
        note: str = "",
        name: str = "",
    ) -> VersionRecord:
        with self.change(model) as shelf:
            return add_version(shelf, digest, manifest, now=now, status=status, note=note, name=name)

    def set_live(self, model: str, version: int) -> VersionRecord:
        with self.change(model) as shelf:
            return make_live(shelf, version)

    def roll_back(self, model: str) -> VersionRecord:
        with self.change(model) as shelf:
            return roll_back(shelf)

    def set_status(self, model: str, version: int, status: VersionStatus) -> VersionRecord:
        with self.change(model) as shelf:
            return set_status(shelf, version, status)
