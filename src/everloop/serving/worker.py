"""Threads of our own for what may never come back: daemons, so that a model that hangs cannot keep the process from ending.

`concurrent.futures` joins its threads when the interpreter ends, and a thread that is stuck in somebody's model cannot be stopped
from outside. So a `Worker` that was given up is only told to end, whenever its call returns, and is not waited for by anybody.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

NICENESS = 5
"""Of a thread that gives way: a third of the weight of the others on a core that they share, and its turn later (sched(7))."""

_Calls = SimpleQueue[Callable[[], Any] | None]


class Worker:
    """One thread that makes calls in the order in which they were given; it starts with the first one. The calls must not raise."""

    __slots__ = ("__weakref__", "_calls", "_end", "_gives_way", "_name", "_started")

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: _Calls = SimpleQueue()
        self._started = False
        self._gives_way = False
        # Whoever forgets a worker must not keep its thread.
        self._end = weakref.finalize(self, self._calls.put, None)
        self._end.atexit = False

    def submit(self, call: Callable[[], Any]) -> None:
        """From one thread at a time."""
        if not self._started:
            self._started = True
            threading.Thread(target=_work, args=(self._calls,), name=self._name, daemon=True).start()
        self._calls.put(call)

    def give_way(self) -> None:
        """From its next call on the thread waits for a core behind the others of this process (setpriority(2); on Linux a thread has a
        priority of its own). There is no way back. Cheap to call again."""
        if not self._gives_way:
            self._gives_way = True
            if sys.platform.startswith("linux"):
                self.submit(_give_way)

    def stop(self) -> None:
        """The thread ends once it has made the calls it was given; nobody waits for it. Safe to call twice."""
        self._end()


def _give_way() -> None:
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):  # a system that forbids it
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS))


def _work(calls: _Calls) -> None:
    while True:
        call = calls.get()
        if call is None:
            return
        call()
        del call  # what it holds must not wait for the next one
