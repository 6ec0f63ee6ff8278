"""The trial: a challenger is opened and run in a process of its own before it gets traffic.

A model is somebody's code: loading it may hang, and native code may end the whole process. What does so in its trial costs one process
that nobody waits for. It is shown recent rows, one at a time and all at once, as traffic would. Being slow or raising on a row is no
reason to refuse it: that is what the gates are for. A trial takes seconds, in which the champion answers and nobody waits.

What is Python code stays in the process of its trial (`remote`); anything else is opened again in the one that serves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from everloop.core.errors import Closed, EverloopError, ModelFailed, explain
from everloop.core.types import Row
from everloop.serving.remote import RUNTIMES, RemoteSession
from everloop.serving.worker import Worker
from everloop.stores.ports import VersionRecord

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry

SECONDS = 120.0
"""What starting the process, loading and running may take together: at low priority, on a machine that is busy serving."""


class Trial(Protocol):
    """Made on a thread of its own, one at a time."""

    def __call__(self, record: VersionRecord, rows: Sequence[Row]) -> RemoteSession | None:
        """What is to answer from now on; None: it may be opened in this process. Raises ModelFailed (it crashed or hung),
        ArtifactCorrupt and what else opening raises."""

    def end(self) -> None:
        """From another thread: what is under way is ended, and later ones are at once. They raise Closed."""


class ProcessTrial:
    """The trial as it is meant to be."""

    def __init__(self, registry: Registry, seconds: float = SECONDS) -> None:
        self._registry = registry
        self._seconds = seconds
        self._lock = threading.Lock()
        self._session: RemoteSession | None = None
        self._ended = False

    def __call__(self, record: VersionRecord, rows: Sequence[Row]) -> RemoteSession | None:
        payload = self._registry.payload(record)
        with self._lock:
            if self._ended:
                raise Closed("no more trials")
            session = self._session = RemoteSession(record, self._registry.trust)
        stays = False
        try:
            session.open(payload, rows, self._seconds)
            stays = record.manifest.runtime in RUNTIMES
        except ModelFailed as error:
            if self._ended:
                raise Closed("the trial was ended") from error
            raise _of_trial(session.error or error) from error
        finally:
            with self._lock:
                self._session = None
            if not stays:
                session.close()
        return session if stays else None

    def end(self) -> None:
        with self._lock:
            self._ended = True
            if self._session is not None:
                self._session.kill()


@dataclass(frozen=True, slots=True)
class Passed:
    session: RemoteSession | None
    """Where it is open already, for whoever asked: it is theirs to close."""


_Key: TypeAlias = tuple[str, int, str]


class Trials:
    """Those that were made and are being made: nobody waits for one. Used by the reconciler's step."""

    def __init__(self, trial: Trial, on_done: Callable[[], None]) -> None:
        """`on_done` is called when one is over, on its thread."""
        self._trial = trial
        self._on_done = on_done
        self._worker = Worker("everloop-trial")
        """The processes that it has started end with its thread."""
        self._lock = threading.Lock()
        self._closed = False
        self._made: dict[_Key, EverloopError | Passed | Literal["asked"]] = {}

    def passed(self, record: VersionRecord, rows: Sequence[Row]) -> Passed | None:
        """None: not yet. Raises why it did not pass; asked again, it is tried again. A session is given away once."""
        key = _key(record)
        with self._lock:
            outcome = self._made.get(key)
            if outcome is None:
                self._made[key] = "asked"
            elif isinstance(outcome, EverloopError) or (outcome != "asked" and outcome.session is not None):
                del self._made[key]
        if outcome is None:
            self._worker.submit(partial(self._make, key, record, rows))
        elif isinstance(outcome, EverloopError):
            raise outcome
        elif outcome != "asked":
            return outcome
        return None

    def keep(self, records: Collection[VersionRecord]) -> None:
        """Close what was opened for others: nobody asks for it any more."""
        wanted = {_key(record) for record in records}
        with self._lock:
            gone = [key for key, outcome in self._made.items() if key not in wanted and outcome != "asked"]
            outcomes = [self._made.pop(key) for key in gone]
        _close(outcomes)

    def close(self) -> None:
        self._trial.end()
        with self._lock:
            self._closed = True
            outcomes = list(self._made.values())
        _close(outcomes)
        self._worker.stop()

    def _make(self, key: _Key, record: VersionRecord, rows: Sequence[Row]) -> None:
        outcome: EverloopError | Passed
        try:
            outcome = Passed(self._trial(record, rows))
        except EverloopError as error:
            outcome = error
        except Exception as error:  # no process can be started, for instance
            outcome = EverloopError(explain(error))
        with self._lock:
            self._made[key] = outcome
            closed = self._closed
        if closed:
            _close([outcome])
        self._on_done()


def _key(record: VersionRecord) -> _Key:
    return record.model, record.version, record.digest


def _close(outcomes: Sequence[object]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Passed) and outcome.session is not None:
            outcome.session.close()


def _of_trial(error: ModelFailed) -> ModelFailed:
    what = error.message if error.how == "timeout" else f"it crashed in a trial: {error.message}"
    told = ModelFailed(f"{what}, before it got any traffic")
    told.how = error.how
    return told
