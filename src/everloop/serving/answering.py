"""The way out of a batcher: number, record, count, answer; and whom to ask where this version cannot answer.

What a batcher settles, it settles on its own event loop's thread. A ticket is answered exactly once; one that raises costs nobody else
an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from everloop.core.errors import EverloopError
from everloop.policy.pacing import Reason
from everloop.serving.batch import Batch, Found, Outcome
from everloop.serving.counters import Counters
from everloop.serving.recording import Recording
from everloop.serving.tickets import SecondTry, Ticket
from everloop.serving.work import Work

if TYPE_CHECKING:
    from everloop.serving.batcher import Batcher
    from everloop.serving.lane import Lane
    from everloop.serving.split import Arm


class Answering:
    """The half of a `Batcher` that looks outwards."""

    def __init__(
        self,
        work: Work,
        loop: asyncio.AbstractEventLoop,
        key: str,
        recording: Recording | None,
        beside: Callable[[Lane], Batcher] | None,
    ) -> None:
        """`key`: the first half of the request ids. `beside`: the batcher of another version's lane, for the same form of requests."""
        self.work = work
        self.loop = loop
        self.model = work.model
        self.version = work.version
        self.key = key
        self.counters = Counters()
        self.ran = (0.0, 0.0)
        """While tickets are answered: when their batch began to run, and for how many seconds it did."""
        self.wire: Any = None
        """Whatever the protocol in front keeps for this batcher (constant parts of its answers); it dies with it."""
        self._recording = recording
        self._beside = beside
        self._next = 1

    @property
    def runner(self) -> Any:
        """What runs the rows, for who knows that it is rows."""
        return self.work

    def answer_now(  # noqa: PLR0917  what was asked, of what, and what is known of it
        self, ticket: Ticket, payload: Any, count: int, inputs: Any, answers: Any, came: float
    ) -> None:
        """What is known already, as if it had run: numbered, recorded, counted. `inputs` and `answers`: as `Work.gather` and `Work.run`
        give them for this request alone, which came at `came`."""
        number, rows = self._next, count or 1
        self._next += 1
        self._record(number, count, inputs, answers, 0, rows, [payload])
        now = perf_counter()
        self.ran = (now, 0.0)
        self.counters.known(rows, now - came)
        self._answer(ticket, count, self.work.part(answers, 0, rows), number)

    def _settle(
        self,
        batch: Batch,
        outcome: Outcome,
        seconds: float,
        why: Reason,
        found: list[Found | EverloopError] | None = None,
    ) -> None:
        """Number, record, then answer: a label that follows its answer at once finds the record."""
        self.ran = (batch.started, seconds)
        tickets, rows = batch.tickets, batch.rows
        first = self._next
        self._next = first + len(tickets)
        if outcome is None:
            self._settle_each(batch, found if found is not None else batch.search(self.work), first)
        elif batch.counts is None:
            inputs, answers = outcome
            self._record(first, 0, inputs, answers, 0, rows, batch.payloads)
            number = first
            for ticket, value in zip(tickets, answers, strict=True):
                try:
                    ticket.deliver(value, self, number)  # type: ignore[arg-type]
                except Exception as error:  # whoever waits next must get an answer
                    self._complain(error)
                number += 1
        else:
            self._settle_mixed(batch, batch.counts, outcome, first)
        latency = perf_counter() - batch.since
        self.counters.batch(batch, why, seconds, latency)
        batch.count(latency)

    def _settle_mixed(self, batch: Batch, counts: list[int], outcome: tuple[Any, Any], first: int) -> None:
        (inputs, answers), part = outcome, self.work.part
        singles = next(i for i, count in enumerate(counts) if count)
        alike = counts.count(counts[0]) == len(counts)
        if alike:
            self._record(first, counts[0], inputs, answers, 0, batch.rows, batch.payloads)
        elif singles:
            self._record(first, 0, inputs, answers, 0, singles, batch.payloads[:singles])
        start = 0
        for number, (ticket, payload, count) in enumerate(
            zip(batch.tickets, batch.payloads, counts, strict=True), first
        ):
            stop = start + (count or 1)
            if count and not alike:
                self._record(number, count, inputs, answers, start, stop, [payload])
            self._answer(ticket, count, part(answers, start, stop), number)
            start = stop

    def _settle_each(self, batch: Batch, found: list[Found | EverloopError], first: int) -> None:
        each = zip(batch.tickets, batch.payloads, batch.each_count(), batch.each_arm(), found, strict=True)
        for number, (ticket, payload, count, arm, answer) in enumerate(each, first):
            if isinstance(answer, EverloopError):
                self.counters.failed += 1
                if arm is not None:
                    arm.tally.failed(answer)
                self._fail(ticket, payload, count, arm, answer)
            else:
                self._record(number, count, *answer, [payload])
                self._answer(ticket, count, self.work.part(answer.answers, answer.start, answer.stop), number)

    def _refuse_all(self, batch: Batch, error: EverloopError) -> None:
        """This version is lost: what waited for it was never tried, so it is no failure of the model."""
        for ticket, payload, count, arm in zip(
            batch.tickets, batch.payloads, batch.each_count(), batch.each_arm(), strict=True
        ):
            if arm is not None:
                arm.tally.settled(1, None)
            self._fail(ticket, payload, count, arm, error, tried=False)
        self.counters.requests += len(batch.tickets)
        self.counters.failed += len(batch.tickets)

    def _fail(
        self, ticket: Ticket, payload: Any, count: int, arm: Arm | None, error: EverloopError, *, tried: bool = True
    ) -> None:
        """The champion answers, if this is not its lane; otherwise the client is told."""
        if arm is not None and arm.champion is not None:
            self.counters.referred += 1
            self._refer(ticket, payload, count, arm, error, tried=tried)
        else:
            self._hand(ticket.fail, error)

    def _refer(
        self, ticket: Ticket, payload: Any, count: int, arm: Arm, error: EverloopError, *, tried: bool = True
    ) -> None:
        assert arm.champion is not None
        assert self._beside is not None
        second = SecondTry(ticket, arm.tally if tried else None, error)
        try:
            batcher = self._beside(arm.champion)
            batcher.submit_payload(second, batcher.work.adopt(payload, count, self.work), count)
        except EverloopError as refused:
            second.fail(refused)

    def _record(  # noqa: PLR0917  as `Recording`
        self, first: int, count: int, inputs: Any, answers: Any, start: int, stop: int, payloads: Sequence[Any]
    ) -> None:
        if self._recording is not None:
            try:
                self._recording.put(first, count, inputs, answers, start, stop, payloads)
            except Exception as error:  # what cannot be kept must be answered all the same
                self._complain(error, "an answer could not be recorded")

    def _answer(self, ticket: Ticket, count: int, answers: Any, number: int) -> None:
        if count:
            self._hand(ticket.deliver_rows, answers, self, number)
        else:
            self._hand(ticket.deliver, answers[0], self, number)

    def _hand(self, receive: Callable[..., None], *answer: Any) -> None:
        try:
            receive(*answer)
        except Exception as error:  # whoever waits next must get an answer
            self._complain(error)

    def _complain(self, error: BaseException, message: str = "an answer could not be delivered") -> None:
        self.loop.call_exception_handler({"message": message, "exception": error})
