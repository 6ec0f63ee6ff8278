"""Tick batching: what one turn of the event loop brings runs as one batch; nothing waits for a timer.

    submit ──► waiting ──► flush (call_soon, or at once when full) ──► run inline ─────────────► settle
                  ▲                                              └──► run on the lane's thread ──► settle ──► flush
                  └───────────── collects while the thread runs ◄────────┘                          │ failed, under guard
                                                                                    the champion's batcher ◄┘

Rules.

1. A batcher belongs to one lane and one event loop, and is touched by that loop's thread only (`retire` aside). So a batch
   never mixes versions, and there are no locks.
2. Requests keep their order, and the rows of one request stay together.
3. A ticket is answered exactly once: delivered or failed. A ticket whose client has gone is dropped before it runs.
4. A batch that fails is halved until the requests that make it fail are found; only those fail.
5. A version under guard (`serving.guard`) always runs on the thread, watched by a timer. What it fails on goes to the batcher of
   the arm's champion, as does all that waits once it is lost.
6. After `retire` it still finishes, and even accepts, work: whoever took a table before a swap may submit after it. It lets
   go of its thread whenever it has nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from everloop.core.errors import EverloopError, Overloaded, explain
from everloop.core.types import Row
from everloop.policy.batching import (
    BatchRules,
    CostCurve,
    admits,
    next_batch,
    retry_after,
    runs_on_thread,
)
from everloop.serving.batch import Batch, Outcome, Recording
from everloop.serving.counters import Counters
from everloop.serving.recorder import Recorder
from everloop.serving.runner import Matrix, Runner
from everloop.serving.tickets import SecondTry, Ticket
from everloop.serving.worker import Worker

if TYPE_CHECKING:
    from everloop.serving.cache import VersionCache
    from everloop.serving.guard import Guard
    from everloop.serving.split import Arm


class Batcher:
    def __init__(
        self,
        runner: Runner,
        loop: asyncio.AbstractEventLoop,
        recorder: Recorder,
        *,
        record: float,
        costs: CostCurve,
    ) -> None:
        self.runner = runner
        self.loop = loop
        self.rules: BatchRules = runner.rules
        self.version = runner.version
        self.costs = costs
        self.counters = Counters()
        self.key = recorder.new_key()
        """The first half of the request ids of this batcher."""
        self.ran = (0.0, 0.0)
        """While tickets are answered: when their batch began to run, and for how many seconds it did."""
        self.cached: VersionCache | None = None
        self.wire: Any = None
        """Whatever the protocol in front keeps for this batcher (constant parts of its answers); it dies with it."""
        self._record = Recording(recorder, runner, self.key, record)
        self._next = 1
        self._tickets: list[Ticket] = []
        self._payloads: list[Any] = []
        self._counts: list[int] = []
        self._arms: list[Arm | None] = []
        self._routed = False
        """Whether any of those that wait has an arm."""
        self._rows = 0
        self._several = 0
        """Waiting requests of several rows; where there is none, a batch is built without looking at each."""
        self._gone = False
        self._since = 0.0
        self._scheduled = False
        self._running: Batch | None = None
        """What the thread runs."""
        self._lag = 0.0
        """By how much sooner the thread would have been free without a way to another process."""
        self._watchdog: asyncio.TimerHandle | None = None
        self._retired = False
        self._worker: Worker | None = None

    # -- in --

    def submit(self, ticket: Ticket, row: Row, arm: Arm | None = None) -> None:
        """One checked row; `arm`: what routed it here. Raises Overloaded."""
        waiting = self._rows
        if arm is not None:
            arm.assign()
            self._routed = True
        if waiting >= self.rules.queue_rows:
            self._turn_away(ticket, [row], 0, arm)
            return
        self._tickets.append(ticket)
        self._payloads.append(row)
        self._counts.append(0)
        self._arms.append(arm)
        self._rows = waiting + 1
        if not self._scheduled:
            self._schedule()
        elif waiting + 1 >= self.rules.max_rows:
            self._flush()

    def submit_rows(self, ticket: Ticket, rows: list[Row], arm: Arm | None = None) -> None:
        """One request of several checked rows, at least one. Raises Overloaded."""
        count = len(rows)
        if arm is not None:
            arm.assign()
            self._routed = True
        if not admits(self._rows, count, self.rules):
            self._turn_away(ticket, rows, count, arm)
            return
        self._tickets.append(ticket)
        self._payloads.append(rows)
        self._counts.append(count)
        self._arms.append(arm)
        self._rows += count
        self._several += 1
        if not self._scheduled:
            self._schedule()
        elif self._rows >= self.rules.max_rows:
            self._flush()

    def remember(self, cached: VersionCache | None) -> None:
        """Answer from this part of the cache what was asked before. From any thread."""
        self.cached = cached

    def abandon(self) -> None:
        """Some waiting ticket is `disconnected`: look for it before the next batch runs."""
        self._gone = True

    @property
    def waiting(self) -> int:
        """Rows that wait for their run."""
        return self._rows

    @property
    def idle(self) -> bool:
        return not self._tickets and self._running is None

    def retire(self) -> None:
        """The lane answers no more: finish what there is. From any thread."""
        self._retired = True
        try:
            self.loop.call_soon_threadsafe(self._rest)
        except RuntimeError:  # the loop is closed: nobody is left who could submit or be answered
            self._running = None
            self._tickets = []
            self._rest()

    def _schedule(self) -> None:
        """Run what this turn of the loop brings at its end; while the thread is busy, its end does that."""
        self._scheduled = True
        self._since = perf_counter()
        if self._running is None:
            self.loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._scheduled = False
        self._flush()

    def _turn_away(self, ticket: Ticket, rows: list[Row], count: int, arm: Arm | None) -> None:
        """There is no room here; the champion may have some. Raises Overloaded."""
        self.counters.refused += 1
        error = Overloaded(
            f"model {self.runner.model!r} has {self._rows} rows waiting, at most {self.rules.queue_rows} may; "
            f"the {len(rows)} of this request were not accepted",
            retry_after=retry_after(self._rows, self.costs, self.rules),
        )
        if arm is not None:
            arm.tally.settled(1, None)
            arm.tally.failed(error)
        if arm is None or arm.champion is None:
            raise error
        self._refer(ticket, rows, count, arm, error)

    # -- through the model --

    def _flush(self) -> None:
        if self._running is not None or not self._tickets:
            return  # the thread's end comes back here; a full batch may have left before its turn
        guard = self.runner.guard
        if guard is not None and guard.error is not None:
            self._refer_waiting(guard.error)
            return
        batch = self._take()
        if not batch.tickets:
            return
        if guard is not None or runs_on_thread(self.costs, len(batch.rows), self.rules):
            self._running = batch
            batch.detour = min(self._lag, perf_counter() - batch.since)
            if guard is not None:
                self._watchdog = self.loop.call_later(guard.timeout, self._overrun, batch, guard)
            if self._worker is None:
                self._worker = Worker(f"everloop-batch-{self.runner.model[:32]}")
            self._worker.submit(partial(self._work, batch))
            return
        outcome, seconds = batch.run(self.runner)
        self._settle(batch, outcome, seconds)
        if self._tickets and not self._scheduled:
            self._schedule()  # what did not fit: the loop may breathe first

    def _work(self, batch: Batch) -> None:
        """On the lane's thread."""
        outcome: Outcome = None
        seconds, found = 0.0, None
        try:
            outcome, seconds = batch.run(self.runner)
            found = batch.search(self.runner) if outcome is None else None
            batch.detour += self.runner.take_detour()
        except Exception as error:  # a defect of ours: those who wait must be told
            outcome, found = None, [self.runner.failed(explain(error))] * len(batch.tickets)
        try:
            self.loop.call_soon_threadsafe(self._done, batch, outcome, seconds, found)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
            self._running = None

    def _done(self, batch: Batch, outcome: Outcome, seconds: float, found: list[Any] | None) -> None:
        if self._running is not batch:
            return  # it was given up, and its requests have been answered
        self._running, self._scheduled = None, False
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._settle(batch, outcome, seconds, found)
        self._lag = batch.detour
        self._flush()
        self._lag = 0.0
        if self._retired:
            self._rest()

    def _overrun(self, batch: Batch, guard: Guard) -> None:
        """The run hangs. Its thread is left behind; what waits behind it goes to the champion, too."""
        if self._running is not batch:
            return
        self._running, self._scheduled, self._watchdog = None, False, None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        errors = [guard.lose(self.runner) for _ in batch.tickets]
        self._settle(batch, None, guard.timeout, errors)
        self._refer_waiting(errors[0])
        if self._retired:
            self._rest()

    def _take(self) -> Batch:
        """The next batch, in order, without those whose client has gone."""
        if self._gone:
            self._drop_gone()
        tickets, payloads, since = self._tickets, self._payloads, self._since
        arms = self._arms if self._routed else None
        if self._rows <= self.rules.max_rows and not self._several:
            self._tickets, self._payloads, self._counts, self._arms, self._rows = [], [], [], [], 0
            self._routed = False
            return Batch(tickets, payloads, None, arms, since)
        sizes = [count or 1 for count in self._counts]
        taken = next_batch(sizes, self.rules)
        counts = self._counts[:taken]
        self._tickets, self._payloads, self._counts = tickets[taken:], payloads[taken:], self._counts[taken:]
        self._arms = self._arms[taken:]
        self._rows -= sum(sizes[:taken])
        self._several -= sum(1 for count in counts if count)
        if not any(counts):
            return Batch(tickets[:taken], payloads[:taken], None, arms and arms[:taken], since)
        # Single rows first: consecutive rows of the matrix are then one record of the journal.
        order = sorted(range(taken), key=lambda i: counts[i] > 0)
        rows: list[Row] = []
        for i in order:
            if counts[i]:
                rows += payloads[i]
            else:
                rows.append(payloads[i])
        arms = arms and [arms[i] for i in order]
        return Batch([tickets[i] for i in order], rows, [counts[i] for i in order], arms, since)

    def _drop_gone(self) -> None:
        self._gone = False
        kept = [i for i, ticket in enumerate(self._tickets) if not ticket.disconnected]
        self.counters.abandoned += len(self._tickets) - len(kept)
        self._tickets = [self._tickets[i] for i in kept]
        self._payloads = [self._payloads[i] for i in kept]
        self._counts = [self._counts[i] for i in kept]
        self._arms = [self._arms[i] for i in kept]
        self._rows = sum(count or 1 for count in self._counts)
        self._several = sum(1 for count in self._counts if count)

    # -- out --

    def _settle(self, batch: Batch, outcome: Outcome, seconds: float, found: list[Any] | None = None) -> None:
        """Number, record, then answer: a label that follows its answer at once finds the record."""
        self.ran = (batch.started, seconds)
        tickets, rows = batch.tickets, len(batch.rows)
        first = self._next
        self._next = first + len(tickets)
        if outcome is None:
            self._settle_each(batch, found if found is not None else batch.search(self.runner), first)
        else:
            self.costs = self.costs.observed(rows, seconds)
            X, values = outcome
            if batch.counts is None:
                self._record.put(first, 0, X, values, batch.rows)
                number = first
                for ticket, value in zip(tickets, values, strict=True):
                    try:
                        ticket.deliver(value, self, number)
                    except Exception as error:  # whoever waits next must get an answer
                        self._complain(error)
                    number += 1
            else:
                self._settle_mixed(batch, batch.counts, X, values, first)
        latency = perf_counter() - batch.since
        self.counters.batch(len(tickets), rows, seconds, latency)
        batch.count(latency)

    def _settle_mixed(self, batch: Batch, counts: list[int], X: Matrix, values: list[Any], first: int) -> None:
        singles = counts.index(next(count for count in counts if count))
        if singles:
            self._record.put(first, 0, X[:singles], values[:singles], batch.rows[:singles])
        start = 0
        for number, (ticket, count) in enumerate(zip(batch.tickets, counts, strict=True), first):
            stop = start + (count or 1)
            if count:
                self._record.put(number, count, X[start:stop], values[start:stop], batch.rows[start:stop])
            self._answer(ticket, count, values[start:stop], number)
            start = stop

    def _settle_each(self, batch: Batch, found: list[Any], first: int) -> None:
        counts = batch.each_count()
        arms = batch.each_arm()
        start = 0
        for number, (ticket, count, arm, answer) in enumerate(
            zip(batch.tickets, counts, arms, found, strict=True), first
        ):
            stop = start + (count or 1)
            if isinstance(answer, EverloopError):
                self.counters.failed += 1
                if arm is not None:
                    arm.tally.failed(answer)
                self._fail(ticket, batch.rows[start:stop], count, arm, answer)
            else:
                X, values = answer
                self._record.put(number, count, X, values, batch.rows[start:stop])
                self._answer(ticket, count, values[:], number)
            start = stop

    def _fail(
        self, ticket: Ticket, rows: list[Row], count: int, arm: Arm | None, error: EverloopError, *, tried: bool = True
    ) -> None:
        """The champion answers, if this is not its lane; otherwise the client is told."""
        if arm is not None and arm.champion is not None:
            self.counters.referred += 1
            self._refer(ticket, rows, count, arm, error, tried=tried)
        else:
            self._hand(ticket.fail, error)

    def _refer(
        self, ticket: Ticket, rows: list[Row], count: int, arm: Arm, error: EverloopError, *, tried: bool = True
    ) -> None:
        champion = arm.champion
        assert champion is not None
        second = SecondTry(ticket, arm.tally if tried else None, error)
        try:
            if champion.schema != self.runner.schema:
                rows = champion.schema.rows(rows)
            batcher = champion.batcher_for(self.loop)
            if count:
                batcher.submit_rows(second, rows)
            else:
                batcher.submit(second, rows[0])
        except EverloopError as refused:
            second.fail(refused)

    def _refer_waiting(self, error: EverloopError) -> None:
        """This version is lost: what waits here was never tried, so it is no failure of the model."""
        self._scheduled = False
        while self._tickets:
            batch = self._take()
            counts = batch.each_count()
            arms = batch.each_arm()
            start = 0
            for ticket, count, arm in zip(batch.tickets, counts, arms, strict=True):
                stop = start + (count or 1)
                if arm is not None:
                    arm.tally.settled(1, None)
                self._fail(ticket, batch.rows[start:stop], count, arm, error, tried=False)
                start = stop
            self.counters.requests += len(batch.tickets)
            self.counters.failed += len(batch.tickets)

    def _answer(self, ticket: Ticket, count: int, values: list[Any], number: int) -> None:
        if count:
            self._hand(ticket.deliver_rows, values, self, number)
        else:
            self._hand(ticket.deliver, values[0], self, number)

    def _hand(self, receive: Callable[..., None], *answer: Any) -> None:
        try:
            receive(*answer)
        except Exception as error:  # whoever waits next must get an answer
            self._complain(error)

    def _complain(self, error: BaseException) -> None:
        self.loop.call_exception_handler({"message": "an answer could not be delivered", "exception": error})

    def _rest(self) -> None:
        """Let go of the thread, once retired and idle."""
        if self._retired and self.idle and self._worker is not None:
            self._worker.stop()
            self._worker = None
