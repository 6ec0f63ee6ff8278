"""What really happened in a run: measured, never estimated. History, hooks and `explain()` read it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from everloop.parallel.plan import Plan
from everloop.parallel.work import ItemFailure


@dataclass
class RunReport:
    plan: Plan
    """The last one, where it was changed on the way."""
    items: int = 0
    """Run to their end, failed ones included."""
    wall_seconds: float = 0.0
    """From the first submission to the last result, without the time that a consumer of a stream took between two results."""
    item_seconds: float = 0.0
    """Sum of the items' own times, as their workers measured them."""
    recent_item_seconds: float | None = None
    """What an item takes lately: the running estimate that chunks are cut by."""
    squares: float = 0.0
    cpu_seconds: float = 0.0
    sampled: int = 0
    """Items that a dry run of this very run did on the caller's thread, with their results kept."""
    sampled_seconds: float = 0.0
    """Their time, undisturbed by other workers: what serial work costs."""
    bytes_in: int = 0
    bytes_out: int = 0
    chunks: int = 0
    largest_chunk: int = 0
    """Items that one worker ran at a stretch, at most: what chunks came to, whatever adaptation would have liked."""
    most_in_flight: int = 0
    deaths: int = 0
    """Workers lost."""
    retries: int = 0
    resumed: int = 0
    """Items that a checkpoint already had."""
    paused_seconds: float = 0.0
    """Waiting for memory."""
    replanned: int = 0
    failures: list[ItemFailure] = field(default_factory=list)
    """The first hundred that were skipped or returned; `failed` counts all."""
    failed: int = 0

    @property
    def mean_item_seconds(self) -> float:
        return self.item_seconds / self.items if self.items else 0.0

    @property
    def coefficient_of_variation(self) -> float:
        mean = self.mean_item_seconds
        if self.items < 2 or mean <= 0:
            return 0.0
        return math.sqrt(max(0.0, self.squares / self.items - mean * mean)) / mean
