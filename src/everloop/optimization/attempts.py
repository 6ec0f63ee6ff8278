"""What a model's timeline says of the attempts to make a version faster."""

from __future__ import annotations

from dataclasses import dataclass

from everloop.stores.ports import Journal

_EVENTS = 1000
"""The newest so many are looked through: of a version that serves, its last attempt is among them, or so long ago that another one is
due."""


@dataclass(frozen=True)
class Attempts:
    decided: bool = False
    """One came to its end."""
    message: str = ""
    """What it said."""
    unfinished: int = 0
    """Those after it that began, and of which no end was told: their process was killed."""


def attempts_at(journal: Journal, model: str, version: int) -> Attempts:
    journal.flush()
    decided, message, unfinished = False, "", 0
    for event in journal.events(model=model, limit=_EVENTS, latest=True):
        if event.data.get("of", event.version) != version:
            continue
        if event.kind == "optimize_started":
            unfinished += 1
        elif event.kind in ("optimized", "not_optimized"):
            unfinished = 0
            if event.data.get("state") != "stopped":
                decided, message = True, event.message
    return Attempts(decided, message, unfinished)
