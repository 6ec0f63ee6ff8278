"""Real processes that are killed, hang, fork, print and are started from every kind of program."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.parallel import workloads

from everloop.core.errors import NotPicklable, WorkerDied
from everloop.parallel.executors.opening import open_executor
from everloop.parallel.executors.processes import ProcessExecutor
from everloop.parallel.pool import PoolManager
from everloop.parallel.work import Chunk, Done


@contextlib.contextmanager
def opened(func: Any, workers: int = 2, pool: PoolManager | None = None) -> Iterator[ProcessExecutor]:
    executor = open_executor("process", func, workers, pool=pool)
    assert isinstance(executor, ProcessExecutor)
    try:
        yield executor
    finally:
        executor.close(kill=True)


def collect(executor: ProcessExecutor, count: int) -> list[Done]:
    found: list[Done] = []
    while len(found) < count:
        found += executor.collect()
    return found


def with_retries(executor: ProcessExecutor) -> list[Done]:
    """Until something has run."""
    while True:
        for done in executor.collect():
            if done.count:
                return [done]
            executor.submit(done.chunk)


def until_gone(pids: list[int]) -> bool:
    return all(_gone(pid) for pid in pids)


def _gone(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        process.wait(10)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return not psutil.pid_exists(pid)
    return True


def program(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    return [sys.executable, str(path)]


# --- deaths ---


def test_a_killed_worker_costs_its_own_chunk_and_is_replaced() -> None:
    with opened(workloads.die) as executor:
        for number, item in enumerate([1, -1, 3, 4]):
            executor.submit(Chunk(number, number, [item]))
        found: dict[int, Done] = {}
        while len(found) < 4:
            for done in executor.collect():
                if done.count or done.lost:
                    found[done.chunk.number] = done
                else:  # it was behind the one that died
                    executor.submit(done.chunk)
        assert found[1].lost == "killed by signal 9"
        assert (found[1].count, found[1].late) == (0, False)
        assert [found[number].values for number in (0, 2, 3)] == [[1], [3], [4]]
        executor.submit(Chunk(5, 0, [5]))
        assert [done.values for done in executor.collect()] == [[5]]
        assert executor.workers == 2


def test_what_was_sent_ahead_to_a_worker_that_dies_is_not_lost() -> None:
    with opened(workloads.die, 1) as executor:
        number = 1_000
        while executor.room <= 3:  # short ones: more and more are sent ahead, as soon as the machine lets them be short
            executor.submit(Chunk(number := number + 1, 0, [number]))
            executor.collect()
        ahead = executor.room
        executor.submit(Chunk(100, 0, [-1]))
        for number in range(101, 100 + ahead):
            executor.submit(Chunk(number, 0, [number]))
        found = collect(executor, ahead)
        assert [done.chunk.number for done in found if done.lost] == [100]
        untouched = [done for done in found if not done.lost]
        for done in untouched:  # not begun, or run by the next worker
            assert done.count == 0 or done.values == done.chunk.items
        assert len(untouched) == ahead - 1
        executor.submit(Chunk(200, 0, [7]))
        assert [done.values for done in executor.collect()] == [[7]]


def test_twenty_deaths_and_every_item_once(tmp_path: Path) -> None:
    tasks = [(n, str(tmp_path / str(n)) if n % 10 == 5 else "") for n in range(200)]
    with opened(workloads.die_once) as executor:
        waiting = [Chunk(n, n, [task]) for n, task in enumerate(tasks)]
        values: list[int] = []
        deaths = 0
        while waiting or executor.running:
            while waiting and executor.room:
                executor.submit(waiting.pop(0))
            for done in executor.collect():
                deaths += done.lost is not None
                if done.count:
                    values += done.values
                else:
                    waiting.append(done.chunk)
        assert sorted(values) == list(range(200))
        assert deaths == 20


def test_a_death_shows_although_a_child_of_the_worker_keeps_its_pipe_open(tmp_path: Path) -> None:
    """And that child does not stay."""
    with opened(workloads.with_child, 1) as executor:
        executor.submit(Chunk(0, 0, [str(tmp_path / "pid")]))
        (done,) = executor.collect()
        assert done.lost == "killed by signal 9"
        orphan = int((tmp_path / "pid").read_text())
        executor.close(kill=True)
    assert _gone(orphan)


def test_code_that_never_comes_back_is_killed_when_its_time_is_long_up() -> None:
    executor = ProcessExecutor(workloads.deaf, 1, PoolManager(), blas_threads=1, owns_pool=True, grace=0.05)
    with contextlib.closing(executor):
        executor.submit(Chunk(0, 10, [0.0, 60.0, 0.0], timeout=0.05))
        (done,) = executor.collect()
        assert done.late
        assert done.lost is not None
        assert "item 11" in done.lost


def test_a_kill_ends_what_runs_at_once() -> None:
    executor = open_executor("process", workloads.sleep, 2)
    executor.submit(Chunk(0, 0, [60.0]))
    assert executor.collect(0.3) == []
    pids = [seat.worker.pid for seat in executor._seats]  # type: ignore[attr-defined]
    executor.close(kill=True)
    assert until_gone(pids)


def test_workers_that_cannot_start_are_an_error_not_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everloop.parallel.executors.handle._BOOT", "import sys; sys.exit(3)")
    with opened(workloads.same, 1) as executor:
        executor.submit(Chunk(0, 0, [1]))
        with pytest.raises(WorkerDied, match="exit status 3"):
            with_retries(executor)


def test_where_a_dead_worker_cannot_be_replaced_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "no more processes")

    with opened(workloads.die) as executor:
        executor.submit(Chunk(0, 0, [0]))
        executor.collect()
        monkeypatch.setattr("everloop.parallel.executors.handle.subprocess.Popen", refuse)
        executor.submit(Chunk(1, 0, [-1]))
        assert collect(executor, 1)[0].lost
        executor.submit(Chunk(2, 0, [2]))
        assert [done.values for done in with_retries(executor)] == [[2]]
        executor.submit(Chunk(3, 0, [-1]))
        with pytest.raises(OSError, match="no more processes"):
            executor.collect()


# --- sent ahead ---


def test_what_waits_behind_a_slow_chunk_is_handed_back() -> None:
    with opened(workloads.sleep, 1) as executor:
        for number in range(40):
            executor.submit(Chunk(number, 0, [0.0]))
            executor.collect()
        ahead = executor.room
        assert ahead > 3
        executor.submit(Chunk(100, 0, [0.1]))
        for number in range(101, 100 + ahead):
            executor.submit(Chunk(number, 0, [0.0]))
        found = collect(executor, ahead)
        assert found[0].values == [0.1]
        assert [done.count for done in found[1:]] == [0] * (ahead - 1)
        assert executor.room <= 1, "nothing more is sent ahead after a slow one"


# --- the function ---


def ignore_signals(item: int) -> int:
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    return item


def handlers(item: int) -> list[bool]:
    return [signal.getsignal(number) == signal.SIG_IGN for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1)]


def test_a_function_s_signal_handlers_are_not_the_next_one_s(pool: PoolManager) -> None:
    """Nor is its alarm instead of ours: items would outstay their timeout."""
    for func, result in ((ignore_signals, 1), (handlers, [False, False, False])):
        with opened(func, 1, pool) as executor:
            executor.submit(Chunk(0, 0, [1]))
            (done,) = collect(executor, 1)
            assert done.values == [result]
    assert pool.stats()["started"] == 1


def test_what_a_function_has_started_ends_with_a_parent_that_dies(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    command = program(
        tmp_path,
        f"""
        import os, signal, subprocess, sys
        from everloop.parallel import execute
        def start(item):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            open({str(path)!r}, "w").write(str(child.pid))
            os.kill({{parent}}, signal.SIGKILL)
            child.wait()
        parent = os.getpid()
        execute(start, [1], executor="process", n_jobs=1)
        """.replace("{{parent}}", "parent").replace("{parent}", "parent"),
    )
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    assert until_gone([int(path.read_text())])


def test_a_caller_with_a_thousand_open_files_has_workers_too(pool: PoolManager) -> None:
    """`select` knows no file descriptor beyond 1023, and a worker's pipes have the numbers that they have here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1100:
        pytest.skip("so many files may not be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030)]
    try:
        with opened(workloads.sleep, 1, pool) as executor:
            executor.submit(Chunk(0, 0, [0.03]))  # long enough for it to look what waits behind
            (done,) = executor.collect()
            assert done.lost is None
            assert executor._seats[0].worker.outlet > 1023
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_function_whose_module_no_worker_can_import_goes_by_value() -> None:
    module = types.ModuleType("made_at_run_time")
    exec("FACTOR = 3\ndef triple(item):\n    return item * FACTOR\n", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        with opened(module.triple, 1) as executor:
            executor.submit(Chunk(0, 0, [2]))
            values = [done.values for done in with_retries(executor)]
        assert values == [[6]]
    finally:
        del sys.modules[module.__name__]


def test_an_old_worker_runs_the_code_that_the_caller_has_reloaded(
    pool: PoolManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "edited_in_a_notebook.py"
    source.write_text("def work(item):\n    return helper(item)\ndef helper(item):\n    return item\n")
    module = importlib.import_module(source.stem)
    try:
        for expected in ([2], [20]):
            with opened(module.work, 1, pool) as executor:
                executor.submit(Chunk(0, 0, [2]))
                assert [done.values for done in with_retries(executor)] == [expected]
            source.write_text(source.read_text().replace("return item", "return item * 10"))
            importlib.reload(module)
        assert pool.stats()["reused"] == 1
    finally:
        del sys.modules[source.stem]


def test_a_function_that_no_worker_can_load_is_refused_with_the_reason() -> None:
    with opened(_Unloadable(), 1) as executor:
        executor.submit(Chunk(0, 0, [2]))
        with pytest.raises(NotPicklable, match="sealed"):
            with_retries(executor)


class _Unloadable(workloads.Sealed):
    def __call__(self, item: int) -> int:
        return item


def test_measured_starts_are_readable(pool: PoolManager) -> None:
    with opened(workloads.same, 1, pool) as executor:
        executor.submit(Chunk(0, 0, [1]))
        executor.collect()
        assert executor.startup.spawn_seconds is not None
        assert executor.startup.load_seconds is not None
        assert 0 < executor.startup.spawn_seconds < 60
        assert executor.startup.load_seconds >= 0
    assert pool.stats()["spawn_seconds"] == executor.startup.spawn_seconds


def test_linear_algebra_gets_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    executor = ProcessExecutor(workloads.blas_threads, 1, PoolManager(), blas_threads=3, owns_pool=True)
    with contextlib.closing(executor):
        executor.submit(Chunk(0, 0, [None]))
        assert executor.collect()[0].values == [["3", "3"]]


def test_what_the_user_has_set_counts_for_more(monkeypatch: pytest.MonkeyPatch, pool: PoolManager) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    for threads in (3, 4):  # the second time the same worker
        executor = ProcessExecutor(workloads.blas_threads, 1, pool, blas_threads=threads)
        executor.submit(Chunk(0, 0, [None]))
        assert executor.collect()[0].values == [["7", str(threads)]]
        executor.close()
    assert pool.stats()["started"] == 1


# --- whole programs ---


def test_a_script_without_a_guard_runs_once_and_workers_print_where_it_prints(tmp_path: Path) -> None:
    script = program(
        tmp_path,
        """
        from everloop.parallel.executors.opening import open_executor
        from everloop.parallel.work import Chunk

        print("once", flush=True)

        class Point:
            def __init__(self, x):
                self.x = x

        def move(point):
            print("moved", flush=True)
            return Point(point.x + 1)

        executor = open_executor("process", move, 1)
        executor.submit(Chunk(0, 0, [Point(1)]))
        (done,) = executor.collect()
        assert type(done.values[0]) is Point and done.values[0].x == 2
        executor.close()
        """,
    )
    result = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["once", "moved"]
    assert result.stderr == ""


_BUSY = """
    import sys
    from everloop.parallel.executors.opening import open_executor
    from everloop.parallel.work import Chunk

    def work(item):
        import os, time
        os.write(1, b"%d\\n" % os.getpid())  # whole lines, also where two workers write at once
        time.sleep(60)

    if __name__ == "__main__":
        executor = open_executor("process", work, 2)
        try:
            for number in range(2):
                executor.submit(Chunk(number, 0, [number]))
            executor.collect()
        finally:
            executor.close(kill=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_no_worker_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        program(tmp_path, _BUSY), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        if how == signal.SIGINT:
            os.killpg(parent.pid, how)  # as a terminal does
        else:
            parent.kill()
        assert until_gone(workers)
        _, said = parent.communicate(timeout=30)
    assert ("KeyboardInterrupt" in said) == (how == signal.SIGINT)
    assert parent.returncode != 0


def test_a_program_ends_although_its_pool_is_warm(tmp_path: Path) -> None:
    script = program(
        tmp_path,
        """
        import os
        from everloop.parallel.executors.opening import open_executor
        from everloop.parallel.pool import get_global_pool_manager
        from everloop.parallel.work import Chunk

        executor = open_executor("process", lambda item: os.getpid(), 1, pool=get_global_pool_manager())
        executor.submit(Chunk(0, 0, [0]))
        print(executor.collect()[0].values[0])
        executor.close()
        """,
    )
    result = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)
    assert _gone(int(result.stdout))
    assert result.stderr == ""


def test_a_forked_child_starts_workers_of_its_own(tmp_path: Path) -> None:
    script = program(
        tmp_path,
        """
        import os, sys
        from everloop.parallel.executors.opening import open_executor
        from everloop.parallel.pool import get_global_pool_manager
        from everloop.parallel.work import Chunk

        def ask():
            executor = open_executor("process", lambda item: os.getpid(), 1, pool=get_global_pool_manager())
            executor.submit(Chunk(0, 0, [0]))
            (done,) = executor.collect()
            executor.close()
            return done.values[0]

        first = ask()
        child = os.fork()
        if child == 0:
            other = ask()
            sys.exit(0 if other != first else 1)  # with its exit handlers
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert ask() == first, "the parent's worker is still there"
        """,
    )
    result = subprocess.run(
        [script[0], "-W", "error::ResourceWarning", *script[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_a_forked_child_leaves_its_parents_run_alone(pool: PoolManager) -> None:
    with opened(workloads.pid, 1, pool) as executor:
        executor.submit(Chunk(0, 0, [None]))
        (first,) = collect(executor, 1)
        child = os.fork()
        if child == 0:
            executor.close(kill=True)
            pool.shutdown()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        executor.submit(Chunk(2, 0, [None]))
        assert collect(executor, 1)[0].values == first.values


def test_two_runs_at_once_do_not_share_workers(pool: PoolManager) -> None:
    found: dict[int, set[int]] = {}

    def work(name: int) -> None:
        with opened(workloads.pid, 2, pool) as executor:
            for number in range(20):
                executor.submit(Chunk(number, 0, [None]))
            found[name] = {done.values[0] for done in collect(executor, 20)}
            both.wait(30)

    both = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0]
    assert found[1]
    assert not found[0] & found[1]
    assert pool.stats()["idle"] == 4
