"""Workers are kept, lent to one run at a time, and ended when nobody has wanted them for a while."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.parallel import workloads

from everloop.parallel.executors.opening import open_executor
from everloop.parallel.pool import PoolManager, get_global_pool_manager
from everloop.parallel.work import Chunk
from everloop.testing import ManualClock


def pid_of_a_run(pool: PoolManager) -> Any:
    executor = open_executor("process", workloads.pid, 1, pool=pool)
    executor.submit(Chunk(0, 0, [None]))
    (done,) = executor.collect()
    executor.close()
    return done.values[0]


def test_the_next_run_gets_the_same_worker(pool: PoolManager) -> None:
    assert pid_of_a_run(pool) == pid_of_a_run(pool)
    stats = pool.stats()
    assert (stats["idle"], stats["busy"], stats["started"], stats["reused"]) == (1, 0, 1, 1)


def test_a_worker_that_died_in_its_idleness_is_not_lent(pool: PoolManager) -> None:
    first = pid_of_a_run(pool)
    (worker,) = pool._idle
    worker.kill()
    worker._process.wait()
    assert pid_of_a_run(pool) != first
    assert pool.stats()["started"] == 2


def test_a_run_in_the_middle_of_something_does_not_give_its_worker_back(pool: PoolManager) -> None:
    executor = open_executor("process", workloads.sleep, 1, pool=pool)
    executor.submit(Chunk(0, 0, [0.0]))
    executor.collect()
    executor.submit(Chunk(1, 0, [60.0]))
    executor.close()
    assert pool.stats()["idle"] == pool.stats()["busy"] == 0


def test_a_limit_is_shared_but_nobody_gets_nothing() -> None:
    with PoolManager(max_workers=3) as pool:
        first = open_executor("process", workloads.same, 2, pool=pool)
        second = open_executor("process", workloads.same, 2, pool=pool)
        third = open_executor("process", workloads.same, 2, pool=pool)
        assert [each.workers for each in (first, second, third)] == [2, 1, 1]
        for each in (first, second, third):
            each.close()
        assert pool.stats()["idle"] == 4


def test_workers_started_ahead_are_there(pool: PoolManager) -> None:
    pool.warm(2)
    pool.warm(2)
    assert pool.stats()["started"] == 2
    pid_of_a_run(pool)
    assert pool.stats()["started"] == 2
    assert pool.stats()["reused"] == 1


class SteppedClock(ManualClock):
    """Time passes when the test says so, and somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []
        self.asked = threading.Semaphore(0)
        self.passed = threading.Semaphore(0)

    def wait(self, event: threading.Event, timeout: float) -> bool:
        self.waited.append(timeout)
        self.asked.release()
        self.passed.acquire(timeout=10)
        return event.is_set()


def test_idle_workers_end_after_a_while_and_not_before() -> None:
    clock = SteppedClock()
    pool = PoolManager(max_idle_seconds=60.0, clock=clock)
    pid_of_a_run(pool)
    assert clock.asked.acquire(timeout=10)
    reaper = pool._reaper
    assert reaper is not None
    clock.advance(59.0)
    clock.passed.release()
    assert clock.asked.acquire(timeout=10)
    assert pool.stats()["idle"] == 1
    assert clock.waited == [60.0, 1.0]
    clock.advance(1.0)
    clock.passed.release()
    reaper.join(10)
    assert pool.stats()["idle"] == 0
    clock.passed.release()
    pid_of_a_run(pool)  # and it can be used again
    pool.shutdown()


def test_a_shut_pool_has_nothing_running_and_can_be_used_again(pool: PoolManager) -> None:
    first = pid_of_a_run(pool)
    pool.shutdown()
    pool.shutdown()
    assert pool.stats()["idle"] == 0
    assert pid_of_a_run(pool) != first


def test_without_a_process_to_be_had_the_error_is_the_systems(
    pool: PoolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "no more processes")

    monkeypatch.setattr("everloop.parallel.executors.handle.subprocess.Popen", refuse)
    with pytest.raises(OSError, match="no more processes"):
        pool.lease(2)
    assert pool.stats()["busy"] == 0


def test_fewer_will_do_where_only_some_can_be_started(pool: PoolManager, monkeypatch: pytest.MonkeyPatch) -> None:
    from everloop.parallel.executors import handle

    started = handle.subprocess.Popen
    left = [1]

    def scarce(*args: Any, **kwargs: Any) -> Any:
        if not left.pop() if left else True:
            raise BlockingIOError(11, "no more processes")
        return started(*args, **kwargs)

    monkeypatch.setattr("everloop.parallel.executors.handle.subprocess.Popen", scarce)
    executor = open_executor("process", workloads.same, 3, pool=pool)
    assert executor.workers == 1
    executor.close()


def test_the_one_that_runs_use_by_default_is_always_the_same() -> None:
    assert get_global_pool_manager() is get_global_pool_manager()
