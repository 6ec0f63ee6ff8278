"""The door of a queue: who is told what, how callers are followed, and what all queues together may hold."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import DeadlineExceeded, EverloopError, Overloaded
from everloop.policy.admission import SHARE, Limits
from everloop.policy.batching import BatchRules, CostCurve
from everloop.policy.pacing import Pace
from everloop.serving import batch as batch_module
from everloop.serving import batcher as batcher_module
from everloop.serving import queueing as queueing_module
from everloop.serving.admission import Admission, Hall, limits_of
from everloop.serving.config import ServingConfig
from everloop.serving.tickets import FutureTicket

EACH = Pace(CostCurve((1, 10), (0.01, 0.1)))
"""10 ms a row, however many there are."""
SIZE = 10


class Asks:
    """A ticket of somebody's."""

    disconnected = False

    def __init__(self, caller: str | None) -> None:
        self.caller = caller
        self.error: EverloopError | None = None
        self.answered = False

    def deliver(self, prediction: Any, batcher: Any, number: int) -> None:
        self.answered = True

    def deliver_rows(self, predictions: Any, batcher: Any, number: int) -> None:
        self.answered = True

    def fail(self, error: EverloopError) -> None:
        self.error = error


class Queue:
    """What a batcher would do with an admission, without running anything."""

    def __init__(self, limits: Limits, hall: Hall | None = None, row_bytes: int = 100) -> None:
        self.hall = hall or Hall()
        self.admission = Admission("m", limits, self.hall)
        self.row_bytes = row_bytes
        self.tickets: list[Asks] = []
        self.counts: list[int] = []

    @property
    def rows(self) -> int:
        return sum(count or 1 for count in self.counts)

    def ask(self, caller: str | None, count: int = 0, *, left: float = 0.1, time_left: float | None = None) -> Any:
        error = self.admission.check(
            caller,
            count or 1,
            (count or 1) * self.row_bytes,
            size=SIZE,
            left=left,
            waiting=self.rows,
            curve=EACH,
            time_left=time_left,
            tickets=self.tickets,
            counts=self.counts,
        )
        if error is None:
            self.tickets.append(Asks(caller))
            self.counts.append(count)
        return error

    def fill(self, caller: str | None) -> int:
        """Until refused; how many rows it got in."""
        for got in range(10_000):
            if self.ask(caller) is not None:
                return got
        raise AssertionError("nothing bounds it")

    def leave(self, requests: int) -> None:
        tickets, counts = self.tickets[:requests], self.counts[:requests]
        self.tickets, self.counts = self.tickets[requests:], self.counts[requests:]
        self.admission.left(tickets, counts, self.rows)


def test_what_is_told_says_why_and_when_to_come_back() -> None:
    queue = Queue(Limits(max_wait=1.0))
    queue.fill(None)
    error = queue.ask(None)
    assert isinstance(error, Overloaded)
    assert "others would hold an answer up by some" in error.message
    assert error.retry_after is not None
    assert 0 < error.retry_after < 2
    late = queue.ask(None, time_left=0.005)
    assert isinstance(late, DeadlineExceeded)
    assert isinstance(queue.ask(None, time_left=0.5), Overloaded), "the queue is to blame"
    assert queue.admission.grounds == {"queue": 3, "deadline": 1}
    assert queue.admission.last is not None


def test_one_caller_leaves_room_for_the_next() -> None:
    queue = Queue(Limits(max_wait=1.0))
    greedy = queue.fill("greedy")
    assert queue.admission.grounds == {"share": 1}
    assert "its share" in queue.ask("greedy").message
    assert queue.ask("modest") is None
    nobody_known = Queue(Limits(max_wait=1.0)).fill(None)
    assert greedy == pytest.approx(nobody_known * SHARE / (1 + SHARE), abs=3)


def test_callers_are_followed_until_the_queue_is_empty() -> None:
    queue = Queue(Limits(max_wait=1.0))
    first = queue.fill("a")
    queue.leave(first // 2)
    again = queue.fill("a")
    assert again == pytest.approx(first // 2, abs=1), "what has left is no longer held"
    queue.leave(len(queue.tickets))
    assert queue.fill("a") == first
    assert queue.hall.used == queue.rows * 100


def test_who_waited_before_anybody_was_asked_is_counted_too() -> None:
    queue = Queue(Limits(max_wait=1.0))
    queue.tickets, queue.counts = [Asks("a"), Asks("b")], [84, 0]
    refused = queue.ask("a")
    assert isinstance(refused, Overloaded)
    assert "share" in refused.message
    assert queue.ask("b") is None


def test_all_queues_share_one_memory() -> None:
    hall = Hall(10_000)
    limits = Limits(max_wait=1e9)
    big, small = Queue(limits, hall), Queue(limits, hall)
    assert big.fill(None) == 80, "four fifths of 100 rows"
    assert "MiB that wait" in big.ask(None).message
    assert small.fill(None) > 10, "the other finds room"
    assert hall.used <= hall.most
    big.leave(len(big.tickets))
    small.leave(len(small.tickets))
    assert hall.used == 0


def test_an_empty_hall_takes_a_request_that_is_larger_than_it() -> None:
    queue = Queue(Limits(), Hall(50))
    assert queue.ask(None, 3, left=0.0) is None
    assert queue.ask(None, 3, left=0.0) is not None


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 5), st.booleans()), max_size=120))
def test_what_is_counted_is_what_waits(steps: list[tuple[str | None, int, bool]]) -> None:
    queue = Queue(Limits(max_wait=0.5), Hall(4000))
    for caller, count, leaves in steps:
        queue.ask(caller, count)
        if leaves:
            queue.leave(min(3, len(queue.tickets)))
        assert 0 <= queue.hall.used <= queue.hall.most
        assert queue.hall.used <= queue.rows * 100
    queue.leave(len(queue.tickets))
    assert queue.hall.used == 0
    assert queue.ask("a", left=0.0) is None


def test_settings_are_in_milliseconds_and_nothing_is_nothing() -> None:
    assert limits_of(ServingConfig()) == Limits()
    assert limits_of(ServingConfig(max_wait_ms=250, target_latency_ms=50)) == Limits(max_wait=0.25, target=0.05)
    assert limits_of(ServingConfig(max_wait_ms=0, target_latency_ms=0)) == Limits()


@pytest.mark.parametrize("size", [1, 7, 64])
def test_easy_rows_are_never_refused(size: int) -> None:
    for limits in (Limits(), Limits(target=0.2), Limits(max_wait=0.0), Limits(max_wait=0.3)):
        door = Admission("m", limits, Hall())
        room = door.easy(size, 0.0, EACH)
        assert 0 <= room <= size
        for waiting in range(room):
            refused = door.check(
                None, 1, 100, size=size, left=EACH.estimate(size), waiting=waiting, curve=EACH, time_left=None,
                tickets=[], counts=None,
            )  # fmt: skip
            assert refused is None


# -- in a batcher --


def test_behind_a_run_only_so_many_wait_as_will_be_answered_in_time(
    kit: Any, plain_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(batcher_module, "perf_counter", lambda: now[0])
    entered, released = threading.Event(), threading.Event()

    def run(X: Any) -> Any:
        entered.set()
        assert released.wait(60)
        return X.sum(axis=1)

    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(max_rows=SIZE, queue_rows=10_000, inline_seconds=0.0))
    session.answers = run

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = lane.batcher_for(loop)
        batcher.costs = Pace(CostCurve((1, 10), (0.01, 0.1)))
        batcher.admission = Admission("m", Limits(max_wait=0.5), Hall())
        batcher.configure(batcher.rules)
        first = FutureTicket(loop)
        batcher.submit(first, [1.0, 1.0])
        await loop.run_in_executor(None, entered.wait)
        greedy: list[Asks] = []
        while batcher.counters.refused == 0:
            ticket = Asks("greedy")
            with contextlib.suppress(Overloaded):
                batcher.submit(ticket, [1.0, 1.0])
                greedy.append(ticket)
        assert 20 < len(greedy) < 50, "half a second of rows, less a fifth"
        modest = Asks("modest")
        batcher.submit(modest, [1.0, 1.0])
        late = Asks("modest")
        with pytest.raises(EverloopError):
            batcher.submit(late, [1.0, 1.0], None, now[0] + 0.005)
        now[0] += 10.0
        with pytest.raises(Overloaded):
            batcher.submit(Asks("another"), [1.0, 1.0])  # the run is late: nobody knows for how long
        released.set()
        await asyncio.wait_for(first.future, 20)
        while batcher.waiting or not batcher.idle:
            await asyncio.sleep(0)
        assert all(ticket.answered for ticket in [*greedy, modest])
        assert batcher.counters.refused == 3
        batcher.submit(Asks("greedy"), [1.0, 1.0])
        while not batcher.idle:
            await asyncio.sleep(0)

    asyncio.run(main())
    lane.retire()


def test_a_model_that_is_slower_than_it_looked_leaves_the_event_loop_alone(
    kit: Any, plain_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    for module in (batch_module, batcher_module, queueing_module):
        monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    session = plain_session()
    lane = kit.lane(session)
    ran_on: list[bool] = []

    def run(X: Any) -> Any:
        ran_on.append(threading.current_thread() is threading.main_thread())
        now[0] += 0.2
        return X.sum(axis=1)

    session.answers = run

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = lane.batcher_for(loop)
        for _ in range(3):
            ticket = FutureTicket(loop)
            batcher.submit(ticket, [1.0, 1.0])
            await asyncio.wait_for(ticket.future, 20)
        assert ran_on == [True, True, False]

    asyncio.run(main())
    lane.retire()
