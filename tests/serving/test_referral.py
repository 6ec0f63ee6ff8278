"""Where a challenger fails the champion answers: singly, in batches, in process and on an event loop, also when it hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from everloop.core.errors import InvalidInput, ModelFailed, Overloaded
from everloop.policy.batching import BatchRules
from everloop.policy.bins import latency_bin
from everloop.policy.routing import allocate
from everloop.serving import answering, batch, batcher, queueing
from everloop.serving.evidence import Tally
from everloop.serving.guard import Guard
from everloop.serving.split import Arm, Split
from everloop.serving.tickets import FutureTicket
from everloop.serving.worker import Worker


def raises(X: Any) -> Any:
    raise RuntimeError("no")


FAILING: dict[str, Callable[[Any], Any]] = {
    "raised": raises,
    "not_finite": lambda X: np.full(len(X), np.nan),
    "shape": lambda X: np.zeros((len(X), 3)),
}


class Hangs:
    """A model that waits for an event that does not come before the test is over."""

    def __init__(self) -> None:
        self.released, self.entered = threading.Event(), threading.Event()

    def __call__(self, X: Any) -> Any:
        self.entered.set()
        assert self.released.wait(60)
        return X[:, 0] * 100


@pytest.fixture
def hangs() -> Iterator[Hangs]:
    hanging = Hangs()
    yield hanging
    hanging.released.set()


async def ask(arm: Arm, row: list[float]) -> Any:
    loop = asyncio.get_running_loop()
    ticket = FutureTicket(loop)
    arm.lane.batcher_for(loop).submit(ticket, row, arm)
    return await ticket.future


async def ask_rows(arm: Arm, rows: list[list[float]]) -> Any:
    loop = asyncio.get_running_loop()
    ticket = FutureTicket(loop)
    arm.lane.batcher_for(loop).submit_rows(ticket, rows, arm)
    return await ticket.future


def drawn(arm: Arm) -> Callable[[list[float]], Any]:
    """One row in process, of whoever drew this arm."""
    lane = arm.lane if arm.champion is None else arm.champion
    return Split(
        lane, [arm.lane], allocate({arm.lane.version: 1.0}, salt="m"), tallies={arm.lane.version: arm.tally}
    ).answer


WAYS: dict[str, Callable[[Arm], Any]] = {
    "one in process": lambda arm: drawn(arm)([7.0]),
    "several in process": lambda arm: arm.answer_rows([[7.0], [7.0]]),
    "one on a loop": lambda arm: asyncio.run(ask(arm, [7.0])),
    "several on a loop": lambda arm: asyncio.run(ask_rows(arm, [[7.0], [7.0]])),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", FAILING)
def test_the_champion_answers_and_says_so(kit: Any, plain_session: Any, how: str, way: str) -> None:
    arm = kit.play(challenger=plain_session(1, FAILING[how]))
    arm.lane.session.batches.clear()
    answer = WAYS[way](arm)
    assert answer.model_version == 1
    assert answer.prediction == 7.0 if way.startswith("one") else answer.predictions == [7.0, 7.0]
    seen = kit.seen()
    assert (seen.challenger.requests, seen.challenger.failed) == (1, 1)
    assert seen.challenger.kinds == seen.challenger.decisive == {how: 1}
    assert (seen.champion.requests, seen.champion.failed) == (0, 0), "it was not assigned to the champion"
    (key, _), *_ = kit.recorded().items()
    assert key.startswith(answer.request_id), "recorded where it was answered"
    assert arm.lane.counters().referred == 1


@pytest.mark.parametrize("way", WAYS)
def test_if_both_fail_the_challengers_error_is_told(kit: Any, plain_session: Any, way: str) -> None:
    arm = kit.play(champion=plain_session(1, FAILING["shape"]), challenger=plain_session(1, FAILING["not_finite"]))
    with pytest.raises(ModelFailed, match="version 2") as caught:
        WAYS[way](arm)
    assert caught.value.how == "not_finite"
    seen = kit.seen()
    assert seen.challenger.kinds == {"not_finite": 1}
    assert seen.challenger.decisive == {}


def test_the_champions_own_failures_are_its_callers(kit: Any, plain_session: Any) -> None:
    kit.play(champion=plain_session(1, raises))
    arm = kit.arm(1)
    for way in WAYS.values():
        with pytest.raises(ModelFailed, match="version 1"):
            way(arm)
    seen = kit.seen()
    assert (seen.champion.requests, seen.champion.failed, seen.champion.kinds) == (4, 4, {"raised": 4})
    assert seen.challenger.requests == 0


def test_in_a_batch_only_the_failing_requests_change_hands(kit: Any, plain_session: Any) -> None:
    """Rows of 0 fail: they are halved out, and only they are the champion's."""

    def odd(X: Any) -> Any:
        if (X == 0).any():
            raise ValueError("zero")
        return X[:, 0] * 2

    arm = kit.play(challenger=plain_session(1, odd))

    async def main() -> list[Any]:
        asked = [ask(arm, [float(i % 4)]) for i in range(40)]
        asked += [ask_rows(arm, [[1.0], [float(i)]]) for i in range(3)]
        return await asyncio.gather(*asked)

    answers = asyncio.run(main())
    for i, answer in enumerate(answers[:40]):
        assert (answer.model_version, answer.prediction) == ((1, 0.0) if i % 4 == 0 else (2, 2.0 * (i % 4)))
    assert [a.model_version for a in answers[40:]] == [1, 2, 2]
    assert [a.predictions for a in answers[40:]] == [[1.0, 0.0], [2.0, 2.0], [2.0, 4.0]]
    seen = kit.seen()
    assert (seen.challenger.requests, seen.challenger.failed) == (43, 11)
    assert seen.challenger.assigned == seen.challenger.settled == seen.challenger.alone == {0: 43}
    assert len(kit.recorded()) == 46, "each row once"


def test_what_the_way_to_a_thread_takes_is_not_weighed(
    kit: Any, plain_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that waits a second for a core, before it runs and before it tells, is no slow model."""
    late = 0.0

    def clock() -> float:
        return time.perf_counter() + late

    class Late(Worker):
        def submit(self, call: Callable[[], Any]) -> None:
            def wait_and_call() -> None:
                nonlocal late
                late += 1.0
                call()

            super().submit(wait_and_call)

    for module in (answering, batch, batcher, queueing):
        monkeypatch.setattr(module, "perf_counter", clock)
    monkeypatch.setattr(batcher, "Worker", Late)
    arm = kit.play(challenger=plain_session(1, lambda X: X[:, 0] * 2))

    async def main() -> None:
        for i in range(3):
            assert (await ask(arm, [float(i)])).prediction == 2.0 * i

    asyncio.run(main())
    assert late == 3.0
    latencies = kit.seen().challenger.latencies
    assert sum(latencies.values()) == 3
    assert max(latencies) < latency_bin(0.5)


def test_a_run_that_hangs_is_given_up_and_its_requests_answered(kit: Any, plain_session: Any, hangs: Hangs) -> None:
    arm = kit.play(challenger=plain_session(1, lambda X: X[:, 0] * 2), timeout=0.05)
    woken: list[None] = []
    kit.reconciler.evidences.subscribe(lambda: woken.append(None))
    arm.lane.session.answers = hangs

    async def main() -> list[Any]:
        first = asyncio.ensure_future(ask(arm, [1.0]))
        await asyncio.to_thread(hangs.entered.wait)
        return await asyncio.gather(first, *(ask(arm, [float(i)]) for i in range(2, 6)), ask_rows(arm, [[6.0], [7.0]]))

    *single, several = asyncio.run(main())
    assert [(a.model_version, a.prediction) for a in single] == [(1, float(i)) for i in range(1, 6)]
    assert (several.model_version, several.predictions) == (1, [6.0, 7.0])
    seen = kit.seen()
    assert seen.challenger.settled == {0: 6}
    assert seen.challenger.kinds == {"timeout": 1}, "what waited behind it was never tried"
    assert seen.challenger.decisive == {"timeout": 1}
    assert "longer than 0.05 s" in seen.lost
    assert not seen.open
    assert woken
    split = kit.table.current.splits["m"]
    assert {split.route().lane.version for _ in range(500)} == {1}, "out of routing at once"
    kit.reconciler.step()
    assert "m" not in kit.table.current.splits
    kit.reconciler.step()
    assert kit.reconciler.challenger_failures["m", 2].error.how == "timeout"
    assert [e.version for e in kit.events if e.kind == "guard"] == [2]
    hangs.released.set()


@pytest.mark.parametrize("way", ["one in process", "several in process"])
def test_a_caller_in_process_is_not_held_either(kit: Any, plain_session: Any, hangs: Hangs, way: str) -> None:
    arm = kit.play(challenger=plain_session(1, lambda X: X[:, 0] * 2), timeout=0.05)
    one = drawn(arm)
    arm.lane.session.answers = hangs
    for _ in range(2):  # who had drawn it before does not wait again
        answer = one([7.0]) if way.startswith("one") else arm.answer_rows([[7.0], [7.0]])
        assert answer.model_version == 1
    assert kit.seen().challenger.decisive == {"timeout": 2}
    assert kit.predictor.predict("m", [3.0]).model_version == 1


def test_a_hung_thread_does_not_keep_the_process_from_ending(hangs: Hangs) -> None:
    """Daemons, all of them: the interpreter joins the others when it ends."""
    runner = _runner()
    guard = Guard("m", 0.01, lambda error: None)
    with pytest.raises(ModelFailed, match="longer than"):
        guard.run(runner, hangs, np.zeros((1, 1)))
    (hung,) = (thread for thread in threading.enumerate() if thread.name.startswith("everloop-guarded"))
    assert hung.daemon
    hangs.released.set()
    hung.join(20)


def test_idle_threads_are_used_again_and_end_with_the_guard() -> None:
    runner, lost = _runner(), []
    guard = Guard("m", 60.0, lost.append)
    names = {guard.run(runner, lambda _: threading.get_ident(), None) for _ in range(20)}
    assert len(names) == 1
    with pytest.raises(InvalidInput):
        guard.run(runner, lambda _: (_ for _ in ()).throw(InvalidInput("bad")), None)
    guard.close()
    assert guard.run(runner, lambda _: 5, None) == 5, "a late call is still made"
    assert lost == []


def test_a_timer_that_comes_too_late_harms_nobody(kit: Any, plain_session: Any) -> None:
    """The run is over when the watchdog barks: its answer counts."""
    arm = kit.play(challenger=plain_session(1, lambda X: X[:, 0] * 2))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batcher = arm.lane.batcher_for(loop)
        answer = await ask(arm, [1.0])
        assert answer.model_version == 2
        assert batcher.idle
        assert arm.lane.runner.guard is not None
        ran = []
        batcher._overrun(ran, arm.lane.runner.guard)  # type: ignore[arg-type]

    asyncio.run(main())
    assert kit.seen().lost == ""


def test_a_full_queue_is_the_champions_work(kit: Any, plain_session: Any, hangs: Hangs) -> None:
    rules = BatchRules(max_rows=1, queue_rows=1)
    slow = kit.lane(plain_session(1), version=2, rules=rules)
    champion = kit.lane(plain_session(1), version=1)
    slow.session.answers = hangs
    slow.runner.guard = Guard("m", 60.0, lambda error: None)
    tally = Tally()
    split = Split(champion, [slow], allocate({2: 1.0}, salt="m"), tallies={2: tally})
    arm = split.route()

    async def main() -> Any:
        first = asyncio.ensure_future(ask(arm, [1.0]))
        await asyncio.to_thread(hangs.entered.wait)
        second = asyncio.ensure_future(ask(arm, [2.0]))
        await asyncio.sleep(0)
        third = await ask(arm, [3.0])
        fourth = await ask_rows(arm, [[4.0], [5.0]])
        with pytest.raises(Overloaded):
            slow.batcher_for(asyncio.get_running_loop()).submit(FutureTicket(asyncio.get_running_loop()), [6.0])
        hangs.released.set()
        return await first, await second, third, fourth

    first, second, third, fourth = asyncio.run(main())
    assert [a.model_version for a in (first, second, third, fourth)] == [2, 2, 1, 1]
    assert slow.counters().refused == 3
    slow.retire()


def test_who_asks_for_a_version_by_number_gets_its_own_error(kit: Any, plain_session: Any) -> None:
    kit.play(challenger=plain_session(1, raises))

    async def main() -> None:
        with pytest.raises(ModelFailed, match="version 2"):
            await kit.predictor.predict_async("m", [1.0], version=2)
        with pytest.raises(ModelFailed, match="version 2"):
            await kit.predictor.predict_batch_async("m", [[1.0]], "somebody", version=2)
        assert (await kit.predictor.predict_async("m", [1.0], version=1)).model_version == 1

    asyncio.run(main())
    seen = kit.seen()
    assert seen.challenger.requests == seen.champion.requests == 0, "chosen, not drawn: no evidence"


def test_a_promoted_lane_is_an_ordinary_one(kit: Any, plain_session: Any) -> None:
    arm = kit.play(challenger=plain_session(1, lambda X: X[:, 0] * 2))
    lane = arm.lane
    assert lane.answer_guarded([1.0]).prediction == 2.0
    kit.registry.promote("m", 2)
    kit.reconciler.step()
    assert kit.table.current.lanes["m"] is lane
    assert "m" not in kit.table.current.splits
    assert lane.runner.guard is None
    lane.session.threads.clear()
    kit.predictor.predict("m", [1.0])
    assert lane.session.threads == {threading.current_thread().name}


def _runner() -> Any:
    class Runner:
        def failed(self, what: str, how: Any = "raised") -> ModelFailed:
            error = ModelFailed(what)
            error.how = how
            return error

    return Runner()
