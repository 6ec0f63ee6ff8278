"""What every test gets: a clock that stands still, reproducible hypothesis runs, and a check that it leaves nothing running.

A test that hangs is dumped, every thread of it, by pytest's own faulthandler (`faulthandler_timeout` in pyproject.toml).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from _pytest.logging import LogCaptureHandler
from hypothesis import HealthCheck, settings
from tests import redis_server as redis_servers
from tests.postgres import Server, Unavailable

from everloop.app.interpreter import one_core_each
from everloop.testing import ManualClock

# Machines are shared and slow at times: an example's own duration says nothing about the code.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

# Hundreds of processes are started here: without bytecode that is kept, each would compile this house and its libraries again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Several tests run at once, each with processes of its own: threads of BLAS for each of them only get in each other's way.
one_core_each(os.environ)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As in whatever a shell runs in the background; our tests start programs that Ctrl-C shall end.
    signal.signal(signal.SIGINT, signal.default_int_handler)

GRACE = 20.0
"""Seconds that a thread or process which was told to stop may take to be gone."""
THREADS_OF_OTHERS = ("_poll_wrapper",)
"""Of gRPC's client: it looks from time to time whether its channel was closed, and nobody can wait for it."""
LIBRARIES_OWN = ("resource_tracker", "semaphore_tracker")
"""Helper processes of multiprocessing and loky: one for the whole run, ended by the interpreter."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start whole programs take longest. They go first, so that none of them is left alone at the end."""
    long = {item.path for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One for all tests."""
    try:
        server = Server()
    except Unavailable as error:
        told = f"NOTHING WAS TESTED AGAINST POSTGRESQL: {error}"
        if os.environ.get("CI"):
            pytest.fail(told, pytrace=False)
        pytest.skip(told)
    yield server
    server.close()


@pytest.fixture
def postgres(postgres_server: Server) -> Iterator[str]:
    """The URL of a database without a model, a label or an event."""
    url = postgres_server.lend()
    yield url
    postgres_server.take_back(url)


@pytest.fixture(scope="session")
def one_redis_server() -> Iterator[redis_servers.Server]:
    """One for all tests."""
    try:
        server = redis_servers.Server()
    except redis_servers.Unavailable as error:
        told = f"NOTHING WAS TESTED AGAINST REDIS: {error}"
        if os.environ.get("CI"):
            pytest.fail(told, pytrace=False)
        pytest.skip(told)
    yield server
    server.close()


@pytest.fixture
def redis_server(one_redis_server: redis_servers.Server) -> Iterator[redis_servers.Server]:
    """Running and empty; a test may stop it, or make it hang."""
    yield one_redis_server
    one_redis_server.restore()


def _children() -> dict[int, str]:
    """Live child processes of this one, pid -> command line."""
    found: dict[int, str] = {}
    for pid in set(_child_pids()) - Server.running - redis_servers.Server.running:
        try:
            process = psutil.Process(pid)
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and not any(own in command for own in LIBRARIES_OWN):
                found[pid] = command
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def _child_pids() -> list[int]:
    tasks = Path("/proc/self/task")
    if not (tasks / str(os.getpid()) / "children").exists():
        return [process.pid for process in psutil.Process().children()]
    pids: list[int] = []
    for task in tasks.iterdir():  # a tenth of the time that psutil takes to look at every process of the machine
        try:
            pids += map(int, (task / "children").read_text().split())
        except OSError:  # that thread has just ended
            continue
    return pids


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not any(own in thread.name for own in THREADS_OF_OTHERS)]


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command line configures the log of its process, to a stream that is closed with the test."""
    root = logging.getLogger()
    handlers, level = set(root.handlers), root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers and not isinstance(handler, LogCaptureHandler):
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(autouse=True)
def leaves_nothing_running() -> Iterator[None]:
    """Fails a test that leaves a thread or a child process behind. What wider-scoped fixtures keep running is theirs."""
    threads, children = set(threading.enumerate()), set(_children())
    yield
    until = time.monotonic() + GRACE
    while (others := set(_threads()) - threads) and time.monotonic() < until:
        others.pop().join(max(0.0, until - time.monotonic()))  # it may have started another one to end with
    left_threads = [thread for thread in _threads() if thread not in threads]
    left_children = {pid: command for pid, command in _children().items() if pid not in children}
    if left_children:
        gone = threading.Event()
        while left_children and time.monotonic() < until:
            gone.wait(0.02)
            left_children = {pid: command for pid, command in _children().items() if pid not in children}
    if left_threads or left_children:
        names = [f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}" for thread in left_threads]
        names += [f"process {pid}: {command[:200]}" for pid, command in left_children.items()]
        pytest.fail("the test left running: " + "; ".join(names), pytrace=False)
