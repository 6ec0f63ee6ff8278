"""The parent's end of one worker process: starts it, speaks with it over two pipes that never block, ends it.

It knows nothing of chunks; whoever has leased it reads its frames. Each worker has a process group of its own: Ctrl-C in a terminal is
not for it, and killing it takes the processes that a function has started along.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from everloop.parallel import nesting
from everloop.parallel.executors.frames import CHUNK, FORGET, OPEN, QUIT, Bytes, Outbox, Reader, pieces, widen
from everloop.parallel.payload import Packed

_BOOT = (
    "import sys, json; a = json.loads(sys.argv[1]); sys.path[:] = a.pop('path'); "
    "from everloop.parallel.executors.worker import main; main(**a)"
)


class Worker:
    """Used by one thread at a time, except `kill` and `alive`."""

    def __init__(self, *, blas_threads: int = 1, niceness: int = 0, captured: bool = False) -> None:
        """`captured`: what it prints comes to `output`, not to where the parent's goes. Raises OSError where no process can be
        started."""
        self.opened = 0
        """How often it was given a function; LOADED tells of which."""
        self.spawn_seconds: float | None = None
        """From the start of its process to its HELLO."""
        self.idle_since = 0.0
        self._blas_threads = blas_threads
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._pipes = (ours_in, ours_out)
        widen(ours_in)
        widen(ours_out)
        start = {
            "path": search_path(),
            "inbox": theirs_in,
            "outbox": theirs_out,
            "parent": os.getpid(),
            "niceness": niceness,
            "threads": blas_threads,
        }
        self._owner = os.getpid()
        self.begun = time.monotonic()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                [sys.executable, "-P", "-c", _BOOT, json.dumps(start)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if captured else None,
                stderr=subprocess.STDOUT if captured else None,
                pass_fds=(theirs_in, theirs_out),
                # Linux may share out cores among sessions before it looks at niceness (CONFIG_SCHED_AUTOGROUP, sched(7)): alone in one
                # of its own, the nicest process gets half a core. A process group can be killed as well.
                start_new_session=not niceness,
                process_group=0 if niceness else None,
            )
        except BaseException:
            self._close_pipes()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(ours_in, False)
        os.set_blocking(ours_out, False)
        self.reader = Reader(ours_in)
        self.outbox = Outbox(ours_out)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ours(self) -> bool:
        """False in a forked child, which must neither end nor ask its parent's workers."""
        return os.getpid() == self._owner

    @property
    def inbox(self) -> int:
        """File descriptor: readable when a frame has come, or its process has ended."""
        return self._pipes[0]

    @property
    def outlet(self) -> int:
        """File descriptor: writable when more of `outbox` can go."""
        return self._pipes[1]

    @property
    def output(self) -> IO[bytes] | None:
        """What it prints; whoever reads it closes it."""
        return self._process.stdout

    @property
    def alive(self) -> bool:
        """A dead one is not reaped by asking: until then its process group is surely its own, and `kill` safe."""
        if self._process.returncode is None and hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        return self._process.poll() is None

    def open(self, function: Packed, *, blas_threads: int | None = None, code: str = "", flags: int = 0) -> bool:
        """Give it a function. False, here and below, where it is dead. `code`: what `identity.func_hash` has to say of it there."""
        self.opened += 1
        settings = {
            "path": search_path(),
            "folder": _folder(),
            "code": code,
            "depth": nesting.depth() + 1,
            "threads": self._blas_threads if blas_threads is None else blas_threads,
        }
        body, parts = function
        return self.outbox.put(
            pieces(OPEN, self.opened, body, [*parts, memoryview(pickle.dumps(settings, 5))], flags=flags)
        )

    def send(self, number: int, items: Packed, slice_seconds: float, timeout: float, *, flags: int = 0) -> bool:
        return self.outbox.put(_chunk(number, items, slice_seconds, timeout, flags))

    def hold(self, number: int, items: Packed, slice_seconds: float, timeout: float, *, flags: int = 0) -> None:
        """The same with the next flush of `outbox`."""
        self.outbox.hold(_chunk(number, items, slice_seconds, timeout, flags))

    def forget(self) -> bool:
        """Let go of the function: it may be large."""
        return self.outbox.put(pieces(FORGET))

    def kill(self) -> None:
        """At once, with whatever processes it started itself."""
        if self._process.returncode is None and self.ours:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # it has not got its own session yet, or is gone
                self._process.kill()

    def quit(self) -> None:
        """Ask it to end in good order."""
        self.outbox.put(pieces(QUIT))

    def reap(self, timeout: float = 0.0) -> int:
        """Wait for its end, kill it where it does not come, close the pipes. Its exit status, negative: a signal. Idempotent."""
        if not self.ours:
            self.disown()
            return 0
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.wait()
        self._close_pipes()
        return status

    def disown(self) -> None:
        """In a forked child: it is another's worker. Nothing is sent, nothing awaited."""
        self._process.returncode = 0
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in self._pipes:
            os.close(pipe)
        self._pipes = ()  # type: ignore[assignment]


def _chunk(number: int, items: Packed, slice_seconds: float, timeout: float, flags: int) -> list[Bytes]:
    body, parts = items
    return pieces(CHUNK, number, body, parts, flags=flags, numbers=(slice_seconds, timeout, 0.0))


def search_path() -> list[str]:
    """Where this process finds modules; for another one, which may be in another folder."""
    here = _folder()
    return [str(entry) or here for entry in sys.path]


def _folder() -> str:
    """Empty where somebody has deleted it."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""


def last_words(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
