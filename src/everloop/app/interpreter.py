"""What a process of ours takes of the system: how its threads share interpreter and memory, and how many files it may open."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator, MutableMapping

SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter while another waits for it. Python's default of 5 ms is what a request would wait
whenever the learner, the journal or the recorder happens to be in Python, and what a client's thread would add to a latency."""

CORES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables by which numerical libraries are told how many threads to use, when they are loaded."""

ARENAS = 2
_M_ARENA_MAX = -8  # malloc.h of glibc


def one_core_each(environ: MutableMapping[str, str]) -> bool:
    """Let a run of a model keep to one core, here and in the processes started from here; False where somebody has said otherwise by one
    of `CORES`.

    BLAS and OpenMP start a thread a core for each call by default. Of a server that runs several models beside its event loop they
    only get in each other's way; its cores are busy with whole runs. (ONNX sessions are opened with one thread, anyway.)"""
    if any(variable in environ for variable in CORES):
        return False
    environ.update(dict.fromkeys(CORES, "1"))
    if "numpy" in sys.modules:  # what is loaded has read its variables
        from threadpoolctl import threadpool_limits

        threadpool_limits(1)
    return True


def few_arenas() -> bool:
    """Let glibc's malloc keep at most two arenas; False where there is no such knob (another C library).

    By default each thread may have one of its own and keeps what it once needed. Only one thread runs Python at a time, so more
    arenas buy nothing: measured at 100,000 predictions a second, the process keeps 3 to 5 MB less, at the same speed."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS))
    except (OSError, AttributeError):
        return False


def many_files(wanted: int) -> int | None:
    """Let this process open so many files, as far as the system does: it gives 1,024 by default, and each connection is one. Returns how
    many it may have; None where there is no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None if soft == resource.RLIM_INFINITY else soft
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS has a second limit, which it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft


@contextlib.contextmanager
def quick_switches() -> Iterator[None]:
    """For the time of a `with` block in a process that is ours."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
