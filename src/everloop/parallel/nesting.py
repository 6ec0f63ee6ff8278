"""How deep inside the engine's own workers this code runs: work that spreads itself inside a worker would take every core twice.

0 in the caller's program, 1 in a worker (a thread, a process, a Ray task), 2 in a worker's worker. `execute` plans serial work below 0.
"""

from __future__ import annotations

import threading


class _Depth(threading.local):
    here = 0


_of_thread = _Depth()
_of_process = 0


def depth() -> int:
    return max(_of_process, _of_thread.here)


def enter(level: int, *, whole_process: bool = False) -> None:
    """`whole_process`: also for the threads that this process has or will start."""
    global _of_process  # noqa: PLW0603 - it is a fact about this process
    if whole_process:
        _of_process = level
    else:
        _of_thread.here = level
