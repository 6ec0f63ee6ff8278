"""The evidence of all active rollouts in this process, and what its reports tell after a crash.

Each process has a report of its own in the catalog, cumulated, under a name (`source`) that no other process and no other life of the
same one has. One is written as soon as the challenger is open here, and the last one, `ended`, when it has been let go of in good order.
So a report that says open and not ended, of a process that is gone, tells of a death with the challenger open; after `DEATHS` of them
it is not opened again, and the controller rolls back. (A process that dies while it opens one is the trial's, not this.)
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from everloop.core.clock import Clock
from everloop.core.errors import EverloopError, ModelFailed
from everloop.serving.evidence import Evidence, Observed
from everloop.stores.ports import Report

if TYPE_CHECKING:
    from everloop.policy.rollout import Rollout
    from everloop.stores.ports import Catalog


class _Told(msgspec.Struct):
    """What everybody's report has; a controller's may tell more."""

    observed: Observed = msgspec.field(default_factory=Observed)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Told).decode

DEATHS = 3
"""Processes that died with a challenger open: one may have been killed by somebody, three were not."""


class Evidences:
    """The reconciler opens and forgets, the controller reads and reports. Safe from any thread."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._lock = threading.Lock()
        self._all: dict[str, Evidence] = {}
        self._watchers: tuple[Callable[[], None], ...] = ()
        self.source = _source()
        """Of this process' reports."""

    def of(self, model: str, rollout: int) -> Evidence | None:
        with self._lock:
            found = self._all.get(model)
        return found if found is not None and found.rollout == rollout else None

    def active(self) -> list[Evidence]:
        with self._lock:
            return list(self._all.values())

    def open(self, rollout: Rollout) -> Evidence:
        """The one there is, or a new one in the place of an older rollout's."""
        with self._lock:
            found = self._all.get(rollout.model)
            if found is None or found.rollout != rollout.id:
                found = Evidence(rollout.model, rollout.id, rollout.challenger, self.wake)
                self._all[rollout.model] = found
            return found

    def keep(self, rollouts: Mapping[str, int]) -> None:
        """Forget all but these (model -> rollout)."""
        with self._lock:
            self._all = {name: found for name, found in self._all.items() if rollouts.get(name) == found.rollout}

    def lose(self, model: str, version: int, error: ModelFailed) -> None:
        """The challenger was taken out of routing here."""
        with self._lock:
            found = self._all.get(model)
        if found is not None and found.challenger == version:
            found.lost, found.open = error.message, False
            found.lost_how = "crash" if error.how == "crash" else "timeout"
        self.wake()

    def report(self, evidence: Evidence) -> Observed:
        """Put what this process has seen into the catalog. Returns it. Raises StoreUnavailable."""
        seen = evidence.observed()
        report = Report(self.source, self._clock.now(), _encode(_Told(seen)))
        self._catalog.put_report(evidence.model, evidence.rollout, report)
        return seen

    def deaths(self, rollout: Rollout) -> str:
        """In words, if too many processes died with this challenger open; empty otherwise. Raises StoreUnavailable."""
        died = 0
        for report in self._catalog.reports(rollout.model, rollout.id):
            seen = _decode(report.payload).observed
            died += seen.open and not seen.ended and _dead(report.source)
        if died < DEATHS:
            return ""
        return f"{died} processes died while version {rollout.challenger} was open in them"

    def close(self) -> None:
        """The challengers are closed: say so in the last reports."""
        for evidence in self.active():
            evidence.ended, evidence.open = True, False
            try:
                self.report(evidence)
            except EverloopError:  # closed or gone: then the next life takes this one's end for a death, one of three
                continue
        self.keep({})

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """`wake` is called at once when a guard was hit, on the path of a request: it must not block. Returns the undo."""
        with self._lock:
            self._watchers = (*self._watchers, wake)

        def unsubscribe() -> None:
            with self._lock:
                self._watchers = tuple(watcher for watcher in self._watchers if watcher is not wake)

        return unsubscribe

    def wake(self) -> None:
        for watcher in self._watchers:
            watcher()


def _source() -> str:
    """host/pid/when it began/random."""
    import psutil

    began = int(psutil.Process().create_time() * 1000)
    return f"{socket.gethostname().replace('/', '_')}/{os.getpid()}/{began}/{secrets.token_hex(4)}"


def _dead(source: str) -> bool:
    """Whether that process is known to be gone: only of processes of this machine anybody can tell."""
    import psutil

    host, pid, began, *_ = (*source.split("/"), "", "", "")
    if not began or host != socket.gethostname().replace("/", "_"):
        return False
    try:
        process = psutil.Process(int(pid))
        return process.status() == psutil.STATUS_ZOMBIE or int(process.create_time() * 1000) != int(began)
    except psutil.NoSuchProcess:
        return True
