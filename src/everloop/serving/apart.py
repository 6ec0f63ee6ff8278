"""Where a version runs: on a thread of the server, or, being Python code that holds the interpreter for long, in a process of its own.

While Python code computes, every other thread of its process gets the interpreter only now and then: a model of 200 ms beside one of
0.1 ms is felt by each request of the latter. So `auto` moves Python code (`remote.RUNTIMES`) to a process where one row takes longer than
`HEAVY_SECONDS`, which is when the 0.1 ms for the way there are nothing. Numerical runtimes let the interpreter go while they compute:
they stay on their lane's thread.

A champion's process is started again when it has ended, once at once, then after pauses that double: there is nobody who would answer
in its place. What ran in it, and what is asked during a pause, fails as a crash (`ModelFailed`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from everloop.core.errors import EverloopError, ModelFailed, explain
from everloop.core.types import Row
from everloop.policy.batching import CostCurve
from everloop.runtime.session import Matrix, Session
from everloop.serving.remote import RUNTIMES, RemoteSession
from everloop.serving.runner import failure
from everloop.serving.worker import Worker
from everloop.stores.ports import VersionRecord

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry
    from everloop.serving.config import Isolation

HEAVY_SECONDS = 0.02
"""What one row may take in the process that serves."""
OPEN_SECONDS = 120.0
"""To start the process, load the artifact and try it."""
RUN_SECONDS = 300.0
"""After which a run hangs: its process is ended and another one started."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
FORGIVEN_SECONDS = 60.0
"""A process that has lasted so long may be replaced at once."""

log = logging.getLogger(__name__)


def belongs_apart(isolation: Isolation, runtime: str, costs: CostCurve) -> bool:
    """Whether a version that costs so much here is to run in a process of its own."""
    if runtime not in RUNTIMES or isolation == "thread":
        return False
    return isolation == "process" or costs.estimate(1) > HEAVY_SECONDS


def misplaced(isolation: Isolation, runtime: str, apart: bool) -> bool:
    """Whether an open version is to be opened again elsewhere; `auto` leaves it where it was found to belong."""
    return runtime in RUNTIMES and isolation == ("thread" if apart else "process")


def moved_apart(
    here: Session, isolation: Isolation, record: VersionRecord, registry: Registry, samples: Sequence[Row]
) -> Session:
    """The version that is open `here`, in a process of its own. Where that cannot be had, `auto` leaves it here. Raises as opening one."""
    try:
        there = ApartSession(record, registry, samples)
        there.scored = getattr(here, "scored", True)
        return there
    except (EverloopError, OSError) as error:
        if isolation == "process":
            raise
        log.warning(
            "version %d of model %r has no process of its own: %s", record.version, record.model, explain(error)
        )
        return here


class ApartSession:
    """A champion in a process of its own: a `runtime.session.Session`. Safe from any thread; one call at a time."""

    def __init__(
        self,
        record: VersionRecord,
        registry: Registry,
        samples: Sequence[Row] = (),
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Returns when it can be asked. Raises OSError (no process can be started), ModelFailed, ArtifactCorrupt."""
        self._record = record
        self._registry = registry
        self._samples = list(samples[:1])
        """One warms it, and a slow model takes its time for each."""
        self._clock = clock
        self._lock = threading.Lock()
        """Held by who looks after the process."""
        self._keeper = Worker(f"everloop-apart-{record.model[:32]}")
        """Its processes end with the thread that started them (`confinement.die_with`), so they have one of their own."""
        self._closed = False
        self._pause = 0.0
        self._again_at = 0.0
        try:
            self._session = self._start()
        except BaseException:
            self._keeper.stop()
            raise
        self._since = clock()
        self.schema, self.target = self._session.schema, self._session.target
        self.classes, self.dtype = self._session.classes, self._session.dtype
        self.scored = True

    @property
    def pid(self) -> int:
        return self._session.pid

    def run(self, X: Matrix) -> Matrix:
        return self._alive().run(X)

    def scores(self, X: Matrix) -> npt.NDArray[np.float64] | None:
        return self._alive().scores(X)

    def take_detour(self) -> float:
        return self._session.take_detour()

    def kill(self) -> None:
        """At once, from any thread; whoever waits for an answer is told that it failed."""
        self._session.kill()

    def close(self) -> None:
        self._closed = True
        self._session.close()
        self._keeper.stop()

    def _start(self) -> RemoteSession:
        started: Future[RemoteSession] = Future()
        self._keeper.submit(partial(self._open, started))
        return started.result()

    def _open(self, started: Future[RemoteSession]) -> None:
        """On the keeper's thread."""
        try:
            started.set_result(self._opened())
        except BaseException as error:
            started.set_exception(error)

    def _opened(self) -> RemoteSession:
        payload = self._registry.payload(self._record)
        session = RemoteSession(self._record, self._registry.trust)
        try:
            session.open(payload, self._samples, OPEN_SECONDS)
        except BaseException:
            session.close()
            raise
        session.seconds = RUN_SECONDS
        return session

    def _alive(self) -> RemoteSession:
        """The process that can be asked. Raises ModelFailed."""
        session = self._session
        return session if session.error is None else self._replaced()

    def _replaced(self) -> RemoteSession:
        with self._lock:
            lost = self._session.error
            if lost is None:  # by whoever held the lock before
                return self._session
            now = self._clock()
            if self._closed or now < self._again_at:
                raise self._failed(f"its process has ended ({lost.message}) and is started again in a moment")
            self._session.close()
            lasted = now - self._since >= FORGIVEN_SECONDS
            self._pause = FIRST_PAUSE if lasted or not self._pause else min(2 * self._pause, LONGEST_PAUSE)
            try:
                self._session = self._start()
            except (EverloopError, OSError) as error:
                self._again_at = self._clock() + self._pause
                raise self._failed(f"its process has ended and could not be started again: {explain(error)}") from error
            self._since = self._clock()
            self._again_at = self._since + self._pause
            return self._session

    def _failed(self, what: str) -> ModelFailed:
        return failure(self._record.model, self._record.version, what, "crash")

    def __repr__(self) -> str:
        return f"<ApartSession {self._record.model}@{self._record.version} pid={self.pid}>"
