"""How far a run may read ahead of what it has handed out: in items, and in bytes of results."""

from __future__ import annotations

from everloop.parallel.constants import DEFAULT_BUFFER_SIZE_MULTIPLIER
from everloop.parallel.ordering import Waiting
from everloop.parallel.plan import Plan
from everloop.parallel.report import RunReport

GROWN = 10_000
GROWN_BYTES = 1 << 20
"""Items and bytes of a chunk that a buffer of our own grows for, at most: what dispatch costs is lost in so many, and more are only
memory."""


class Buffer:
    """Counts items from when they are read until they are handed out. The limit in items is strict; the one in bytes counts what is
    there exactly and what is still to come by the mean of what came lately."""

    def __init__(self, plan: Plan, report: RunReport, waiting: Waiting) -> None:
        self.read = 0
        """Items taken from the input."""
        self._handed = 0
        self._plan = plan
        self._report = report
        self._waiting = waiting
        self._mean_bytes: float | None = plan.result_bytes

    @property
    def outstanding(self) -> int:
        return self.read - self._handed

    def follow(self, plan: Plan) -> None:
        """From now on by the limits of `plan`."""
        self._plan = plan

    def took(self, count: int) -> None:
        self.read += count
        self._report.most_in_flight = max(self._report.most_in_flight, self.outstanding)

    def handed_out(self, count: int) -> None:
        self._handed += count

    @property
    def counts_bytes(self) -> bool:
        return self._plan.buffer_bytes is not None

    def measured(self, count: int, size: int) -> None:
        """`count` results came back that have `size` bytes together."""
        mean = size / count
        # Growth counts at once: a limit that is noticed late is none.
        self._mean_bytes = mean if self._mean_bytes is None else max(mean, 0.7 * self._mean_bytes + 0.3 * mean)

    @property
    def _grown(self) -> int:
        return GROWN if self._mean_bytes is None else max(1, min(GROWN, int(GROWN_BYTES / max(1.0, self._mean_bytes))))

    def free(self, size: int, in_flight: int) -> int:
        """How many of `size` items may be read now; 0 also where it is better to wait until there is room for more.

        A chunk gets only so much of the buffer that every worker can have one running and one queued.
        """
        plan, outstanding = self._plan, self.outstanding
        free = share = size
        if plan.buffer_size is not None:
            limit = plan.buffer_size
            if plan.buffer_grows:
                limit = max(limit, DEFAULT_BUFFER_SIZE_MULTIPLIER * plan.n_jobs * min(size, self._grown))
            share = max(1, min(share, limit // (2 * plan.n_jobs)))
            free = min(share, limit - outstanding)
        if plan.buffer_bytes is not None:
            if self._mean_bytes is None:
                room = plan.n_jobs - outstanding  # nothing is known of their size yet: one for each worker
            else:
                each = max(1.0, self._mean_bytes)
                coming = (outstanding - self._waiting.held) * each
                share = max(1, min(share, int(plan.buffer_bytes / (2 * plan.n_jobs * each))))
                room = int((plan.buffer_bytes - self._waiting.held_bytes - coming) / each)
            free = min(free, share, room if outstanding else max(1, room))
        # Crumbs would make chunks ever smaller, and what is in flight will make more room.
        return 0 if in_flight and free * 4 < share else max(0, free)
