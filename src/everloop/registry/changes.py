"""How anything in the registry changes: one transaction, its events in it, and both told once they are committed.

    with changes.on("fraud") as change:
        change.shelf.put_model(…)                   seen by nobody yet
        change.log("aliased", "best is version 3")  in the same transaction
    # here it is durable; the bus and the watchers have been told

An exception inside the block leaves nothing behind: neither the change nor its event.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from everloop.core.clock import Clock
from everloop.core.events import Event, EventBus, EventKind
from everloop.stores.ports import Catalog, Journal, ModelRecord, Shelf


class Change:
    """One transaction on one model. Not to be used after its block."""

    def __init__(self, shelf: Shelf, now: float, by: str) -> None:
        self.shelf = shelf
        self.by = by
        """Who wants it, where that was said; every event's data tell it."""
        self.now = now
        """When it happens: seconds since the epoch."""
        self.events: list[Event] = []

    def log(
        self, kind: EventKind, message: str, *, version: int | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        """Tell of it on the model's timeline."""
        told = dict(data or {}) | ({"by": self.by} if self.by else {})
        event = Event(self.shelf.model.name, kind, self.now, message, version, told)
        self.shelf.log(event)
        self.events.append(event)


def registered(model: ModelRecord) -> dict[str, Any]:
    """Message and data of the event that tells of a new model."""
    return {"message": f"registered as {model.kind}", "data": {"kind": model.kind, "task": model.task}}


class Changes:
    """Safe from any thread. Changes made through one of these wait for each other here rather than in the database."""

    def __init__(self, catalog: Catalog, journal: Journal, bus: EventBus, clock: Clock) -> None:
        self._catalog = catalog
        self._journal = journal
        self._bus = bus
        self._clock = clock
        self._lock = threading.Lock()
        self._watchers: tuple[Callable[[], None], ...] = ()

    @contextlib.contextmanager
    def on(self, name: str, *, by: str = "", new: ModelRecord | None = None) -> Iterator[Change]:
        """`new`: made first, where there is no model of that name. Raises ModelNotFound. Not to be called from a journal's `done`, nor
        inside another change."""
        with self.alone(), self._catalog.change(name, new) as shelf:
            change = Change(shelf, self._clock.now(), by)
            if shelf.created:
                change.log("registered", **registered(shelf.model))
            yield change
        self.tell(change.events)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """For what is no change of one model: creating and removing one. What was logged before is on the timeline before."""
        self._journal.flush()
        with self._lock:
            yield

    def tell(self, events: Sequence[Event]) -> None:
        """Outside of any lock: a subscriber may well ask the registry."""
        for event in events:
            self._bus.emit(event)
        if events:
            for watcher in self._watchers:
                watcher()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """As `Registry.subscribe_changes`."""
        with self._lock:
            self._watchers = (*self._watchers, callback)

        def unsubscribe() -> None:
            with self._lock:
                self._watchers = tuple(watcher for watcher in self._watchers if watcher is not callback)

        return unsubscribe
