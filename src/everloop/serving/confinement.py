"""What a process that runs somebody's model does to itself, so that the one that serves never suffers from it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def silence() -> None:
    """What is printed goes nowhere: to read it would be work for the process that serves."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def die_with(parent: int) -> None:
    """End with the thread that started us, however that ends. The watching thread of a worker needs the GIL, which a model that hangs may
    hold; the system needs nothing (prctl(2))."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before it was asked to take us along
        os._exit(1)


def go_first() -> None:
    """Where memory ends, this process is the one to be killed (proc(5))."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit_memory(growth: int) -> None:
    """So many bytes more than now, then MemoryError (setrlimit(2), RLIMIT_DATA)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        import resource

        status = Path("/proc/self/status").read_text()
        used = int(status.split("VmData:")[1].split()[0]) << 10
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        limit = used + growth if most == resource.RLIM_INFINITY else min(used + growth, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
