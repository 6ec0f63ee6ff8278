"""Batches by the settings of a model: windows, latency targets, deadlines, and changes while it serves."""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter
from typing import Any

import pytest

from everloop.core.errors import DeadlineExceeded, InvalidInput, Overloaded
from everloop.policy.batching import BatchRules, CostCurve
from everloop.policy.pacing import REASONS, Pace
from everloop.serving import config
from everloop.serving.config import ServingConfig, effective, merged
from everloop.serving.tickets import FutureTicket

HOUR = 3600.0


def ask(lane: Any, payload: Any, *, deadline: float | None = None) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    ticket = FutureTicket(loop)
    batcher = lane.batcher_for(loop)
    if isinstance(payload[0], list):
        batcher.submit_rows(ticket, payload, deadline=deadline)
    else:
        batcher.submit(ticket, payload, deadline=deadline)
    return ticket.future


def released(lane: Any) -> dict[str, int]:
    return {why: n for why, n in zip(REASONS, lane.counters().released, strict=True) if n}


class Gate:
    """A model whose first run waits to be let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self, X: Any) -> Any:
        if X[0, 0] == 0.0:
            self.entered.set()
            assert self.go.wait(60)
        return X[:, 0]

    async def held(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 60)


# -- windows --


def test_without_a_window_nobody_waits(kit: Any, plain_session: Any) -> None:
    lane = kit.lane(plain_session())

    async def main() -> None:
        await asyncio.gather(*(ask(lane, [float(i), 0.0]) for i in range(3)))
        await ask(lane, [1.0, 0.0])

    asyncio.run(main())
    assert released(lane) == {"idle": 2}


def test_a_window_is_waited_for_once_and_a_full_batch_is_not(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(max_rows=4, queue_rows=64, window_seconds=0.05))

    async def main() -> None:
        first = ask(lane, [1.0, 0.0])
        await asyncio.sleep(0)
        second = ask(lane, [2.0, 0.0])
        for _ in range(5):
            await asyncio.sleep(0)
        assert session.batches == []
        assert [a.prediction for a in await asyncio.gather(first, second)] == [1.0, 2.0]
        assert session.batches == [2]
        await asyncio.gather(*(ask(lane, [float(i), 0.0]) for i in range(4)))
        assert session.batches == [2, 4]

    asyncio.run(main())
    assert released(lane) == {"window": 1, "full": 1}
    counts = lane.counters()
    assert counts.queued_seconds >= 0.04
    assert sum(counts.queued) == sum(counts.ran) == counts.requests == 6


def test_a_full_batch_takes_the_window_of_what_is_left_with_it(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(max_rows=4, queue_rows=64, window_seconds=HOUR))

    async def main() -> None:
        futures = [ask(lane, [float(i), 0.0]) for i in range(2)]
        await asyncio.sleep(0)
        futures += [ask(lane, [float(i), 0.0]) for i in range(2, 4)]
        await asyncio.gather(*futures)
        late = ask(lane, [9.0, 0.0])
        await asyncio.sleep(0)
        assert session.batches == [4]
        lane.configure(ServingConfig(max_batch_size=2))
        assert (await asyncio.gather(late, ask(lane, [8.0, 0.0])))[0].prediction == 9.0

    asyncio.run(main())
    assert session.batches == [4, 2]


def test_a_window_ends_before_the_target_or_a_deadline_is_missed(kit: Any, plain_session: Any) -> None:
    rules = BatchRules(window_seconds=HOUR, target_seconds=0.05)
    lane = kit.lane(plain_session(), rules=rules)
    asyncio.run(_answered(lane))
    assert released(lane) == {"target": 1}
    lane = kit.lane(plain_session(), rules=BatchRules(window_seconds=HOUR))

    async def main() -> None:
        patient = ask(lane, [1.0, 0.0])
        await asyncio.sleep(0)
        hasty = ask(lane, [2.0, 0.0], deadline=perf_counter() + 2.0)
        assert [a.prediction for a in await asyncio.gather(patient, hasty)] == [1.0, 2.0]

    asyncio.run(main())
    assert released(lane) == {"deadline": 1}


async def _answered(lane: Any) -> None:
    assert (await ask(lane, [1.0, 2.0])).prediction == 3.0


# -- a target --


def test_a_target_holds_batches_small_and_says_so(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(target_seconds=0.05, inline_seconds=HOUR))

    async def main() -> None:
        batcher = lane.batcher_for(asyncio.get_running_loop())
        batcher.costs = Pace(
            CostCurve((1, 101), (0.010, 0.030))
        )  # 51 rows: 20 ms, two of which are 0.8 times the target
        batcher.configure(batcher.rules)
        assert batcher.size == lane.full_rows == pytest.approx(51, abs=5)
        size = batcher.size
        await asyncio.gather(*(ask(lane, [float(i), 0.0]) for i in range(size + 1)))
        assert session.batches == [size, 1]

    asyncio.run(main())
    assert released(lane) == {"target": 1, "idle": 1}


def test_a_queue_that_is_too_late_is_worked_off_as_fast_as_can_be(kit: Any, plain_session: Any) -> None:
    gate = Gate()
    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(max_rows=64, target_seconds=0.02, inline_seconds=0.0))
    session.answers = gate

    async def main() -> None:
        batcher = lane.batcher_for(asyncio.get_running_loop())
        batcher.costs = Pace(CostCurve((1, 64), (0.009, 0.02)))
        batcher.configure(batcher.rules)
        assert batcher.size < 10
        first = ask(lane, [0.0, 0.0])
        await gate.held()
        rest = [ask(lane, [float(i), 0.0]) for i in range(1, 65)]
        batcher._queue.times[0] -= HOUR
        gate.go.set()
        await asyncio.gather(first, *rest)
        assert session.batches == [1, 64]

    asyncio.run(main())
    lane.retire()


# -- deadlines --


def test_a_deadline_that_cannot_be_kept_is_refused_at_the_door(kit: Any, plain_session: Any) -> None:
    session = plain_session()
    lane = kit.lane(session)

    async def main() -> None:
        with pytest.raises((DeadlineExceeded, Overloaded)):
            ask(lane, [1.0, 0.0], deadline=perf_counter() - 1)
        assert (await ask(lane, [1.0, 0.0], deadline=perf_counter() + HOUR)).prediction == 1.0

    asyncio.run(main())
    assert session.batches == [1]
    assert lane.counters().refused == 1


def test_a_deadline_that_passes_in_the_queue_is_told_while_another_batch_runs(kit: Any, plain_session: Any) -> None:
    gate = Gate()
    session = plain_session()
    lane = kit.lane(session, rules=BatchRules(inline_seconds=0.0))
    session.answers = gate

    async def main() -> None:
        first = ask(lane, [0.0, 0.0])
        await gate.held()
        patient = ask(lane, [1.0, 0.0])
        batcher = lane.batcher_for(asyncio.get_running_loop())
        hasty = [FutureTicket(asyncio.get_running_loop()) for _ in range(2)]
        now = perf_counter()
        for ticket, deadline in zip(
            hasty, (now + 0.2, now + 0.05), strict=True
        ):  # past the door: the run was to be short
            batcher._queue.add(ticket, [2.0, 0.0], 0, None, deadline, now)
            batcher._heed(deadline, now)
        for ticket in hasty:
            with pytest.raises(DeadlineExceeded):
                await ticket.future
        assert not first.done(), "the model still runs"
        gate.go.set()
        assert [a.prediction for a in await asyncio.gather(first, patient)] == [0.0, 1.0]

    asyncio.run(main())
    assert session.batches == [1, 1]
    assert lane.counters().expired == 2
    lane.retire()


def test_the_predictor_and_its_callers_pass_deadlines_on(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.reconciler.step()

    async def main() -> None:
        with pytest.raises((DeadlineExceeded, Overloaded)):
            await kit.predictor.predict_async("m", [1.0], deadline=perf_counter() - 1)
        with pytest.raises((DeadlineExceeded, Overloaded)):
            await kit.predictor.predict_batch_async("m", [[1.0], [2.0]], deadline=perf_counter() - 1)
        answer = await kit.predictor.predict_batch_async("m", [[1.0], [2.0]], deadline=perf_counter() + HOUR)
        assert answer.predictions == [1.0, 2.0]

    asyncio.run(main())


# -- what is left over --


def test_a_partial_batch_leaves_who_waits_in_order_with_all_that_is_theirs(kit: Any, plain_session: Any) -> None:
    session = plain_session(answers=lambda X: X[:, 0])
    lane = kit.lane(session, rules=BatchRules(max_rows=4, queue_rows=64, inline_seconds=HOUR))

    async def main() -> None:
        later = perf_counter() + HOUR
        futures = [
            ask(lane, [1.0, 0.0]),
            ask(lane, [[2.0, 0.0], [3.0, 0.0]]),
            ask(lane, [[4.0, 0.0]] * 3, deadline=later),
            ask(lane, [5.0, 0.0]),
            ask(lane, [[float(i), 0.0] for i in range(6, 15)]),
            ask(lane, [15.0, 0.0], deadline=later),
        ]
        found = await asyncio.gather(*futures)
        assert [getattr(a, "predictions", None) or a.prediction for a in found] == [
            1.0,
            [2.0, 3.0],
            [4.0] * 3,
            5.0,
            [float(i) for i in range(6, 15)],
            15.0,
        ]

    asyncio.run(main())
    assert session.batches == [3, 4, 4, 4, 1, 1]


# -- how it is said --


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_batch_size": 1.5}, "max_batch_size"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"max_queue": 0}, "max_queue"),
        ({"window_ms": -1}, "window_ms"),
        ({"window_ms": float("nan")}, "window_ms"),
        ({"target_latency_ms": "soon"}, "target_latency_ms"),
        ({"max_wait_ms": -5}, "max_wait_ms"),
        ({"cache": 1}, "cache"),
        ({"cache_ttl_sec": 0}, "cache_ttl_sec"),
        ({"isolation": "moon"}, "isolation"),
        ({"loaded": None}, "loaded"),
        ({"max_batchsize": 3}, "max_batchsize"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(said: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        effective(ServingConfig(), said)
    assert caught.value.field == f"serving.{field}"
    if field == "max_batchsize":
        assert "max_batch_size" in caught.value.message


def test_rules_are_in_seconds_and_a_queue_has_room_for_a_batch() -> None:
    rules = ServingConfig(max_batch_size=10_000, window_ms=5, target_latency_ms=50).rules
    assert (rules.max_rows, rules.queue_rows) == (10_000, 10_000)
    assert (rules.window_seconds, rules.target_seconds) == (0.005, 0.05)
    assert ServingConfig(target_latency_ms=0).rules.target_seconds is None


def test_a_change_leaves_the_rest_and_none_takes_back() -> None:
    assert merged({"cache": True, "window_ms": 3}, {"window_ms": None, "max_queue": 9}) == {
        "cache": True,
        "max_queue": 9,
    }
    assert effective(config.DEFAULT, {}) is config.DEFAULT


def test_a_change_in_the_registry_is_in_force_at_the_next_step(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.reconciler.step()
    lane = kit.table.current.lanes["m"]

    async def main() -> None:
        await kit.predictor.predict_async("m", [1.0])
        kit.registry.configure("m", {"max_batch_size": 7, "target_latency_ms": 20}, by="somebody")
        kit.reconciler.step()
        assert kit.table.current.lanes["m"] is lane, "nothing is opened anew"
        (batcher,) = lane.batchers
        assert (batcher.rules.max_rows, batcher.rules.target_seconds, batcher.size) == (7, 0.02, 7)
        kit.registry.configure("m", {})
        kit.reconciler.step()
        assert batcher.rules == BatchRules()

    asyncio.run(main())
    told = [event for event in kit.events if event.kind == "configured"]
    assert [event.data for event in told] == [
        {"serving": {"max_batch_size": 7, "target_latency_ms": 20}, "by": "somebody"},
        {"serving": {}},
    ]


def test_what_nobody_here_understands_leaves_what_is_open_as_it_is(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.reconciler.step()
    kit.registry.configure("m", {"of_a_later_release": 1})
    kit.reconciler.step()
    assert kit.predictor.predict("m", [2.0]).prediction == 2.0
    kit.publish("m", [3.0])
    kit.reconciler.step()
    assert kit.predictor.predict("m", [2.0]).prediction == 2.0
    assert "of_a_later_release" in kit.reconciler.failures["m"].error.message


def test_registering_again_says_how_it_is_served_from_now_on(kit: Any) -> None:
    kit.registry.register("m", "linear", task="regression", serving={"cache": True})
    assert kit.registry.register("m", "linear", task="regression").serving == {"cache": True}
    assert kit.registry.register("m", "linear", task="regression", serving={"window_ms": 2}).serving == {"window_ms": 2}
    assert kit.registry.get("m").serving == {"window_ms": 2}
