"""What travels between the engine and its executors: a chunk of items there, what became of it back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

ExecutorKind = Literal["serial", "thread", "process", "ray"]
KINDS: tuple[ExecutorKind, ...] = ("serial", "thread", "process", "ray")


@dataclass(slots=True)
class Chunk:
    """Consecutive items, numbered from the start of the whole input."""

    number: int
    """Unique within a run; a retry is a new chunk."""
    first: int
    """Index of `items[0]` in the whole input."""
    items: list[Any]
    slice: float = math.inf
    """Seconds after which the worker stops before the next item and hands the rest back (`Done.count < len(items)`). A chunk whose
    items turn out slow can so never keep one worker long while the others have nothing to do."""
    timeout: float | None = None
    """Seconds that one item may take; the item then fails with ItemTimeout."""
    attempt: int = 1
    """How often these items have been sent out, this time included."""
    deaths: int = 0
    """How many workers have died with these items."""


@dataclass(slots=True)
class ItemFailure:
    """One item that failed for good: what the caller gets in `on_error` policies other than raising."""

    index: int
    """In the whole input (in a `Done`: in the chunk's items)."""
    error: BaseException
    """The item's own exception where it could be sent, else ItemFailed; its `__cause__` or notes carry the worker's traceback."""
    traceback: str = ""
    """As formatted where it happened."""
    attempts: int = 1
    item: Any = None


@dataclass(slots=True)
class Done:
    """What became of a chunk. `values[i]` belongs to `chunk.items[i]`; a failed item has None there and an entry in `failures`."""

    chunk: Chunk
    values: list[Any]
    """Of the first `count` items."""
    count: int
    """Items that were run; fewer than the chunk has where its slice was over, 0 where its worker died. 0 without `lost`: it had not
    begun when its worker died or had no more time for it; nothing is known against it, send it again."""
    seconds: float = 0.0
    """Sum of the items' own wall times, measured around each call in the worker."""
    squares: float = 0.0
    """Sum of their squares."""
    cpu_seconds: float = 0.0
    """CPU time that the worker's thread spent on them."""
    bytes_in: int = 0
    bytes_out: int = 0
    """Pickled, as they travelled; 0 where nothing is pickled."""
    worker: int = 0
    """Process id, or a thread's ordinal."""
    failures: list[ItemFailure] = field(default_factory=list)
    lost: str | None = None
    """Why the chunk was lost with its worker (`killed by signal 9`); None where it came back. Nothing else is then known."""
    spoiled: bool = False
    """It was run, but one of its results cannot be unpickled and has spoiled the others: nothing is known of them."""
    late: bool = False
    """Lost because an item outstayed `timeout` and its worker had to be killed or abandoned."""
