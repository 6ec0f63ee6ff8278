"""Single flight in the batcher: one run for one input, everybody answered once, numbered and recorded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serving.test_batcher import one, outcomes, several
from tests.serving.test_cache import remember

from everloop.core.errors import DeadlineExceeded, EverloopError, ModelFailed, Overloaded
from everloop.policy.batching import BatchRules
from everloop.serving.answers import pack_answers
from everloop.serving.cache import AnswerCache
from everloop.serving.cache_config import CacheConfig
from everloop.serving.tickets import FutureTicket
from everloop.stores.memory import MemoryAnswers
from everloop.testing import ManualClock

ON_THREAD = BatchRules(inline_seconds=0.0)


class Held(MemoryAnswers):
    """A second level that answers when a test says so, on a thread of its own, as a real one does."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.asked: list[tuple[str, Callable[[bytes | None], None]]] = []

    def fetch(self, key: str, done: Callable[[bytes | None], None]) -> None:
        self.asked.append((key, done))

    def answer(self) -> None:
        asked, self.asked = self.asked, []
        thread = threading.Thread(target=lambda: [done(self.get(key)) for key, done in asked])
        thread.start()
        thread.join()


@pytest.fixture
def cache(clock: ManualClock) -> AnswerCache:
    return AnswerCache(CacheConfig(), clock)


def test_what_is_asked_at_once_runs_once(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    session = plain_session(1)
    lane = kit.lane(session)
    cached = remember(cache, lane)

    async def main() -> None:
        answers = await outcomes([one(lane, [float(i % 3)]) for i in range(30)])
        assert [a.prediction for a in answers] == [float(i % 3) for i in range(30)]
        assert session.batches == [3]
        answers += await outcomes([one(lane, [float(i % 4)]) for i in range(4)])
        assert session.batches == [3, 1]
        assert len({a.request_id for a in answers}) == 34
        recorded = kit.recorded()
        assert {a.request_id: recorded[a.request_id][1] for a in answers} == {
            a.request_id: a.prediction for a in answers
        }

    asyncio.run(main())
    assert cached.counts.told() == {"hits": 3, "joined": 27, "misses": 4, "shared": 0}
    counters = lane.counters()
    assert (counters.requests, counters.rows, sum(counters.latencies)) == (34, 34, 34)


def test_rows_of_one_request_and_single_rows_share_answers(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    session = plain_session(1)
    lane = kit.lane(session)
    remember(cache, lane)

    async def main() -> None:
        answers = await outcomes(
            [several(lane, [[1.0], [2.0]]), several(lane, [[1.0], [2.0]]), several(lane, [[2.0], [1.0]])]
        )
        assert [a.predictions for a in answers] == [[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]]
        assert session.batches == [4]
        answers[0].predictions[0] = 9.0
        assert (await several(lane, [[1.0], [2.0]])).predictions == [1.0, 2.0]
        assert (await several(lane, [[5.0]])).predictions == [5.0]
        assert (await one(lane, [5.0])).prediction == 5.0
        assert lane.answer([5.0]).prediction == 5.0
        assert session.batches == [4, 1]
        assert kit.recorded()[f"{answers[1].request_id}#1"] == ([2.0], 2.0)

    asyncio.run(main())


def test_a_failure_is_told_to_one_and_the_others_ask_again(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    broken = True

    def answers(X: Any) -> Any:
        if broken and (X[:, 0] < 0).any():
            raise RuntimeError("below zero")
        return X[:, 0]

    session = plain_session(1, answers)
    lane = kit.lane(session)
    remember(cache, lane)

    async def main() -> None:
        nonlocal broken
        found = await outcomes([one(lane, [v]) for v in (-1.0, 1.0, -1.0, -1.0, 1.0)])
        assert [type(a) if isinstance(a, EverloopError) else a.prediction for a in found] == [
            ModelFailed,
            1.0,
            ModelFailed,
            ModelFailed,
            1.0,
        ]
        broken = False
        assert (await one(lane, [-1.0])).prediction == -1.0

    asyncio.run(main())
    assert lane.counters().failed == 3


def test_whoever_leaves_takes_nobody_along(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    session = plain_session(1)
    lane = kit.lane(session)
    remember(cache, lane)

    async def main() -> None:
        batcher = lane.batcher_for(asyncio.get_running_loop())
        first, second = one(lane, [1.0]), one(lane, [1.0])
        all_gone = [one(lane, [2.0]), one(lane, [2.0])]
        for future in (first, *all_gone):
            future.cancel()
        batcher.abandon()
        assert (await second).prediction == 1.0
        assert session.batches == [1]
        assert batcher.idle
        assert (await one(lane, [2.0])).prediction == 2.0, "nobody waits for what was dropped"

    asyncio.run(main())
    assert lane.counters().abandoned == 1


def test_a_deadline_is_its_owners_alone(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    """The first of a flight cannot wait any longer; those who joined it can."""
    running, go_on = threading.Event(), threading.Event()

    def answers(X: Any) -> Any:
        if X[0, 0] == 9.0:
            running.set()
            assert go_on.wait(20)
        return X[:, 0]

    session = plain_session(1)
    lane = kit.lane(session, rules=ON_THREAD)
    session.answers = answers
    remember(cache, lane)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = lane.batcher_for(loop)
        blocking = one(lane, [9.0])
        await loop.run_in_executor(None, running.wait, 20)
        hurried, patient = FutureTicket(loop), FutureTicket(loop)
        import time

        batcher.submit(hurried, [1.0], deadline=time.perf_counter() + 0.05)
        batcher.submit(patient, [1.0])
        with pytest.raises(DeadlineExceeded):
            await hurried.future
        go_on.set()
        assert (await patient.future).prediction == 1.0
        assert (await blocking).prediction == 9.0

    asyncio.run(main())
    lane.retire()


def test_refused_flights_leave_nothing_behind(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    running, go_on = threading.Event(), threading.Event()
    session = plain_session(1)
    lane = kit.lane(session, rules=BatchRules(max_rows=1, queue_rows=1, inline_seconds=0.0))

    def answers(X: Any) -> Any:
        running.set()
        assert go_on.wait(20)
        return X[:, 0]

    session.answers = answers
    remember(cache, lane)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        blocking = one(lane, [9.0])
        await loop.run_in_executor(None, running.wait, 20)
        waiting = one(lane, [1.0])
        joins = one(lane, [1.0])  # takes no room in the queue
        with pytest.raises(Overloaded):
            one(lane, [2.0])
        go_on.set()
        found = await outcomes([blocking, waiting, joins])
        assert [a.prediction for a in found] == [9.0, 1.0, 1.0]
        assert (await one(lane, [2.0])).prediction == 2.0

    asyncio.run(main())
    lane.retire()


def test_the_second_level_is_asked_once_and_nobody_waits_for_it_in_the_queue(
    kit: Any, plain_session: Any, clock: ManualClock
) -> None:
    shared = Held(clock)
    session = plain_session(1)
    lane = kit.lane(session)
    cached = remember(AnswerCache(CacheConfig(), clock, shared), lane)

    async def main() -> None:
        batcher = lane.batcher_for(asyncio.get_running_loop())
        futures = [one(lane, [float(i % 2)]) for i in range(6)]
        assert len(shared.asked) == 2
        assert batcher.waiting == 0
        assert not batcher.idle
        shared.answer()
        assert [a.prediction for a in await outcomes(futures)] == [0.0, 1.0] * 3
        assert session.batches == [2]
        cached._entries.forget(lambda _: True)
        futures = [one(lane, [1.0]) for _ in range(3)]
        gone = one(lane, [7.0])
        gone.cancel()
        shared.answer()
        answers = await outcomes(futures)
        assert [a.prediction for a in answers] == [1.0] * 3
        assert session.batches == [2], "another process could have answered it"
        assert batcher.idle
        recorded = kit.recorded()
        assert [recorded[a.request_id] for a in answers] == [([1.0], 1.0)] * 3

    asyncio.run(main())
    assert cached.counts.told() == {"hits": 0, "joined": 6, "misses": 2, "shared": 1}
    assert lane.counters().abandoned == 1


def test_an_answer_of_another_form_is_no_answer(kit: Any, plain_session: Any, clock: ManualClock) -> None:
    class Wrong(MemoryAnswers):
        wrong: Any = ()

        def get(self, key: str) -> bytes | None:
            return pack_answers(self.wrong)

    shared = Wrong(clock=clock)
    lane = kit.lane(plain_session(1))
    remember(AnswerCache(CacheConfig(), clock, shared), lane)

    async def main() -> None:
        for number, wrong in enumerate(((1.0, 2.0), (), {"y": np.zeros(1)})):
            shared.wrong = wrong
            assert (await one(lane, [number + 0.25])).prediction == number + 0.25
            assert lane.answer([number + 0.5]).prediction == number + 0.5
            assert lane.answer([number + 0.5]).prediction == number + 0.5

    asyncio.run(main())


def test_the_champions_answer_is_not_remembered_as_the_challengers(
    kit: Any, plain_session: Any, cache: AnswerCache
) -> None:
    """Version 2 fails; its champion answers in its place, each request for itself."""

    def fails(X: Any) -> Any:
        raise RuntimeError("always")

    champion, challenger = plain_session(1), plain_session(1, fails)
    arm = kit.play(champion=champion, challenger=challenger)
    champion.batches.clear()
    cached = remember(cache, arm.lane)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = arm.lane.batcher_for(loop)
        tickets = [FutureTicket(loop) for _ in range(4)]
        for ticket in tickets:
            batcher.submit(ticket, [3.0], arm)
        answers = await outcomes([ticket.future for ticket in tickets])
        assert [(a.prediction, a.model_version) for a in answers] == [(3.0, 1)] * 4
        assert len({a.request_id for a in answers}) == 4

    asyncio.run(main())
    assert cached.get(arm.lane.runner.key([3.0], 0)) is None
    seen = kit.seen()
    assert seen.challenger.requests == 4
    assert seen.challenger.failed == 4


def test_hits_are_counted_for_their_arm_without_a_time(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    arm = kit.play(champion=plain_session(1), challenger=plain_session(1))
    remember(cache, arm.lane)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = arm.lane.batcher_for(loop)
        for _ in range(5):
            ticket = FutureTicket(loop)
            batcher.submit(ticket, [3.0], arm)
            await ticket.future

    asyncio.run(main())
    challenger = kit.seen().challenger
    assert challenger.requests == 5
    assert sum(challenger.latencies.values()) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    turns=st.lists(
        st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 2), st.booleans()), max_size=10), min_size=1, max_size=5
    ),
    on_thread=st.booleans(),
    shares=st.booleans(),
)
def test_with_and_without_a_cache_everybody_is_told_the_same(
    kit: Any, plain_session: Any, turns: list[list[tuple[int, int, bool]]], on_thread: bool, shares: bool
) -> None:
    """Rows below zero break the model; some clients leave. Each turn is what one turn of the event loop brings."""

    def answers(X: Any) -> Any:
        if (X[:, 0] < 0).any():
            raise RuntimeError("below zero")
        return X[:, 0] * 10

    lane = kit.lane(plain_session(1, answers), rules=ON_THREAD if on_thread else BatchRules(inline_seconds=10.0))
    second = MemoryAnswers(clock=kit.clock) if shares else None
    remember(AnswerCache(CacheConfig(bytes=2000), kit.clock, second), lane)

    async def main() -> None:
        batcher = lane.batcher_for(asyncio.get_running_loop())
        ids: list[str] = []
        for turn in turns:
            futures = []
            for value, count, leaves in turn:
                rows = [[float(value)]] * count
                future = several(lane, rows) if count else one(lane, [float(value)])
                futures.append(future)
                if leaves and future.cancel():
                    batcher.abandon()
            for (value, count, _), future, answer in zip(turn, futures, await outcomes(futures), strict=True):
                if future.cancelled():
                    assert isinstance(answer, asyncio.CancelledError)
                elif value < 0:
                    assert isinstance(answer, ModelFailed)
                else:
                    ids.append(answer.request_id)
                    told = answer.predictions if count else [answer.prediction]
                    assert told == [value * 10.0] * (count or 1)
        assert len(set(ids)) == len(ids)
        while not batcher.idle:
            await asyncio.sleep(0)

    asyncio.run(main())
    lane.retire()
