"""The clocks of a dry run: what a thread's time went to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


def _queued() -> float:
    """Seconds that this thread could have run and had to wait for a core; 0 where the system does not tell (Linux does, in the second
    field of `schedstat`: Documentation/scheduler/sched-stats.rst)."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:  # noqa: PTH123 - a third of the time that a Path takes
            return int(file.read().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass(frozen=True)
class Timers:
    """Seconds of the wall clock, of this thread's CPU time, of the whole process's, and those that this thread queued for a core: a
    function that others keep from running does not wait for anything."""

    wall: Callable[[], float] = time.perf_counter
    thread: Callable[[], float] = time.thread_time
    process: Callable[[], float] = time.process_time
    queued: Callable[[], float] = _queued


def peak_memory() -> int:
    """Bytes that this process had at its largest; 0 where the platform does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
