"""What the app hands to the API: the running parts of one server, and whether it is starting or draining.

The API constructs none of it. Every protocol (the Starlette app, the fast lane) works on the same `Services`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from everloop.api.audit import Refusals
from everloop.api.door import Door
from everloop.api.http.front import Front
from everloop.api.http.limits import Limits
from everloop.api.observing import ErrorLog
from everloop.api.override import OverrideKeys
from everloop.api.traffic import Traffic
from everloop.serving.config import ServingConfig
from everloop.showcase.config import ShowcaseConfig

if TYPE_CHECKING:
    from everloop.api.observing import Observer
    from everloop.core.clock import Clock
    from everloop.core.events import EventBus
    from everloop.learning.config import LearningConfig
    from everloop.learning.intake import Intake
    from everloop.learning.loop import LearningLoop
    from everloop.optimization.background import BackgroundOptimizer
    from everloop.registry.catalog import Registry
    from everloop.runtime.artifact import Trust
    from everloop.serving.cache import AnswerCache
    from everloop.serving.controller import Controller
    from everloop.serving.predictor import Predictor
    from everloop.serving.reconciler import Reconciler
    from everloop.serving.recorder import Recorder
    from everloop.serving.table import TableRef
    from everloop.stores.ports import Journal


@dataclass(eq=False)
class Services:
    registry: Registry
    journal: Journal
    table: TableRef
    predictor: Predictor
    recorder: Recorder
    reconciler: Reconciler
    intake: Intake
    loop: LearningLoop
    controller: Controller
    optimizer: BackgroundOptimizer
    bus: EventBus
    clock: Clock
    cache: AnswerCache
    config: LearningConfig
    started_at: float
    """Seconds since the epoch, by `clock`."""
    limits: Limits = field(default_factory=Limits)
    serving: ServingConfig = field(default_factory=ServingConfig)
    """How models are served that do not say otherwise."""
    showcase: ShowcaseConfig = field(default_factory=ShowcaseConfig)
    """Which models stand behind `/api/predict/…`, and how much those routes take."""
    record: float = 1.0
    """Share of predictions that is recorded of models that come as files."""
    trust: Trust | None = None
    """What `POST /v1/models` may load; None trusts nothing."""
    trust_files: Trust | None = None
    """What uploaded files may be; None trusts nothing."""
    override_keys: OverrideKeys = field(default_factory=OverrideKeys)
    """Who may choose a version by header. The server's."""
    door: Door = field(default_factory=Door)
    """Who may do what."""
    refusals: Refusals = field(default_factory=Refusals)
    """What the door refused, told in the log."""
    front: Front = field(default_factory=Front)
    """What HTTP shows to whom. The server's."""
    observer: Observer | None = None
    """Who looks at single requests; None where nobody does. The server's."""
    errors: ErrorLog = field(default_factory=ErrorLog)
    """Who is told of errors that are not the callers'."""
    learning: bool = True
    """Whether the learning loop is meant to run: if so, a loop that does not is a dead component."""
    starting: bool = False
    """True until the versions that should be live are. The engine's."""
    preparing: bool = False
    """True while what the server was told to serve is still being registered. The server's."""
    draining: bool = False
    """True from the first signal to stop on. Read by every protocol: readiness fails, connections are told to close."""
    traffic: Traffic = field(init=False)
    """What has been answered; made here because it lives as long as this does."""
    _on_drain: list[Callable[[], None]] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.traffic = Traffic(self.table, self.bus)

    @property
    def up(self) -> bool:
        """Whether every model is here that should be. Until then the server is not ready, and no model is said not to exist."""
        return not self.starting and not self.preparing

    def drain(self) -> None:
        """Begin to drain: readiness fails from now on, event streams end. Idempotent; safe from any thread."""
        with self._lock:
            if self.draining:
                return
            self.draining = True
            callbacks, self._on_drain = self._on_drain, []
        for callback in callbacks:
            callback()

    def on_drain(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` (which must not block) when draining begins; at once if it has. Returns the undo."""
        with self._lock:
            if not self.draining:
                self._on_drain.append(callback)

                def undo() -> None:
                    with self._lock:
                        if callback in self._on_drain:
                            self._on_drain.remove(callback)

                return undo
        callback()
        return lambda: None
