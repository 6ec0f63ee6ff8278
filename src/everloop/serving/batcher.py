"""Tick batching: what one turn of the event loop brings runs as one batch; nothing waits for a timer unless a window is asked for.

    submit ─► cache? ─► admission? ─► waiting ─► flush (call_soon, or at once when full) ──► run inline ─────────────► settle
                                        ▲                                             └──► run on the batcher's thread ─► settle ─► flush
                                        └────────── collects while the thread runs ◄───────┘                               │ failed, under guard
                                                                                                 the champion's batcher ◄──┘

Rules.

1. A batcher belongs to one lane, one form of requests (rows, tensors; `work`) and one event loop, and is touched by that loop's thread
   only (`retire` and `remember` aside). So a batch never mixes versions, and there are no locks.
2. Requests keep their order, and the rows of one request stay together. How many run together, and when a batch leaves that is not
   full, `policy.pacing` decides by what batches have taken so far.
3. A ticket is answered exactly once: delivered or failed. One whose client has gone is dropped before it runs; one whose deadline can
   no longer be kept is told so (DeadlineExceeded), while another batch runs as well.
4. A batch that fails is halved until the requests that make it fail are found; only those fail.
5. A version under guard (`serving.guard`) always runs on the thread, watched by a timer. What it fails on goes to the batcher of
   the arm's champion, as does all that waits once it is lost.
6. After `retire` it still finishes, and even accepts, work: whoever took a table before a swap may submit after it. It lets
   go of its thread whenever it has nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from everloop.core.errors import EverloopError, explain
from everloop.core.types import Row
from everloop.policy.batching import BatchRules, CostCurve, Stalls, runs_on_thread
from everloop.policy.pacing import Reason, fastest_size, release
from everloop.serving.batch import Batch, Found, Outcome
from everloop.serving.flights import Flights, asked
from everloop.serving.queueing import Queueing
from everloop.serving.recording import Recording
from everloop.serving.tickets import Ticket
from everloop.serving.waiting import Waiting
from everloop.serving.work import Work
from everloop.serving.worker import Worker

if TYPE_CHECKING:
    from everloop.serving.admission import Admission
    from everloop.serving.cache import VersionCache
    from everloop.serving.guard import Guard
    from everloop.serving.lane import Lane
    from everloop.serving.split import Arm

REPLAN = 16
"""Batches after which sizes are chosen anew."""
HEAVY_SECONDS = 0.01
"""From such runs on their thread leaves the cores to whoever answers quickly."""
UNWEIGHED = 64 << 10
"""Bytes of a request about which nobody is asked while there is room for its rows."""
TIMER = 0.0005
"""Seconds that a timer cannot tell apart: what is due so soon is due now."""


class Batcher(Queueing):
    def __init__(
        self,
        work: Work,
        loop: asyncio.AbstractEventLoop,
        key: str,
        *,
        costs: CostCurve,
        recording: Recording | None = None,
        beside: Callable[[Lane], Batcher] | None = None,
        admission: Admission | None = None,
    ) -> None:
        """As `Queueing`. `costs`: as measured before anybody asked."""
        super().__init__(work, loop, key, recording, beside, costs=costs, admission=admission)
        self.cache: Flights | None = None
        self._stalls = Stalls()
        self._varies = work.varies
        self._ripe = REPLAN
        """Batches until the next plan."""
        self._lag = 0.0
        """By how much sooner the thread would have been free without the way to it, and to another process."""
        self._watchdog: asyncio.TimerHandle | None = None
        self._retired = False
        self._worker: Worker | None = None

    # -- in --

    def submit(self, ticket: Ticket, row: Row, arm: Arm | None = None, deadline: float | None = None) -> None:
        """One checked row; `arm`: what routed it here; `deadline`: until when the answer is wanted (`time.perf_counter`). Raises
        Overloaded, DeadlineExceeded."""
        queue = self._queue
        waiting = queue.rows
        if queue.mixed or waiting >= self._room or self.cache is not None or arm is not None or deadline is not None:
            self.submit_payload(ticket, row, 0, arm, deadline)
            return
        queue.tickets.append(ticket)
        queue.payloads.append(row)
        queue.times.append(perf_counter())
        queue.rows = waiting + 1
        if not self._scheduled:
            self._schedule()
        elif waiting + 1 >= self.size:
            self._flush()

    def submit_rows(
        self, ticket: Ticket, rows: list[Row], arm: Arm | None = None, deadline: float | None = None
    ) -> None:
        """One request of several checked rows, at least one. As `submit`."""
        self.submit_payload(ticket, rows, len(rows), arm, deadline)

    def submit_payload(
        self, ticket: Ticket, payload: Any, count: int, arm: Arm | None = None, deadline: float | None = None
    ) -> None:
        """One request in the form of `work`: a single row (`count` 0) or `count` rows. As `submit`."""
        if arm is not None:
            arm.assign()
        if self.cache is not None:
            self.cache.submit(asked(ticket, payload, count, arm, deadline))
            return
        self.enter(ticket, payload, count, arm, deadline)

    def enter(
        self, ticket: Ticket, payload: Any, count: int, arm: Arm | None = None, deadline: float | None = None
    ) -> None:
        """Into the queue, without a look into the cache. Raises Overloaded, DeadlineExceeded."""
        queue, now = self._queue, perf_counter()
        if queue.rows + (count or 1) > self._room or deadline is not None or (count and self._heavy(payload, count)):
            refused = self._refusal(ticket, payload, count, deadline, now)
            if refused is not None:
                self._turn_away(ticket, payload, count, arm, refused)
                return
        queue.add(ticket, payload, count, arm, deadline, now)
        if deadline is not None:
            self._heed(deadline, now)
        if not self._scheduled:
            self._schedule()
        elif queue.rows >= self.size:
            self._flush()

    def _heavy(self, payload: Any, count: int) -> bool:
        """Whether it matters how many bytes a request of several rows, or of tensors, has. A plain row never has many."""
        return self.work.weight(payload, count) > UNWEIGHED

    def remember(self, cached: VersionCache | None) -> None:
        """Answer from this part of the cache what was asked before. From any thread."""
        self.cache = None if cached is None else Flights(self, cached)

    def configure(self, rules: BatchRules) -> None:
        """Decide by these from now on, also of those who wait already. From any thread."""
        self.rules = rules
        self._plan()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._reconsider)

    def _reconsider(self) -> None:
        """A timer was set by other rules."""
        if self._timer is not None:
            self._forget_timer()
            self._flush()

    def abandon(self) -> None:
        """Some waiting ticket is `disconnected`: look for it before the next batch runs."""
        self._gone = True

    @property
    def idle(self) -> bool:
        return not self._queue.tickets and self._running is None and not self.cache

    def retire(self) -> None:
        """The lane answers no more: finish what there is. From any thread."""
        self._retired = True
        try:
            self.loop.call_soon_threadsafe(self._rest)
        except RuntimeError:  # the loop is closed: nobody is left who could submit or be answered
            self._running = None
            self._queue = Waiting()
            self._rest()

    # -- when, and how many --

    def _schedule(self) -> None:
        """Run what this turn of the loop brings at its end; while the thread is busy, its end does that."""
        self._scheduled = True
        if self._running is None:
            self.loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._scheduled, self._timer = False, None
        self._flush()

    def _due(self) -> tuple[float, Reason]:
        """Seconds until what waits should run, and why then."""
        queue = self._queue
        if queue.rows >= self.size:
            return 0.0, "full" if self.size >= self.rules.max_rows else "target"
        if not self.rules.window_seconds:
            return 0.0, "idle"
        at, why = release(queue.times[0], self.costs.likely(queue.rows), queue.first_deadline, self.rules)
        return at - perf_counter(), why

    def _most(self) -> int:
        """Rows of the next batch: where the oldest request is too late for the target anyway, as many as go through fastest."""
        target, most = self.rules.target_seconds, self.size
        if target is None or self._queue.rows <= most:
            return most
        late = perf_counter() - self._queue.times[0] + self.costs.estimate(most) > target
        return max(most, fastest_size(self.costs, self.rules.max_rows)) if late else most

    # -- through the model --

    def _flush(self) -> None:
        if self._running is not None or not self._queue.tickets:
            return  # the thread's end comes back here; a full batch may have left before its turn
        guard = self.work.guard
        if guard is not None and guard.error is not None:
            self._refer_waiting(guard.error)
            return
        if self._gone:
            self._drop_gone()
        if self._queue.deadlines is not None:
            self._drop_late()
        if not self._queue.tickets:
            return
        seconds, why = self._due()
        if seconds > TIMER:
            self._scheduled, self._timer = True, self.loop.call_later(seconds, self._tick)
            return
        if self._timer is not None:
            self._forget_timer()
        batch = self._queue.take(self._most())
        if self.admission is not None:
            self._left_queue(batch)
        if guard is not None or self._varies or self._stalls.many or runs_on_thread(self.costs, batch.rows, self.rules):
            self._send(batch, why, guard)
            return
        outcome, seconds = batch.run(self.work)
        self._learn(batch, outcome, seconds)
        self._settle(batch, outcome, seconds, why)
        if self._queue.tickets and not self._scheduled:
            self._schedule()  # what did not fit: the loop may breathe first

    def _learn(self, batch: Batch, outcome: Outcome, seconds: float) -> None:
        if outcome is not None:
            self.costs.observe(batch.rows, seconds)
        self._stalls.observe(seconds)
        self._ripe -= 1
        if self._ripe <= 0:
            self._ripe = REPLAN
            self._plan()

    def _send(self, batch: Batch, why: Reason, guard: Guard | None) -> None:
        """To the thread."""
        self._running, self._began = batch, perf_counter()
        batch.detour = min(self._lag, self._began - batch.since)
        if guard is not None:
            self._watchdog = self.loop.call_later(guard.timeout, self._overrun, batch, guard)
        if self._worker is None:
            self._worker = Worker(f"everloop-batch-{self.model[:32]}")
        if self.costs.estimate(batch.rows) > HEAVY_SECONDS:
            self._worker.give_way()
        self._worker.submit(partial(self._work, batch, why))
        if self.admission is not None:
            self._plan()  # who comes now waits for this run
        first = self._queue.first_deadline
        if first is not None:
            self._heed(first, self._began)

    def _work(self, batch: Batch, why: Reason) -> None:
        """On the batcher's thread."""
        outcome: Outcome = None
        seconds = 0.0
        found: list[Found | EverloopError] | None = None
        try:
            outcome, seconds = batch.run(self.work)
            found = batch.search(self.work) if outcome is None else None
            batch.detour += self.work.take_detour() + batch.started - self._began
        except Exception as error:  # a defect of ours: those who wait must be told
            outcome, found = None, [self.work.failed(explain(error)) for _ in batch.tickets]
        batch.ended = perf_counter()
        try:
            self.loop.call_soon_threadsafe(self._done, batch, why, outcome, seconds, found)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
            self._running = None

    def _done(
        self, batch: Batch, why: Reason, outcome: Outcome, seconds: float, found: list[Found | EverloopError] | None
    ) -> None:
        if self._running is not batch:
            return  # it was given up, and its requests have been answered
        batch.detour += perf_counter() - batch.ended
        self._free()
        self._learn(batch, outcome, seconds)
        self._settle(batch, outcome, seconds, why, found)
        self._lag = batch.detour
        self._flush()
        self._lag = 0.0
        if self._retired:
            self._rest()

    def _overrun(self, batch: Batch, guard: Guard) -> None:
        """The run hangs. Its thread is left behind; what waits behind it goes to the champion, too."""
        if self._running is not batch:
            return
        self._free()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        errors = [guard.lose(self.work) for _ in batch.tickets]
        self._settle(batch, None, guard.timeout, "idle", list(errors))
        self._refer_waiting(errors[0])
        if self._retired:
            self._rest()

    def _free(self) -> None:
        self._running, self._scheduled = None, False
        self._forget_expiry()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _refer_waiting(self, error: EverloopError) -> None:
        """This version is lost."""
        self._scheduled = False
        while self._queue.tickets:
            if self._gone:
                self._drop_gone()
            batch = self._queue.take(self._queue.rows)
            self._left_queue(batch)
            self._refuse_all(batch, error)

    def _rest(self) -> None:
        """Let go of the thread, once retired and idle."""
        if self._retired and self.idle and self._worker is not None:
            self._worker.stop()
            self._worker = None
