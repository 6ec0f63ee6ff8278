"""What happens to a model, told once: an `Event` goes to the journal (its timeline) and to whoever subscribed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

import msgspec

EventKind = Literal[
    "registered",
    "schema",
    "fit_started",
    "fitted",
    "fit_failed",
    "rejected",
    "published",
    "swapped",
    "open_failed",
    "drift",
    "input_drift",
    "promoted",
    "rolled_back",
    "archived",
    "unregistered",
    "learner_failed",
    "rollout_started",
    "rollout_advanced",
    "rollout_paused",
    "rollout_resumed",
    "rollout_ended",
    "guard",
    "sample_ratio",
    "shadow_failed",
    "traffic",
    "configured",
    "cleared",
    "aliased",
    "tagged",
    "noted",
    "collected",
    "imported",
    "quality",
    "optimize_started",
    "optimized",
    "not_optimized",
    "deleted",
    "audit",
]


class Event(msgspec.Struct, frozen=True):
    """`message` is one sentence for a person; `data` the same in numbers. `id` is 0 until the journal has given one."""

    model: str
    kind: EventKind
    at: float
    message: str = ""
    version: int | None = None
    data: dict[str, Any] = {}
    id: int = 0


Subscriber = Callable[[Event], None]


class EventBus:
    """Fan-out inside one process. Subscribers are called on the emitting thread and must not block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[Subscriber, ...] = ()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Returns the function that unsubscribes."""
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)

        return unsubscribe

    def emit(self, event: Event) -> None:
        for subscriber in self._subscribers:
            subscriber(event)
