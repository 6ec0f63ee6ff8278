"""A thread that takes one step after the other until it is stopped, and outlives whatever a step raises.

    step ─► rest: waits for `wake`, as long as its owner likes ─► step …
      └─ raised ─► a pause that grows with each failure in a row, and that only `stop` ends

What comes while a step runs is not lost: `wake` is cleared before the step, so the rest after it ends at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from everloop.core.clock import Clock
from everloop.core.errors import explain

_ALIVE_FAILURES = 5

News = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes what is to be called with each news; what it returns ends that."""


class StepThread:
    """Safe from any thread. May be started again after it was stopped, or has died."""

    def __init__(
        self,
        name: str,
        step: Callable[[], bool],
        rest: Callable[[bool], None],
        *,
        clock: Clock,
        backoff: Callable[[int], float],
        news: Sequence[News] = (),
    ) -> None:
        """`rest` is told what the step has returned, and waits. `backoff`: failures in a row -> seconds. `news`: what wakes it while it
        is started."""
        self.wake = threading.Event()
        self.stopping = threading.Event()
        self.last_error = ""
        """What went wrong last."""
        self._name = name
        self._step = step
        self._rest = rest
        self._clock = clock
        self._backoff = backoff
        self._news = news
        self._undo: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._bad_steps = 0

    @property
    def running(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive() and not self.stopping.is_set()

    @property
    def alive(self) -> bool:
        """False when it was started and is dead, or nothing but failing, without having been stopped."""
        thread = self._thread
        return thread is None or (thread.is_alive() and self._bad_steps < _ALIVE_FAILURES)

    @property
    def is_current(self) -> bool:
        """Whether it is this thread that asks."""
        return self._thread is threading.current_thread()

    def start(self) -> None:
        """Idempotent: there is one thread, which does not depend on the thread that started it."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self.stopping.clear()
            self._bad_steps = 0
            self._undo = self._undo or [subscribe(self.wake.set) for subscribe in self._news]
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Wait for the step at hand, unless it is a step that asks. Idempotent."""
        with self._lock:
            thread, self._thread = self._thread, None
            undo, self._undo = self._undo, []
            self.stopping.set()
            self.wake.set()
        for end in undo:
            end()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while not self.stopping.is_set():
            self.wake.clear()
            try:
                did = self._step()
            except Exception as error:  # the stores may be away for a while; this must not be
                self._bad_steps += 1
                self.last_error = explain(error)
                self._clock.wait(self.stopping, self._backoff(self._bad_steps))
                continue
            self._bad_steps = 0
            self._rest(did)
