"""Where fits run: light ones on a thread, heavy ones in a child process, so that neither `step()` nor a prediction waits.

    trainer.step ── submit(prepare, heavy) ──> Fitting         (a thread of its own, daemon)
                                                 │ prepare()    the champion's losses, slow parts of setting up
                                    light ┌──────┴──────┐ heavy
                                     run_fit(job)     child: cloudpickle(job) ──> run_fit ──> msgpack(result)
                                          └──────┬──────┘
    trainer.step <── fitting.done, .result() ────┘              and `wake` is called

A child, a worker process of the parallel engine, is kept for the next fit and closed when it was idle for a while. It gets a low
priority, few threads, and a time limit; if it dies, the fit fails and nothing else. What cannot travel
there, because it cannot be pickled or imported, is fitted on the thread after all. One at a time, but who takes long, and may
hang, does not hold up the others' models.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from everloop.core.errors import EverloopError, FitFailed, ItemFailed, NotPicklable, explain
from everloop.learning.challenge import FitJob, FitResult, run_fit
from everloop.learning.child import Reply, fit_pickled
from everloop.learning.learners.base import Learner
from everloop.parallel.executors.calling import Caller

_GRACE = 5.0
"""Seconds past the time limit: a child's end is its own affair, and tells more."""
_OVERTAKERS = 3
"""Most fits that may run beside those that take long."""
_Outcome: TypeAlias = tuple[FitResult, Learner | None]


class Fitting:
    """One fit on its way. `done` may be polled from any thread."""

    def __init__(self, heavy: bool) -> None:
        self.heavy = heavy
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._cancelled = False
        self._kill: Callable[[], None] | None = None
        self._outcome: _Outcome | EverloopError | None = None

    @property
    def done(self) -> bool:
        return self._finished.is_set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def wait(self, timeout: float | None = None) -> bool:
        return self._finished.wait(timeout)

    def result(self) -> _Outcome:
        """Only once `done`: the result, and the fitted learner where it stayed in this process. Raises FitFailed."""
        assert self._outcome is not None
        if isinstance(self._outcome, EverloopError):
            raise self._outcome
        return self._outcome

    def cancel(self) -> None:
        """Nobody wants the result any more. A child that works for it is killed; a thread finishes unheard."""
        with self._lock:
            self._cancelled = True
            kill = self._kill
        if kill is not None:
            kill()

    def on_cancel(self, kill: Callable[[], None] | None) -> None:
        with self._lock:
            self._kill = kill
            late = self._cancelled
        if late and kill is not None:
            kill()

    def finish(self, outcome: _Outcome | EverloopError) -> None:
        """The first outcome counts."""
        with self._lock:
            if self._outcome is None:
                self._outcome = outcome
        self._finished.set()


class _Slots:
    """So many fits at once. One that holds its slot for long counts no more, so that a fit that hangs does not keep all others
    from theirs; but no more than `_OVERTAKERS` are let past."""

    def __init__(self, count: int, patience: float) -> None:
        self._count = count
        self._patience = patience
        self._since: list[float] = []
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        with self._changed:
            while (wait := self._wait()) is None or wait > 0:
                self._changed.wait(wait)
            taken = time.monotonic()
            self._since.append(taken)
        try:
            yield
        finally:
            with self._changed:
                self._since.remove(taken)
                self._changed.notify_all()

    def _wait(self) -> float | None:
        """Seconds until a slot can be had, by what is known now; None: only when somebody is ready."""
        if len(self._since) >= self._count + _OVERTAKERS:
            return None
        over = len(self._since) - self._count
        return 0.0 if over < 0 else self._since[over] + self._patience - time.monotonic()  # they are in order of time


class Fitter:
    """Runs fits. Safe to share between trainers; `close` ends the children."""

    def __init__(
        self,
        *,
        inline: bool = False,
        processes: int = 1,
        threads: int = 2,
        time_limit: float = 900.0,
        patience: float = 10.0,
        idle: float = 60.0,
        niceness: int = 10,
    ) -> None:
        """`inline`: fit at once on the thread that submits, whatever the weight; for replays and simulations.
        `processes`, `threads`: how many heavy and light fits run at once, the others wait, but not for one that has been at it
        for `patience` seconds. `time_limit`: seconds after which a fit has failed; a child is then killed. `idle`: seconds after
        which an unused child is closed."""
        self._inline = inline
        self._time_limit = time_limit
        self._idle = idle
        self._niceness = niceness
        self._slots = {True: _Slots(processes, patience), False: _Slots(threads, patience)}
        self._lock = threading.Lock()
        self._children: list[Caller] = []
        self._busy: dict[Fitting, float] = {}
        self._closed = False

    def submit(self, prepare: Callable[[], FitJob], *, heavy: bool, wake: Callable[[], None], name: str) -> Fitting:
        fitting = Fitting(heavy)
        if self._inline:
            self._run(fitting, prepare, wake)
            return fitting
        with self._lock:
            if self._closed:
                fitting.finish(FitFailed("the fit was not started: learning is shutting down"))
                return fitting
            self._busy[fitting] = math.inf
        threading.Thread(
            target=self._run, args=(fitting, prepare, wake), name=f"everloop-fit-{name}", daemon=True
        ).start()
        return fitting

    def tidy(self) -> None:
        """Close children that were idle for long, give up fits on threads whose time is up."""
        with self._lock:
            now = time.monotonic()
            late = [fitting for fitting, until in self._busy.items() if now > until + _GRACE]
            old = [child for child in self._children if now - child.idle_since > self._idle]
            self._children = [child for child in self._children if child not in old]
        for child in old:
            child.close()
        for fitting in late:  # nothing stops the thread, but its model can go on
            fitting.finish(FitFailed(f"the fit took longer than {self._time_limit:g} s and was given up"))
            fitting.cancel()

    def close(self) -> None:
        """Cancel what runs, end the children. Afterwards a submitted fit fails. Idempotent."""
        with self._lock:
            self._closed = True
            busy, children = list(self._busy), self._children
            self._children = []
        for fitting in busy:
            fitting.cancel()
        for child in children:
            child.close()
        for fitting in busy:  # only children can be waited for: nothing stops a thread inside a library
            if fitting.heavy:
                fitting.wait(5.0)

    def _run(self, fitting: Fitting, prepare: Callable[[], FitJob], wake: Callable[[], None]) -> None:
        outcome: _Outcome | EverloopError
        try:
            if self._inline:
                outcome = run_fit(prepare())
            else:
                with self._slots[fitting.heavy].one():
                    with self._lock:
                        self._busy[fitting] = time.monotonic() + self._time_limit
                    outcome = self._fit(fitting, prepare)
        except EverloopError as error:
            outcome = error
        except (Exception, SystemExit) as error:
            outcome = FitFailed(explain(error))
        with self._lock:
            self._busy.pop(fitting, None)
        fitting.finish(outcome)
        wake()

    def _fit(self, fitting: Fitting, prepare: Callable[[], FitJob]) -> _Outcome:
        if fitting.cancelled:
            raise FitFailed("the fit was cancelled")
        job = prepare()
        payload = _pickled(job) if fitting.heavy else None
        if payload is None:
            return run_fit(job)
        child = self._child()
        fitting.on_cancel(child.kill)
        try:
            answer = child.call(payload, self._time_limit)
        except (ItemFailed, NotPicklable) as error:
            raise FitFailed(f"the fit failed: {error.message}") from error
        finally:
            fitting.on_cancel(None)
            self._give_back(child)
        reply = msgspec.msgpack.decode(answer, type=Reply)
        if reply.unreadable:
            return run_fit(job)
        if reply.result is None:
            raise FitFailed(reply.error)
        result = msgspec.msgpack.decode(reply.result, type=FitResult)
        return msgspec.structs.replace(result, where="process"), None

    def _child(self) -> Caller:
        with self._lock:
            while self._children:
                child = self._children.pop()
                if child.alive:
                    return child
                child.close()
        try:
            return Caller(fit_pickled, niceness=self._niceness, blas_threads=max(1, (os.cpu_count() or 1) // 2))
        except OSError as error:
            raise FitFailed(f"no process can be started for the fit: {error}") from error

    def _give_back(self, child: Caller) -> None:
        with self._lock:
            if child.alive and not self._closed:
                self._children.append(child)
                return
        child.close()


def _pickled(job: FitJob) -> bytes | None:
    """None where the learner cannot be pickled: it then has to be fitted here."""
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(job)
    except Exception:
        return None
    return data
