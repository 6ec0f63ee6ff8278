"""What waits for its run: the queue of one batcher, in order, as lists side by side.

Lists of what only some requests have (several rows, a route, a deadline) are there only while such requests wait: the queue of plain rows
is three lists that the next batch takes over whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everloop.policy.batching import next_batch
from everloop.serving.batch import Batch

if TYPE_CHECKING:
    from everloop.serving.split import Arm
    from everloop.serving.tickets import Ticket


class Waiting:
    """Touched by its batcher's thread only."""

    __slots__ = ("arms", "counts", "deadlines", "mixed", "payloads", "rows", "tickets", "times")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.tickets: list[Ticket] = []
        self.payloads: list[Any] = []
        self.times: list[float] = []
        """When each came (`time.perf_counter`)."""
        self.counts: list[int] | None = None
        """Rows of each, 0 for a single row; None while all are single rows."""
        self.arms: list[Arm | None] | None = None
        self.deadlines: list[float | None] | None = None
        self.mixed = False
        """Whether one of the three is there: then all that comes is added by `add`."""
        self.rows = 0

    def add(  # noqa: PLR0917  what there is of a request
        self, ticket: Ticket, payload: Any, count: int, arm: Arm | None, deadline: float | None, now: float
    ) -> None:
        before = len(self.tickets)
        if count and self.counts is None:
            self.counts = [0] * before
        if arm is not None and self.arms is None:
            self.arms = [None] * before
        if deadline is not None and self.deadlines is None:
            self.deadlines = [None] * before
        self.tickets.append(ticket)
        self.payloads.append(payload)
        self.times.append(now)
        if self.counts is not None:
            self.counts.append(count)
        if self.arms is not None:
            self.arms.append(arm)
        if self.deadlines is not None:
            self.deadlines.append(deadline)
        self.rows += count or 1
        self.mixed = self.counts is not None or self.arms is not None or self.deadlines is not None

    @property
    def first_deadline(self) -> float | None:
        return min((at for at in self.deadlines or () if at is not None), default=None)

    def take(self, most: int) -> Batch:
        """The next batch: in order, whole requests, at least one, else no more than `most` rows."""
        if self.rows <= most and self.counts is None:
            batch = Batch(self.tickets, self.payloads, None, self.arms, self.times)
            self._clear()
            return batch
        counts = self.counts
        if counts is None:
            return self._split(most)
        taken = self._split(next_batch([count or 1 for count in counts], most))
        if taken.counts is None:
            return taken
        # Single rows first: consecutive rows of the matrix are then one record of the journal.
        found = taken.counts
        order = sorted(range(len(found)), key=lambda i: found[i] > 0)
        return Batch(
            [taken.tickets[i] for i in order],
            [taken.payloads[i] for i in order],
            [found[i] for i in order],
            taken.arms and [taken.arms[i] for i in order],
            [taken.times[i] for i in order],
        )

    def drop(self, unwanted: Callable[[Ticket, float | None], bool]) -> Batch:
        """Without those of which that is true; what went, as a batch that shall not run."""
        gone = [unwanted(ticket, at) for ticket, at in zip(self.tickets, self._each_deadline(), strict=True)]
        if not any(gone):
            return Batch([], [], None, None, [])
        keep = [i for i, unwanted in enumerate(gone) if not unwanted]
        drop = [i for i, unwanted in enumerate(gone) if unwanted]
        dropped = self._picked(drop)
        kept, deadlines = self._picked(keep), self.deadlines and [self.deadlines[i] for i in keep]
        self._become(kept, deadlines)
        return dropped

    def _each_deadline(self) -> list[float | None]:
        return self.deadlines or [None] * len(self.tickets)

    def _split(self, taken: int) -> Batch:
        """The first so many requests; the others stay."""
        deadlines = self.deadlines and self.deadlines[taken:]
        head, rest = self._part(slice(taken)), self._part(slice(taken, None))
        self._become(rest, deadlines)
        return head

    def _become(self, rest: Batch, deadlines: list[float | None] | None) -> None:
        self.tickets, self.payloads, self.times = rest.tickets, rest.payloads, rest.times
        self.counts, self.arms = rest.counts, rest.arms if rest.arms and any(rest.arms) else None
        self.deadlines = deadlines if deadlines and any(at is not None for at in deadlines) else None
        self.rows = rest.rows
        self.mixed = self.counts is not None or self.arms is not None or self.deadlines is not None

    def _part(self, part: slice) -> Batch:
        counts = self.counts and self.counts[part]
        if counts is not None and not any(counts):
            counts = None
        return Batch(self.tickets[part], self.payloads[part], counts, self.arms and self.arms[part], self.times[part])

    def _picked(self, places: list[int]) -> Batch:
        counts = self.counts and [self.counts[i] for i in places]
        if counts is not None and not any(counts):
            counts = None
        return Batch(
            [self.tickets[i] for i in places],
            [self.payloads[i] for i in places],
            counts,
            self.arms and [self.arms[i] for i in places],
            [self.times[i] for i in places],
        )
