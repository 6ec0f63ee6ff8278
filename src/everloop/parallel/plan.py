"""A plan: the settings that a run is carried out with, who chose them and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from everloop.parallel.work import ExecutorKind

Source = Literal["caller", "dry run", "history", "exploration", "cache"]


@dataclass(frozen=True)
class ChunkBounds:
    """Parameters of adaptive chunking."""

    target_duration: float = 0.2
    """Seconds that a chunk should take."""
    adaptation_rate: float = 0.3
    """Weight of the newest chunk's item time in the running estimate, in (0, 1]."""
    smallest: int = 1
    largest: int | None = None
    """Items; None: only the buffer and the remaining items bound it."""


@dataclass(frozen=True)
class Plan:
    executor: ExecutorKind
    n_jobs: int
    chunksize: int
    """Items of the first chunks; adaptive chunking changes it from there."""
    ordered: bool = True
    buffer_size: int | None = None
    """Items read from the input and not yet handed out, at most; None: as many as there are (the results are kept anyway)."""
    buffer_bytes: int | None = None
    """The same in bytes of pickled or estimated results."""
    adaptive: ChunkBounds | None = None
    """None: every chunk has `chunksize` items."""
    item_seconds: float | None = None
    """Expected duration of one item; the engine asks for another plan where reality differs much."""
    result_bytes: int | None = None
    """Expected size of one result, pickled."""
    predicted_seconds: float | None = None
    """Expected wall time of the whole run."""
    predicted_speedup: float = 1.0
    confidence: float | None = None
    """Of a prediction from history; None for a dry run."""
    source: Source = "dry run"
    reason: str = ""
    buffer_grows: bool = False
    """`buffer_size` is a guess of ours: it follows the chunks where they turn out to be larger. Else it is strict."""
    notes: list[str] = field(default_factory=list)
    """One line for each step of the decision, in order: what `explain()` prints."""
