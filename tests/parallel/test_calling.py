"""One long call in a process of its own: its answer, its errors, its end."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from pathlib import Path

import pytest
from tests.parallel import workloads

from everloop.core.errors import ItemFailed, ItemTimeout, NotPicklable, WorkerDied
from everloop.parallel.executors import calling
from everloop.parallel.executors.calling import Caller


def test_bytes_go_in_and_come_out_and_the_process_stays() -> None:
    with contextlib.closing(Caller(workloads.answer)) as caller:
        first = caller.call(b"pid")
        assert caller.call(b"pid") == first
        assert caller.call(b"x" * (3 << 20)) == b"X" * (3 << 20)
        assert caller.alive
    assert not caller.alive


def test_what_is_raised_comes_in_words_and_ends_nothing() -> None:
    with contextlib.closing(Caller(workloads.answer)) as caller:
        with pytest.raises(ItemFailed, match="ValueError: no such"):
            caller.call(b"raise")
        assert caller.call(b"x") == b"X"


def test_a_limit_is_kept_and_its_last_words_are_told() -> None:
    with contextlib.closing(Caller(workloads.answer)) as caller:
        caller.call(b"x")
        with pytest.raises(ItemTimeout, match="it last said: going to sleep"):
            caller.call(b"sleep", time_limit=0.2)
        assert not caller.alive


def test_its_death_is_told_with_its_last_words() -> None:
    with (
        contextlib.closing(Caller(workloads.answer)) as caller,
        pytest.raises(WorkerDied, match="killed by signal 9; it last said: farewell"),
    ):
        caller.call(b"die")


def test_another_thread_ends_it(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with contextlib.closing(Caller(workloads.answer)) as caller:
        raised: list[BaseException] = []

        def call() -> None:
            try:
                caller.call(b"hang " + str(begun).encode())
            except WorkerDied as error:
                raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        pause = threading.Event()
        while not begun.exists():
            pause.wait(0.01)
        caller.kill()
        thread.join(10)
        assert len(raised) == 1


def test_a_function_that_it_cannot_load_is_refused() -> None:
    class Lost(workloads.Sealed):
        def __call__(self, data: bytes) -> bytes:
            return data

    with contextlib.closing(Caller(Lost())) as caller, pytest.raises(NotPicklable, match="sealed"):
        caller.call(b"x")


def test_low_priority_and_few_threads() -> None:
    with contextlib.closing(Caller(workloads.answer, niceness=5, blas_threads=1)) as caller:
        assert caller.call(b"nice") == b"5"


def test_waiting_for_a_core_does_not_count_where_only_its_own_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = itertools.count(10.0, 30.0)
    monkeypatch.setattr(calling, "starved", lambda pid: next(waited))
    with contextlib.closing(Caller(workloads.answer)) as caller:
        with pytest.raises(ItemTimeout, match="it took longer than 0 s"):
            caller.call(b"sleep", time_limit=0.0)
        assert not caller.alive
    with contextlib.closing(Caller(workloads.answer)) as caller:
        assert caller.call(b"x", time_limit=0.0, own_time=True) == b"X", (
            "it was excused for half a second, then for long"
        )


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux's lowest class of priority")
def test_the_nicest_runs_only_where_nobody_else_would() -> None:
    with contextlib.closing(Caller(workloads.answer, niceness=19)) as caller:
        assert caller.call(b"nice") == b"19"
        assert os.sched_getscheduler(caller.pid) == os.SCHED_IDLE
        assert os.getsid(caller.pid) == os.getsid(0), "niceness counts within a session"
        assert os.getpgid(caller.pid) == caller.pid, "and it can be killed with all that it has started"
