"""Functions that tests send to workers. By themselves in a module, so that a worker which imports it does not import pytest, too."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def same(item: Any) -> Any:
    return item


def square(item: int) -> int:
    return item * item


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def sleep_and_square(item: int) -> int:
    time.sleep(0.002)
    return item * item


class Refused(Exception):
    def __init__(self, item: object, reason: str) -> None:
        super().__init__(f"{item} refused: {reason}")
        self.item = item
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return Refused, (self.item, self.reason)


class Stubborn(Exception):
    """Can be pickled, cannot be unpickled: its constructor wants more than its arguments."""

    def __init__(self, item: object, reason: str) -> None:
        super().__init__(f"{item} is stubborn")


def refuse_odd(item: int) -> int:
    if item % 2:
        raise Refused(item, "odd")
    return item


def stubborn_about_three(item: int) -> int:
    if item == 3:
        raise Stubborn(item, "three")
    return item


def exit_at_three(item: int) -> int:
    if item == 3:
        sys.exit("three")
    return item


def lock_at_three(item: int) -> Any:
    import threading

    return threading.Lock() if item == 3 else item


class Sealed:
    """Can be pickled, cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unsealed, ()


def _unsealed() -> None:
    raise ValueError("sealed")


def seal_three(item: int) -> Any:
    return Sealed() if item == 3 else item


def pid(item: object) -> int:
    return os.getpid()


def depth(item: object) -> int:
    from everloop.parallel import nesting

    return nesting.depth()


def die(item: int) -> int:
    """A negative item kills the worker that it comes to."""
    if item < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die_once(task: tuple[int, str]) -> int:
    """The first worker that an item with a path comes to dies of it."""
    item, path = task
    if path and not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def deaf(item: float) -> float:
    """Sleeps so that no timer signal wakes it: code that never comes back to the interpreter."""
    if item > 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(item)
    return item


def with_child(path: str) -> int:
    """Starts a process that outlives it, tells its id in a file, and dies."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    Path(path).write_text(str(child))
    os.kill(os.getpid(), signal.SIGKILL)
    return child


def megabyte(item: int) -> bytes:
    return bytes([item % 256]) * (1 << 20)


def array(item: int) -> Any:
    import numpy as np

    return np.full(1 << 17, float(item))


def blas_threads(item: object) -> list[str | None]:
    return [os.environ.get("OMP_NUM_THREADS"), os.environ.get("OPENBLAS_NUM_THREADS")]


def talk(item: int) -> int:
    print(f"item {item}", flush=True)
    return item


def answer(question: bytes) -> bytes:
    """For calls of bytes: does what it is told."""
    what, _, path = question.partition(b" ")
    if what == b"raise":
        raise ValueError("no such")
    if what == b"sleep":
        print("going to sleep", flush=True)
        time.sleep(60)
    if what == b"die":
        print("farewell", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == b"hang":
        Path(path.decode()).touch()
        time.sleep(60)
    if what == b"nice":
        return str(os.nice(0)).encode()
    return str(os.getpid()).encode() if what == b"pid" else question.upper()


@functools.lru_cache
def cached_square(item: int) -> int:
    return item * item
