"""Turns what should be live (the registry) into what is live (the table).

    registry.deployment.desired ──► step: open (slow, off every hot path) ──► one assignment ──► retire the old lane

Rules.

1. `step` is the only writer of the table, and one step runs at a time. So a version goes back only if the registry does.
2. A new lane is loaded, warmed and measured before anybody can ask it; the old one answers until then.
3. A version that cannot be opened leaves the old one serving. It is told once as an event, kept in `failures`, and tried
   again after a growing pause, or at once when the registry wants another version.
4. Models are published one by one: a slow one does not hold up the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from everloop.core.clock import Clock
from everloop.core.errors import EverloopError, ModelNotFound
from everloop.core.events import Event, EventBus, EventKind
from everloop.core.types import Row
from everloop.policy.batching import BatchRules
from everloop.policy.retraining import backoff
from everloop.registry.deployment import desired
from everloop.serving.lane import DEFAULT_RULES, Lane, open_lane
from everloop.serving.recorder import Recorder
from everloop.serving.table import Table, TableRef
from everloop.stores.ports import ModelRecord, VersionRecord

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry

POLL = 0.05
"""Seconds between two looks at the registry's revision: how soon a change by another process is seen."""
SAMPLES = 64
"""Recent examples a new lane is warmed and measured with."""


@dataclass(frozen=True, slots=True)
class Failure:
    version: int
    digest: str
    error: EverloopError
    attempts: int
    retry_at: float
    """On the clock's monotonic scale."""


class Reconciler:
    def __init__(
        self,
        registry: Registry,
        table: TableRef,
        recorder: Recorder,
        bus: EventBus,
        clock: Clock,
        *,
        rules: BatchRules = DEFAULT_RULES,
        rng: Random | None = None,
    ) -> None:
        rules.validate()
        self._registry = registry
        self._table = table
        self._recorder = recorder
        self._bus = bus
        self._clock = clock
        self._rules = rules
        self._rng = rng or Random()  # noqa: S311  spreads retries, guards nothing
        self._stepping = threading.Lock()
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._unsubscribe: Callable[[], None] = lambda: None
        self._seen: int | None = None
        self.failures: dict[str, Failure] = {}
        """Model -> why the version that should serve does not. Replaced whole; read it from any thread."""
        self.broken: EverloopError | None = None
        """Why the registry itself cannot be read, if so: what is live goes on."""

    def step(self) -> bool:
        """Make what is live what should be. True if the table changed. Called by the thread, or by hand."""
        with self._stepping:
            before = self._table.current
            try:
                revision = self._registry.revision()
                wanted = desired(self._registry)
                for name, record in wanted.items():
                    self._reach(name, record)
                self._seen = revision
                self.broken = None
            except EverloopError as error:
                self.broken = error
                return self._table.current is not before
            for name in [name for name in self._table.current.lanes if name not in wanted]:
                self._publish(self._table.current.without(name), self._table.current.lanes[name])
            if any(name not in wanted for name in self.failures):
                self.failures = {name: f for name, f in self.failures.items() if name in wanted}
            return self._table.current is not before

    def start(self) -> None:
        """Keep stepping in the background. Starting twice is one thread."""
        with self._starting:
            if self._thread is not None:
                return
            self._stopping = False
            self._unsubscribe = self._registry.subscribe_changes(self._wake.set)
            self._thread = threading.Thread(target=self._work, name="everloop-reconciler", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread and retire every lane. Safe to call twice."""
        with self._starting:
            thread, self._thread = self._thread, None
            self._stopping = True
            self._unsubscribe()
            self._wake.set()
        if thread is not None:
            thread.join()
        with self._stepping:
            for name, lane in list(self._table.current.lanes.items()):
                self._publish(self._table.current.without(name), lane)

    @property
    def alive(self) -> bool:
        """Whether the thread that `start` began is at work."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def wait_for(self, model: str, version: int, timeout: float) -> bool:
        """Until this process answers with `version`, or with a later one that has superseded it. False after `timeout`
        seconds, or as soon as it is known that this version cannot be opened (`failures` tells why)."""

        def settled() -> bool:
            return self._serves(model, version) or self._failed(model, version)

        with self._changed:
            self._changed.wait_for(settled, timeout)
        return self._serves(model, version)

    def refused(self, model: str, version: int) -> EverloopError | None:
        """Why this version cannot be opened, as an error of its own for each who raises it; None as far as is known."""
        failure = self.failures.get(model)
        if failure is None or failure.version != version:
            return None
        error = failure.error
        return type(error)(
            f"version {version} of model {model!r} cannot be opened: {error.message}",
            field=error.field,
            retry_after=error.retry_after,
        )

    def _serves(self, model: str, version: int) -> bool:
        lane = self._table.current.lanes.get(model)
        if lane is None or lane.version <= version:
            return lane is not None and lane.version == version
        try:  # on the way back from a later version it is not there yet
            return self._registry.get(model).live_version != version
        except EverloopError:
            return False

    def _failed(self, model: str, version: int) -> bool:
        failure = self.failures.get(model)
        return failure is not None and failure.version == version

    def _work(self) -> None:
        while not self._stopping:
            self._wake.clear()
            if self._due():
                self.step()
            self._wake.wait(POLL)

    def _due(self) -> bool:
        """Whether anything changed, or a failed version is to be tried again."""
        if self.failures:
            now = self._clock.monotonic()
            if any(failure.retry_at <= now for failure in self.failures.values()):
                return True
        try:
            return self._registry.revision() != self._seen
        except EverloopError as error:
            self.broken = error
            return False

    def _reach(self, name: str, record: VersionRecord) -> None:
        lane = self._table.current.lanes.get(name)
        if lane is not None and _same(lane.record, record):
            self._forgive(name)
            return
        failure = self.failures.get(name)
        known = failure is not None and failure.version == record.version and failure.digest == record.digest
        if known and failure is not None and failure.retry_at > self._clock.monotonic():
            return
        start = self._clock.monotonic()
        try:
            model = self._registry.get(name)
            opened = self._open(record, model)
        except ModelNotFound:
            return  # unregistered meanwhile; the next step sees it
        except EverloopError as error:
            self._fail(record, error, failure.attempts if known and failure is not None else 0)
            return
        seconds = self._clock.monotonic() - start
        self._publish(self._table.current.with_lane(opened), lane)
        self._forgive(name)
        self._tell(
            record,
            "swapped",
            f"version {record.version} answers"
            + (f" instead of {lane.version}" if lane is not None else "")
            + f"; it was ready in {seconds * 1000:.1f} ms",
            {"from": None if lane is None else lane.version, "to": record.version, "seconds": seconds},
        )

    def _open(self, record: VersionRecord, model: ModelRecord) -> Lane:
        """Raises EverloopError, whatever a library raised."""
        try:
            samples = self._samples(record)
            return open_lane(record, model, self._registry, self._recorder, rules=self._rules, samples=samples)
        except EverloopError:
            raise
        except Exception as error:
            raise EverloopError(f"{type(error).__name__}: {error}") from error

    def _samples(self, record: VersionRecord) -> Sequence[Row]:
        examples = self._recorder.journal.examples(record.model, limit=SAMPLES, latest=True)
        return [example.row for example in examples]

    def _publish(self, table: Table, old: Lane | None) -> None:
        self._table.current = table
        with self._changed:
            self._changed.notify_all()
        if old is not None:
            old.retire()

    def _fail(self, record: VersionRecord, error: EverloopError, attempts: int) -> None:
        attempts += 1
        pause = backoff(attempts, self._rng)
        failure = Failure(record.version, record.digest, error, attempts, self._clock.monotonic() + pause)
        self.failures = {**self.failures, record.model: failure}
        with self._changed:
            self._changed.notify_all()
        if attempts == 1:
            lane = self._table.current.lanes.get(record.model)
            still = f"version {lane.version} goes on answering" if lane is not None else "nothing answers yet"
            self._tell(
                record,
                "open_failed",
                f"version {record.version} cannot be opened ({error.message}); {still}",
                {"code": error.code, "serving": None if lane is None else lane.version},
            )

    def _forgive(self, name: str) -> None:
        if name in self.failures:
            self.failures = {model: failure for model, failure in self.failures.items() if model != name}

    def _tell(self, record: VersionRecord, kind: EventKind, message: str, data: dict[str, Any]) -> None:
        event = Event(record.model, kind, self._clock.now(), message, record.version, data)
        self._recorder.journal.log(event)
        self._bus.emit(event)


def _same(live: VersionRecord, wanted: VersionRecord) -> bool:
    """A model that was unregistered and made again may reuse bytes, never a number."""
    return live.version == wanted.version and live.digest == wanted.digest
