"""The program of a worker process: reads frames, runs their items with the function it was given, answers.

It is started with `python -c` and never imports the caller's `__main__`: a script without an `if __name__` guard must not run twice.
It speaks over two pipes of its own, so what a function prints goes where the parent's prints go. Its imports are few: a
worker should be there before one notices.

It must not outlive its parent, in whatever way that ends. Two things tell: the end of its inbox, and another parent process id (a third
process may have inherited the pipe's other end and keep it open).

An item's timeout is a timer signal, which ends anything that comes back to the interpreter; what does not (C code that never returns)
is the parent's to kill, which is told by a BEAT whenever such an item begins.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from everloop.parallel import nesting, payload
from everloop.parallel.executors import frames
from everloop.parallel.executors.frames import Bytes, Frame, Outbox, Reader, pieces
from everloop.parallel.executors.packing import Alarm, Unreadable, run_packed

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_STALE = 0.02
"""Seconds a chunk may take before those that wait behind it are handed back: some other worker may have nothing to do."""
_NICEST = 19
_LAST_ORDERS = 5.0
"""Seconds that the functions' own exit handlers may take."""


def main(inbox: int, outbox: int, parent: int, niceness: int, threads: int) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us in its own order
    os.set_inheritable(inbox, False)
    os.set_inheritable(outbox, False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # we live long, and may die suddenly
    if niceness:
        _step_back(niceness)
    blas = _Blas(threads)
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    try:
        _Worker(inbox, outbox, blas).serve()
    except BrokenPipeError:  # the parent is gone
        _end_all()
    impatient = threading.Timer(_LAST_ORDERS, _end_all)
    impatient.daemon = True
    impatient.start()
    sys.exit(0)


def _step_back(niceness: int) -> None:
    """Let others go first; at 19, the most there is, run only where a core would be idle otherwise, and give it up at once."""
    os.nice(niceness)
    if niceness >= _NICEST and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    _end_all()


def _end_all() -> None:
    """At once, with the processes that functions have started: nobody is there to end them."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class _Worker:
    def __init__(self, inbox: int, outbox: int, blas: _Blas) -> None:
        self._inbox = inbox
        self._reader = Reader(inbox)
        self._look = select.poll()  # `select` knows no file descriptors beyond 1023, which a server's child may have
        self._look.register(inbox, select.POLLIN)
        self._outbox = Outbox(outbox)
        self._blas = blas
        self._func: Callable[[Any], Any] | None = None
        self._raw = False
        self._alarm = Alarm()
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._put_off: Frame | None = None
        """Read, and still to be done."""

    def serve(self) -> None:
        """Until the parent says QUIT, or nothing more."""
        self._say(frames.HELLO, numbers=(time.monotonic(), 0.0, 0.0))
        while True:
            frame, self._put_off = self._put_off or self._reader.next(), None
            if frame is None:
                if not self._reader.fill():
                    return
            elif frame.kind == frames.CHUNK:
                self._run(frame)
            elif frame.kind == frames.OPEN:
                self._open(frame)
            elif frame.kind == frames.FORGET:
                self._func = None
            else:
                return

    def _say(
        self, kind: int, number: int = 0, body: Bytes = b"", parts: list[memoryview] | None = None, **rest: Any
    ) -> None:
        if not self._outbox.put(pieces(kind, number, body, parts or (), **rest)):
            raise BrokenPipeError
        while self._outbox:  # a signal came in between
            self._outbox.flush()

    def _open(self, frame: Frame) -> None:
        self._func = None
        self._raw = bool(frame.flags & frames.RAW)
        begun = time.perf_counter()
        try:
            settings = payload.load(frame.parts.pop())
            sys.path[:] = settings["path"]
            with contextlib.suppress(OSError):  # deleted meanwhile, or not ours to enter
                os.chdir(settings["folder"])
            self._restore_signals()
            nesting.enter(settings["depth"], whole_process=True)
            self._blas.limit(settings["threads"])
            self._func = payload.load(frame.payload, frame.parts)
            _check(self._func, settings["code"])
        except BaseException as error:
            from everloop.core.errors import explain

            self._func = None
            self._say(frames.LOADED, frame.number, explain(error).encode(), flags=frames.BROKEN)
            return
        self._say(frames.LOADED, frame.number, numbers=(time.perf_counter() - begun, 0.0, 0.0))

    def _restore_signals(self) -> None:
        """An earlier function's handlers are not for the next one, nor instead of our alarm."""
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)

    def _run(self, frame: Frame) -> None:
        func, number, (slice_seconds, timeout, _) = self._func, frame.number, frame.numbers
        if func is None:
            self._say(frames.BACK, number)
        elif self._raw:
            self._call(func, number, bytes(frame.payload))
        else:
            if timeout > 0:
                func = self._alarm.limit(func, timeout, partial(self._beat, number))
            begun = time.perf_counter()
            try:
                tally, flags, body, parts = run_packed(
                    func, frame.payload, frame.parts, flags=frame.flags, slice_seconds=slice_seconds
                )
            except Unreadable:
                self._say(frames.UNREADABLE, number)
                return
            stale = self._stale() if time.perf_counter() - begun > _STALE else []
            numbers = (tally.seconds, tally.squares, tally.cpu_seconds)
            self._say(frames.RESULT, number, body, parts, flags=flags, count=len(tally.values), numbers=numbers)
            for other in stale:
                self._say(frames.BACK, other)

    def _call(self, func: Callable[[Any], Any], number: int, data: bytes) -> None:
        from everloop.core.errors import explain

        try:
            answer, flags = bytes(func(data)), 0
        except BaseException as error:
            answer, flags = explain(error).encode(errors="replace"), frames.FAILURES
        self._say(frames.RESULT, number, answer, count=1, flags=flags)

    def _beat(self, number: int, index: int) -> None:
        self._say(frames.BEAT, number, count=index, numbers=(time.monotonic(), 0.0, 0.0))

    def _stale(self) -> list[int]:
        """Chunks that have come while this one ran: they were sent ahead when it was thought to be short, and are not begun."""
        found: list[int] = []
        while True:
            while (frame := self._reader.next()) is not None:
                if frame.kind != frames.CHUNK:  # the function, once more
                    self._put_off = frame
                    return found
                found.append(frame.number)
            if not self._look.poll(0) or not self._reader.fill():
                return found


def _check(func: Callable[[Any], Any] | None, code: str) -> None:
    """An old worker may have imported a module that the caller has changed and reloaded since."""
    if code and func is not None:
        from everloop.parallel.identity import func_hash

        if func_hash(func) != code:
            raise ImportError("its module has changed since it was imported")


class _Blas:
    """How many threads the linear algebra of each worker uses: together they have one machine. What the user has set counts for more."""

    def __init__(self, threads: int) -> None:
        self._ours = [name for name in _THREADS if name not in os.environ]
        self._threads = 0
        self.limit(threads)

    def limit(self, threads: int) -> None:
        if threads == self._threads:
            return
        self._threads = threads
        for name in self._ours:  # read by the libraries when they are loaded
            os.environ[name] = str(threads)
        if self._ours and "numpy" in sys.modules:
            import threadpoolctl

            threadpoolctl.threadpool_limits(threads)
