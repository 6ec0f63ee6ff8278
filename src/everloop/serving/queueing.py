"""Who may wait in a batcher's queue, and who waits no longer: room, deadlines, clients that have gone.

Whoever cannot be answered in time is told at the door. Whoever's deadline can no longer be kept when it would be his turn, or while
another batch runs, is told then (DeadlineExceeded) and never runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from everloop.core.errors import DeadlineExceeded, EverloopError, Overloaded
from everloop.policy.admission import remaining
from everloop.policy.batching import BatchRules, CostCurve, admits, retry_after
from everloop.policy.pacing import Pace, hopeless, size_within
from everloop.serving.answering import Answering
from everloop.serving.batch import Batch
from everloop.serving.recording import Recording
from everloop.serving.tickets import Ticket
from everloop.serving.waiting import Waiting
from everloop.serving.work import Work

if TYPE_CHECKING:
    from everloop.serving.admission import Admission
    from everloop.serving.batcher import Batcher
    from everloop.serving.lane import Lane
    from everloop.serving.split import Arm


class Queueing(Answering):
    """The half of a `Batcher` that looks at those who wait."""

    def __init__(
        self,
        work: Work,
        loop: asyncio.AbstractEventLoop,
        key: str,
        recording: Recording | None,
        beside: Callable[[Lane], Batcher] | None,
        *,
        costs: CostCurve,
        admission: Admission | None,
    ) -> None:
        """As `Answering`. `costs`: as measured before anybody asked."""
        super().__init__(work, loop, key, recording, beside)
        self.rules: BatchRules = work.rules
        self.costs = Pace(costs)
        self.admission = admission
        self.size = self.rules.max_rows
        """Rows of a batch that is full."""
        self._room = 0
        """Waiting rows below which a single row is let in without further questions."""
        self._queue = Waiting()
        self._scheduled = False
        """Whether something is under way that will look at the queue: a turn of the loop, a timer, the thread's end."""
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: tuple[float, asyncio.TimerHandle] | None = None
        """The first deadline of those that wait behind a run, and what wakes us then."""
        self._gone = False
        self._running: Batch | None = None
        """What the thread runs."""
        self._began = 0.0
        """Since when."""
        self._plan()

    @property
    def waiting(self) -> int:
        """Rows that wait for their run."""
        return self._queue.rows

    def _plan(self) -> None:
        """Choose the size of a batch, and up to how many rows nobody is asked who he is."""
        rules = self.rules
        self.size = rules.max_rows
        if rules.target_seconds is not None:
            self.size = size_within(rules.target_seconds, self.costs, rules.max_rows)
        self._room = rules.queue_rows
        if self.admission is not None:
            left = self._left(perf_counter())
            self._room = min(self._room, self.admission.easy(self.size, left, self.costs))

    def _left(self, now: float) -> float:
        """Seconds that the run under way still takes."""
        batch = self._running
        return 0.0 if batch is None else remaining(self.costs.estimate(batch.rows), now - self._began)

    def _refusal(
        self, ticket: Ticket, payload: Any, count: int, deadline: float | None, now: float
    ) -> EverloopError | None:
        """Why a request may not wait."""
        queue, rows = self._queue, count or 1
        if not admits(queue.rows, rows, self.rules):
            if self.admission is not None:
                self.admission.count("queue")
            return Overloaded(
                f"model {self.model!r} has {queue.rows} rows waiting, at most {self.rules.queue_rows} may; "
                f"the {rows} of this request were not accepted",
                retry_after=retry_after(queue.rows, self.costs, self.rules),
            )
        if self.admission is not None:
            return self.admission.check(
                getattr(ticket, "caller", None),
                rows,
                self.work.weight(payload, count),
                size=self.size,
                left=self._left(now),
                waiting=queue.rows,
                curve=self.costs,
                time_left=None if deadline is None else deadline - now,
                tickets=queue.tickets,
                counts=queue.counts,
            )
        if deadline is not None and hopeless(deadline, now, self.costs):
            return self._too_late()
        return None

    def _turn_away(self, ticket: Ticket, payload: Any, count: int, arm: Arm | None, error: EverloopError) -> None:
        """The champion may have room. Raises `error` if there is none to be asked."""
        self.counters.refused += 1
        if arm is not None:
            arm.tally.settled(1, None)
            arm.tally.failed(error)
        if arm is None or arm.champion is None:
            raise error
        self._refer(ticket, payload, count, arm, error)

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"model {self.model!r} cannot answer before the deadline of this request; it was not run"
        )

    def _heed(self, deadline: float, now: float) -> None:
        """Somebody waits who wants an answer until then: behind a run we wake up for him, and a window is thought over."""
        if self._running is not None:
            if self._expiry is None or deadline < self._expiry[0]:
                self._forget_expiry()
                self._expiry = deadline, self.loop.call_later(max(0.0, deadline - now), self._expire)
        elif self._timer is not None:
            self._forget_timer()

    def _expire(self) -> None:
        self._expiry = None
        self._drop_late()
        first = self._queue.first_deadline
        if first is not None:
            self._heed(first, perf_counter())

    def _drop_late(self) -> None:
        """Whoever's deadline cannot be kept any more is told."""
        now = perf_counter()
        late = self._queue.drop(lambda _, at: at is not None and hopeless(at, now, self.costs))
        if late.tickets:
            self.counters.expired += len(late.tickets)
            self._left_queue(late)
            for ticket, arm in zip(late.tickets, late.each_arm(), strict=True):
                if arm is not None:
                    arm.tally.settled(1, None)
                self._hand(ticket.fail, self._too_late())

    def _drop_gone(self) -> None:
        self._gone = False
        gone = self._queue.drop(lambda ticket, _: ticket.disconnected)
        self.counters.abandoned += len(gone.tickets)
        self._left_queue(gone)

    def _left_queue(self, batch: Batch) -> None:
        if self.admission is not None:
            self.admission.left(batch.tickets, batch.counts, self._queue.rows)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._scheduled = None, False

    def _forget_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry[1].cancel()
            self._expiry = None
