"""Tick batching: who runs with whom, who fails, who is turned away, and what a swap leaves alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everloop.core.errors import EverloopError, InvalidInput, ModelFailed, Overloaded
from everloop.policy.batching import BatchRules
from everloop.serving.tickets import FutureTicket


def one(lane: Any, row: list[float]) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    ticket = FutureTicket(loop)
    lane.batcher_for(loop).submit(ticket, row)
    return ticket.future


def several(lane: Any, rows: list[list[float]]) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    ticket = FutureTicket(loop)
    lane.batcher_for(loop).submit_rows(ticket, rows)
    return ticket.future


async def outcomes(futures: list[asyncio.Future[Any]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 20)


def test_one_turn_of_the_loop_is_one_batch(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session)

    async def main() -> None:
        answers = await outcomes([one(lane, [float(i), 1.0]) for i in range(20)])
        assert [a.prediction for a in answers] == [i + 1.0 for i in range(20)]
        assert len({a.request_id for a in answers}) == 20
        assert session.batches == [20]
        assert (await one(lane, [5.0, 5.0])).prediction == 10.0
        assert session.batches == [20, 1]
        recorded = kit.recorded()
        assert {a.request_id: recorded[a.request_id][1] for a in answers} == {
            a.request_id: a.prediction for a in answers
        }

    asyncio.run(main())


def test_a_full_batch_leaves_at_once(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(max_rows=4, queue_rows=64))

    async def main() -> None:
        futures = [one(lane, [float(i), 0.0]) for i in range(10)]
        assert session.batches == [4, 4], "before the loop turned"
        await outcomes(futures)
        assert session.batches == [4, 4, 2]

    asyncio.run(main())


def test_the_rows_of_one_request_stay_together(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(max_rows=8, queue_rows=64))

    async def main() -> None:
        a = several(lane, [[1.0, 0.0]] * 5)
        b = one(lane, [2.0, 0.0])
        c = several(lane, [[3.0, 0.0], [4.0, 0.0], [5.0, 0.0]])
        answers = await outcomes([a, b, c])
        assert answers[0].predictions == [1.0] * 5
        assert answers[1].prediction == 2.0
        assert answers[2].predictions == [3.0, 4.0, 5.0]
        recorded = kit.recorded()
        assert recorded[f"{answers[2].request_id}#1"] == ([4.0, 0.0], 4.0)
        assert recorded[answers[1].request_id] == ([2.0, 0.0], 2.0)
        assert len(recorded) == 9

    asyncio.run(main())
    assert all(size <= 8 for size in session.batches)


def test_a_request_larger_than_a_batch_runs_in_slices_on_the_thread(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(max_rows=8, queue_rows=16))

    async def main() -> None:
        answer = await several(lane, [[float(i), 0.0] for i in range(30)])
        assert answer.predictions == [float(i) for i in range(30)]

    asyncio.run(main())
    lane.retire()
    assert session.batches == [8, 8, 8, 6]
    assert threading.main_thread().name not in session.threads


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, -1.0, -2.0]), min_size=0, max_size=4), min_size=1, max_size=12),
    st.sampled_from(["raise", "nan", "short", "refuse"]),
    st.booleans(),
)
def test_only_the_requests_with_a_bad_row_fail(
    kit: Any, plain_session: Any, requests: list[list[float]], how: str, on_thread: bool
) -> None:
    """Rows below zero break the model, each in its way. An empty list stands for a single-row request of value 1."""

    def answers(X: Any) -> Any:
        bad = X[:, 0] < 0
        if not bad.any():
            return X[:, 0] * 10
        if how == "raise":
            raise RuntimeError("bad row")
        if how == "refuse":
            raise InvalidInput("features.x0: not below zero", field="features.x0")
        return np.where(bad, np.nan, X[:, 0] * 10) if how == "nan" else X[~bad, 0]

    lane = kit.lane(plain_session(1, answers), rules=BatchRules(inline_seconds=0.0 if on_thread else 10.0))

    async def main() -> None:
        futures = [several(lane, [[v] for v in r]) if r else one(lane, [1.0]) for r in requests]
        answers = await outcomes(futures)
        for request, answer in zip(requests, answers, strict=True):
            if any(v < 0 for v in request):
                assert isinstance(answer, InvalidInput if how == "refuse" else ModelFailed)
            elif request:
                assert answer.predictions == [v * 10 for v in request]
            else:
                assert answer.prediction == 10.0

    asyncio.run(main())
    lane.retire()
    failed = sum(any(v < 0 for v in request) for request in requests)
    assert lane.counters().failed == failed
    (batcher,) = lane._batchers.values()
    recorded = [key for key in kit.recorded() if key.startswith(batcher.key + "-")]
    assert len(recorded) == sum(max(1, len(r)) for r in requests if all(v >= 0 for v in r))


def test_a_heavy_batch_runs_on_a_thread_while_the_next_collects(kit: Any, plain_session: Any) -> None:
    started, go = threading.Event(), threading.Event()

    def answers(X: Any) -> Any:
        if X[0, 0] == 1.0:
            started.set()
            assert go.wait(10)
        return X[:, 0]

    session = plain_session(answers=answers)
    lane = kit.lane(session, rules=BatchRules(inline_seconds=0.0))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = one(lane, [1.0, 0.0])
        assert await loop.run_in_executor(None, started.wait, 10)
        others = [one(lane, [float(i), 0.0]) for i in range(2, 7)]
        await asyncio.sleep(0)
        assert session.batches == [1], "the loop is free, and the others wait together"
        go.set()
        answers = await outcomes([first, *others])
        assert [a.prediction for a in answers] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        assert session.batches == [1, 5]

    asyncio.run(main())
    lane.retire()


def test_the_queue_is_bounded_and_says_when_to_come_back(kit: Any, plain_session: Any) -> None:
    started, go = threading.Event(), threading.Event()

    def answers(X: Any) -> Any:
        if X[0, 0] == 1.0:
            started.set()
            assert go.wait(10)
        return X[:, 0]

    lane = kit.lane(plain_session(answers=answers), rules=BatchRules(max_rows=4, queue_rows=8, inline_seconds=0.0))

    async def main() -> None:
        futures = [one(lane, [1.0, 0.0])]
        assert await asyncio.get_running_loop().run_in_executor(None, started.wait, 10)
        futures += [one(lane, [2.0, 0.0]) for _ in range(8)]
        with pytest.raises(Overloaded) as caught:
            one(lane, [3.0, 0.0])
        assert caught.value.retry_after
        assert caught.value.retry_after > 0
        with pytest.raises(Overloaded):
            several(lane, [[3.0, 0.0]] * 2)
        assert lane.waiting == 8
        go.set()
        answers = await outcomes(futures)
        assert [a.prediction for a in answers] == [1.0] + [2.0] * 8, "who was accepted is answered"
        assert lane.counters().refused == 2
        assert (await one(lane, [4.0, 0.0])).prediction == 4.0, "and then there is room again"

    asyncio.run(main())
    lane.retire()


def test_an_abandoned_request_is_dropped_before_it_runs(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        futures = [one(lane, [float(i), 0.0]) for i in range(4)]
        futures.append(several(lane, [[9.0, 0.0]] * 3))
        futures[1].cancel()
        futures[4].cancel()
        lane.batcher_for(loop).abandon()
        answers = await outcomes([futures[0], futures[2], futures[3]])
        assert [a.prediction for a in answers] == [0.0, 2.0, 3.0]
        assert session.batches == [3]
        assert lane.counters().abandoned == 2
        lonely = one(lane, [1.0, 0.0])
        lonely.cancel()
        lane.batcher_for(loop).abandon()
        await asyncio.sleep(0)
        assert session.batches == [3], "an empty batch does not run"
        assert lane.batcher_for(loop).idle

    asyncio.run(main())


def test_a_cancelled_caller_of_the_predictor_abandons_its_row(kit: Any) -> None:
    kit.publish("m", [1.0, 1.0])
    kit.reconciler.step()

    async def main() -> None:
        gone = asyncio.ensure_future(kit.predictor.predict_async("m", [1.0, 1.0]))
        stays = asyncio.ensure_future(kit.predictor.predict_async("m", [2.0, 2.0]))
        asyncio.get_running_loop().call_soon(gone.cancel)
        assert (await stays).prediction == 4.0
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(main())


def test_a_ticket_that_raises_does_not_cost_its_neighbours_their_answers(kit: Any, plain_session: Any) -> None:
    lane = kit.lane(plain_session())

    class Broken:
        disconnected = False

        def deliver(self, prediction: Any, batcher: Any, number: int) -> None:
            raise ConnectionError("gone")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[Any] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
        before = one(lane, [1.0, 0.0])
        lane.batcher_for(loop).submit(Broken(), [2.0, 0.0])
        after = one(lane, [3.0, 0.0])
        answers = await outcomes([before, after])
        assert [a.prediction for a in answers] == [1.0, 3.0]
        assert [str(c) for c in complaints] == ["gone"]

    asyncio.run(main())


def test_what_cannot_be_recorded_is_answered_all_the_same(kit: Any, plain_session: Any) -> None:
    lane = kit.lane(plain_session())

    class Full:
        def put(self, *_: Any) -> None:
            raise ValueError("no room")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        complaints: list[str] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
        lane.batcher_for(loop)._recording = Full()
        singles = await outcomes([one(lane, [1.0, 0.0]), one(lane, [2.0, 0.0])])
        mixed = await outcomes([one(lane, [1.0, 0.0]), several(lane, [[2.0, 0.0], [3.0, 0.0]])])
        assert [a.prediction for a in singles] == [1.0, 2.0]
        assert mixed[0].prediction == 1.0
        assert mixed[1].predictions == [2.0, 3.0]
        assert complaints == ["an answer could not be recorded"] * 3

    asyncio.run(main())


def test_a_batch_never_spans_versions_and_a_swap_keeps_batching(kit: Any) -> None:
    """Requests of one turn, on both sides of a swap: each answer is what its version gives."""

    async def main() -> None:
        for version in range(1, 30):
            kit.publish("m", [float(version)])
            lanes_before = dict(kit.table.current.lanes)
            early = [asyncio.ensure_future(kit.predictor.predict_async("m", [1.0])) for _ in range(5)]
            if version == 1:
                early = []
            await asyncio.sleep(0)  # submitted, not answered
            kit.reconciler.step()
            late = [asyncio.ensure_future(kit.predictor.predict_async("m", [1.0])) for _ in range(5)]
            answers = await outcomes([*early, *late])
            assert all(a.prediction == float(a.model_version) for a in answers)
            assert [a.model_version for a in answers[len(early) :]] == [version] * 5
            if early:
                assert {a.model_version for a in answers[: len(early)]} <= {version - 1, version}
                assert lanes_before["m"].closed
            lane = kit.table.current.lanes["m"]
            assert lane.counters().largest == 5, "the new lane batches, too"

    asyncio.run(main())


def test_what_was_submitted_before_retirement_finishes_on_the_old_lane(kit: Any, plain_session: Any) -> None:
    started, go = threading.Event(), threading.Event()

    def answers(X: Any) -> Any:
        started.set()
        assert go.wait(10)
        return X[:, 0]

    session = plain_session(answers=answers)
    go.set()
    lane = kit.lane(session, rules=BatchRules(inline_seconds=0.0))
    go.clear()
    started.clear()

    async def main() -> None:
        nonlocal lane
        loop = asyncio.get_running_loop()
        running = one(lane, [1.0, 0.0])
        assert await loop.run_in_executor(None, started.wait, 10)
        waiting = one(lane, [2.0, 0.0])
        batcher = lane.batcher_for(loop)
        await loop.run_in_executor(None, lane.retire)
        assert not lane.closed
        # Whoever took its table before the swap may submit even now.
        late = FutureTicket(loop)
        batcher.submit(late, [3.0, 0.0])
        del batcher
        go.set()
        found = await outcomes([running, waiting, late.future])
        assert [a.prediction for a in found] == [1.0, 2.0, 3.0]
        assert lane.closed
        assert not session.closed.is_set()
        lane = None
        await asyncio.sleep(0)

    asyncio.run(main())
    assert session.closed.wait(10)


def test_a_lane_survives_the_loop_it_answered_on(kit: Any, plain_session: Any) -> None:
    lane = kit.lane(plain_session())

    async def main(value: float) -> float:
        answer: float = (await one(lane, [value, 0.0])).prediction
        return answer

    assert [asyncio.run(main(float(i))) for i in range(3)] == [0.0, 1.0, 2.0]
    lane.retire()
    assert lane.closed


def test_costs_are_learned_from_the_batches_themselves(kit: Any, plain_session: Any) -> None:
    lane = kit.lane(plain_session())
    before = lane.costs

    async def main() -> None:
        for _ in range(3):
            await outcomes([one(lane, [1.0, 1.0]) for _ in range(8)])

    asyncio.run(main())
    assert lane.costs != before
    counters = lane.counters()
    assert (counters.requests, counters.rows, counters.batches, counters.largest) == (24, 24, 3, 8)
    assert sum(counters.latencies) == 24
    assert counters.run_seconds > 0


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_share_that_is_recorded_holds_for_batches(kit: Any, plain_session: Any, share: float) -> None:
    lane = kit.lane(plain_session(), record=share)

    async def main() -> None:
        for _ in range(20):
            await outcomes([*(one(lane, [1.0, 1.0]) for _ in range(40)), several(lane, [[1.0, 2.0]] * 2)])

    asyncio.run(main())
    requests = {key.partition("#")[0] for key in kit.recorded()}
    assert len(requests) == pytest.approx(820 * share, abs=20)


def test_errors_of_the_batcher_are_the_houses_own(kit: Any, plain_session: Any) -> None:
    def answers(X: Any) -> Any:
        raise KeyError("inner")

    lane = kit.lane(plain_session(answers=answers))

    async def main() -> None:
        (error,) = await outcomes([one(lane, [1.0, 1.0])])
        assert isinstance(error, EverloopError)
        assert "KeyError: 'inner'" in error.message

    asyncio.run(main())
