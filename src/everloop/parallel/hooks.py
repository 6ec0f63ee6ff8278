"""What a run tells while it goes: frozen events, and the hooks that receive them on the caller's thread.

Subclass `ExecutionHooks` and override what you want. A hook that raises is reported once as a warning and not called again in that run:
what watches the work must not end it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everloop.parallel.plan import Plan
    from everloop.parallel.report import RunReport
    from everloop.parallel.work import ItemFailure


@dataclass(frozen=True, slots=True)
class Started:
    label: str
    total: int | None
    """Items, where that is known."""
    plan: Plan


@dataclass(frozen=True, slots=True)
class ChunkDone:
    label: str
    first: int
    count: int
    seconds: float
    """Sum of its items' times."""
    worker: int
    failures: int
    lost: str | None = None


@dataclass(frozen=True, slots=True)
class ItemError:
    label: str
    failure: ItemFailure
    retried: bool
    """It will be tried again after `wait` seconds."""
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    label: str
    done: int
    total: int | None
    elapsed: float
    rate: float
    """Items a second, lately."""
    remaining: float | None
    """Seconds, estimated; None where `total` is not known."""
    paused: bool = False
    """Waiting for memory."""


@dataclass(frozen=True, slots=True)
class Ended:
    label: str
    report: RunReport
    error: BaseException | None = None


class ExecutionHooks:
    """Every method does nothing here."""

    def on_start(self, event: Started) -> None: ...

    def on_chunk(self, event: ChunkDone) -> None: ...

    def on_item_error(self, event: ItemError) -> None: ...

    def on_progress(self, event: Progress) -> None:
        """About ten times a second at most."""

    def on_end(self, event: Ended) -> None: ...
