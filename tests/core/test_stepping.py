"""A thread of steps: woken, failing, stopped, started again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from everloop.core.clock import SystemClock
from everloop.core.stepping import StepThread

NAME = "everloop-test-steps"
PATIENCE = 20.0


def stepping(step: Callable[[], bool], **more: Any) -> StepThread:
    def rest(_: bool) -> None:
        made.wake.wait(PATIENCE)

    given = {"rest": rest, "backoff": lambda _: 0.0} | more
    made = StepThread(NAME, step, clock=SystemClock(), **given)
    return made


def count() -> int:
    return sum(thread.name == NAME for thread in threading.enumerate())


def test_it_is_one_thread_that_news_wake_while_it_is_started() -> None:
    listeners: list[Callable[[], None]] = []
    stepped = threading.Semaphore(0)

    def subscribe(listener: Callable[[], None]) -> Callable[[], None]:
        listeners.append(listener)
        return lambda: listeners.remove(listener)

    def step() -> bool:
        stepped.release()
        return True

    steps = stepping(step, news=[subscribe])
    assert steps.alive
    assert not steps.running
    for _ in range(2):
        steps.start()
        steps.start()
        assert (count(), len(listeners)) == (1, 1)
        assert stepped.acquire(timeout=PATIENCE)
        listeners[0]()
        assert stepped.acquire(timeout=PATIENCE)
        assert steps.running
        assert not steps.is_current
        steps.stop()
        steps.stop()
        assert (count(), listeners, steps.running, steps.alive) == (0, [], False, True)


def test_it_outlives_what_a_step_raises_and_tells_when_nothing_else_comes() -> None:
    failures: list[int] = []
    hopeless, go, rested = threading.Event(), threading.Event(), threading.Event()

    def step() -> bool:
        if len(failures) == 5:
            hopeless.set()
            assert go.wait(PATIENCE)
            return False
        raise OSError("the disk is away")

    def backoff(failed: int) -> float:
        failures.append(failed)
        return 0.0

    def rest(did: bool) -> None:
        assert not did
        rested.set()
        steps.wake.wait(PATIENCE)

    steps = stepping(step, rest=rest, backoff=backoff)
    steps.start()
    assert hopeless.wait(PATIENCE)
    assert failures == [1, 2, 3, 4, 5]
    assert not steps.alive
    go.set()
    assert rested.wait(PATIENCE)
    assert steps.alive
    assert "the disk is away" in steps.last_error
    steps.stop()


def test_a_step_may_stop_its_own_thread() -> None:
    threads: list[threading.Thread] = []
    asked = threading.Event()

    def step() -> bool:
        assert steps.is_current
        threads.append(threading.current_thread())
        steps.stop()
        asked.set()
        return True

    steps = stepping(step)
    steps.start()
    assert asked.wait(PATIENCE)
    threads[0].join(PATIENCE)
    assert (count(), steps.running) == (0, False)
