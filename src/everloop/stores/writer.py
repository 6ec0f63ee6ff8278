"""The one thread that writes the journal: it takes everything queued, commits it as one group, and tells who waits.

    record ──┐                           ┌─ done(appended) each append, in order
    append ──┼─> bounded queue ─> group ─┤
    log    ──┤                           └─ on failure: done(error); records and events stay for the next group
    run    ──┘      (tasks: checkpoints, leases, retention, each in a transaction of its own, after the group before it)

A commit that fails is told to the callers whose labels it held; the thread lives on. The database is opened anew after an
error, since a connection that saw it fail may not be trusted. Should anything but the store itself be at fault, the
group is committed entry by entry, so that only the entry to blame is refused.

Which database it is, and what its errors mean, is the `Backend`'s to know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from everloop.core.clock import Clock
from everloop.core.errors import Closed, EverloopError, Overloaded, StoreUnavailable
from everloop.stores.group import Group, QueuedAppend, QueuedEvent, QueuedRecord
from everloop.stores.ports import Appended

T = TypeVar("T")
C = TypeVar("C")

_GROUP_LABELS = 5_000
"""Most labels of one transaction (more only if one append has more): about 50 ms of writing."""
_LINGER = 0.05
"""Seconds that predictions wait for company while nobody waits for them."""
_EAGER_BYTES = 4 << 20


class Backend(Protocol[C]):
    """A database as the writer sees it; `C` is a connection to it. All but `unavailable` is called on the writer's thread."""

    def connect(self) -> C: ...

    def disconnect(self, connection: C) -> None:
        """Never raises, whatever state the connection is in."""

    def commit(self, connection: C, group: Group) -> list[Appended]:
        """One group as one transaction; what became of each append, in order. If it raises, nothing was written."""

    def run(self, connection: C, work: Callable[[C], T]) -> T:
        """`work` as one transaction that no other writer takes part in."""

    def passing(self, error: Exception) -> bool:
        """Whether the same may succeed later: locked, full, unreachable. What nobody would send again is then kept."""

    def broken(self, error: Exception) -> bool:
        """Whether the store is at fault rather than what was to be written."""

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """What a failed write means to the person who runs the server."""

    @property
    def name(self) -> str:
        """Which database it is, as a person may read it."""


class _Task(Generic[C]):
    """Something to be done on the writer's connection, and who waits for it."""

    def __init__(self, work: Callable[[C], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: EverloopError | None = None
        self.finished = threading.Event()

    def end(self, error: EverloopError | None = None) -> None:
        self.error = error
        self.finished.set()


class Writer(Generic[C]):
    def __init__(
        self, backend: Backend[C], *, clock: Clock, queue_size: int, record_bytes: int, commit_interval: float
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._queue_size = queue_size
        self._record_bytes = record_bytes
        self._commit_interval = commit_interval
        self._connection: C | None = None
        self._changed = threading.Condition(threading.Lock())
        self._group = Group([], [], [])
        self._tasks: list[_Task[C]] = []
        self._queued = 0  # labels and events waiting
        self._queued_bytes = 0  # of predictions waiting
        self._in_flight = 0
        self._dropped = 0
        self._failures = 0  # in a row
        self.failure: StoreUnavailable | None = None
        """Why the last commit failed; None once one has succeeded again."""
        self._lingering = False
        self._closing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everloop-journal", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._dropped

    @property
    def pending(self) -> int:
        with self._changed:
            return self._queued + len(self._group.records) + self._in_flight

    def put_record(self, record: QueuedRecord) -> bool:
        with self._changed:
            self._check_open()
            if self._queued_bytes + record.size > self._record_bytes:
                self._dropped += 1
                return False
            self._queued_bytes += record.size
            self._group.records.append(record)
            if not self._lingering or self._queued_bytes > _EAGER_BYTES:
                self._changed.notify()
        return True

    def put_append(self, append: QueuedAppend) -> None:
        with self._changed:
            self._check_open()
            waiting = self._queued + self._in_flight
            if waiting and waiting + len(append.labels) > self._queue_size:
                raise Overloaded(
                    f"{waiting} labels wait to be written, at most {self._queue_size} may; send them more slowly",
                    retry_after=1.0,
                )
            self._queued += len(append.labels)
            self._group.appends.append(append)
            self._changed.notify()

    def put_event(self, event: QueuedEvent) -> None:
        with self._changed:
            self._check_open()
            if len(self._group.events) >= self._queue_size:
                self._dropped += 1
                return
            self._queued += 1
            self._group.events.append(event)
            self._changed.notify()

    def run(self, work: Callable[[C], T]) -> T:
        """Do `work` in a transaction of its own, after everything queued so far, and wait. Raises what it raised.

        Not to be called from a `done`."""
        task = _Task(work)
        with self._changed:
            self._check_open()
            self._tasks.append(task)
            self._changed.notify()
        task.finished.wait()
        if task.error is not None:
            raise task.error
        result: T = task.result
        return result

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._stopping.set()
            self._changed.notify_all()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closing:
            raise Closed("the journal is closed")

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            self._disconnect()
            self._refuse_leftovers()

    def _refuse_leftovers(self) -> None:
        """Whoever still waits when the thread ends must hear so."""
        with self._changed:
            self._closing = True
            group, self._group = self._group, Group([], [], [])
            tasks, self._tasks = self._tasks, []
            self._queued = self._queued_bytes = 0
        told = StoreUnavailable(f"the journal in {self._backend.name} was closed before this could be written")
        for append in group.appends:
            self._tell(append, told)
        for task in tasks:
            task.end(told)

    def _turn(self) -> bool:
        """Wait for work and do it; False when closing and nothing is left."""
        with self._changed:
            while not (self._group.records or self._group.appends or self._group.events or self._tasks):
                if self._closing:
                    return False
                self._changed.wait()
            # Nobody waits for predictions: flushing the disk for each batch of them would cost a tenth of a core.
            self._lingering = True
            self._changed.wait_for(self._urgent, timeout=_LINGER * 2 ** min(self._failures, 7))
            self._lingering = False
            hurry = bool(self._tasks)
        if self._commit_interval > 0 and not hurry:
            self._clock.wait(self._stopping, self._commit_interval)
        with self._changed:
            group, tasks = self._take()
        failed = self._commit(group)
        for task in tasks:
            self._do(task, failed)
        # Without a caller to tell, entries that cannot be written would keep a closing journal open for ever.
        return not (failed and self._closing)

    def _urgent(self) -> bool:
        if self._group.appends or self._tasks or self._closing:
            return True
        # After a failure, what is left over waits longer each time, until somebody wants something.
        return not self._failures and (bool(self._group.events) or self._queued_bytes > _EAGER_BYTES)

    def _take(self) -> tuple[Group, list[_Task[C]]]:
        group = self._group
        labels = 0
        for taken, append in enumerate(group.appends, start=1):
            labels += len(append.labels)
            if labels >= _GROUP_LABELS and taken < len(group.appends):
                self._group = Group([], group.appends[taken:], [])
                group.appends = group.appends[:taken]
                tasks: list[_Task[C]] = []  # they wait for all that was queued before them
                break
        else:
            self._group = Group([], [], [])
            tasks, self._tasks = self._tasks, []
        self._in_flight = labels + len(group.events)
        self._queued -= self._in_flight
        return group, tasks

    def _commit(self, group: Group) -> StoreUnavailable | None:
        """Commit, and tell every append what became of it. The store's error, if it failed."""
        if not (group.records or group.appends or group.events):
            return None
        failed: StoreUnavailable | None = None
        try:
            appended = self._backend.commit(self._connected(), group)
        except Exception as error:
            single = len(group.records) + len(group.appends) + len(group.events) == 1
            if not (single or self._backend.passing(error) or self._backend.broken(error)):
                failed = self._commit_singly(group)
            else:
                failed = self._failed(group, error)
        else:
            with self._changed:
                self._in_flight = 0
                self._failures = 0
                self.failure = None
                self._queued_bytes -= sum(record.size for record in group.records)
            for append, outcome in zip(group.appends, appended, strict=True):
                self._tell(append, outcome)
        return failed

    def _commit_singly(self, group: Group) -> StoreUnavailable | None:
        failed = None
        singles = [Group([record], [], []) for record in group.records]
        singles += [Group([], [append], []) for append in group.appends]
        singles += [Group([], [], [event]) for event in group.events]
        for single in singles:
            failed = self._commit(single) or failed
        return failed

    def _failed(self, group: Group, error: Exception) -> StoreUnavailable:
        self._disconnect()
        told = self._backend.unavailable(error)
        retry = self._backend.passing(error)
        with self._changed:
            self._in_flight = 0
            self._failures += 1
            self.failure = told
            if retry:  # records and events have nobody who would send them again
                self._group.records[:0] = group.records
                self._group.events[:0] = group.events
                self._queued += len(group.events)
            else:
                self._dropped += len(group.records) + len(group.events)
                self._queued_bytes -= sum(record.size for record in group.records)
        for append in group.appends:
            self._tell(append, told)
        return told

    def _do(self, task: _Task[C], failed: StoreUnavailable | None) -> None:
        if failed is not None:  # a flush, or whatever else was to come after what has not been written
            task.end(failed)
            return
        try:
            task.result = self._backend.run(self._connected(), task.work)
        except EverloopError as error:
            task.end(error)
        except Exception as error:
            self._disconnect()
            told = self._backend.unavailable(error)
            told.__cause__ = error
            task.end(told)
        else:
            task.end()

    def _tell(self, append: QueuedAppend, outcome: Appended | EverloopError) -> None:
        try:
            append.done(outcome)
        except Exception as error:
            # The callback's fault, reported as any thread's would be; the others still have to be told.
            threading.excepthook(
                threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
            )

    def _connected(self) -> C:
        if self._connection is None:
            self._connection = self._backend.connect()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._backend.disconnect(self._connection)
            self._connection = None
