"""Where the rooms are put together: one `Engine` is one process's stores, lanes, learner and threads.

Order matters twice. Starting: what is stored is opened first, then what should be live is made live, then learning may begin.
Stopping is the reverse, so that nobody writes into a store that is gone: the learner saves its place, lanes let go, recorded
predictions are drained, and the journal commits what it has before it closes.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from everloop.api.door import Door
from everloop.api.services import Services
from everloop.app import registering
from everloop.app.settings import EngineSettings
from everloop.app.surroundings import Surroundings
from everloop.core.clock import Clock, SystemClock
from everloop.core.errors import StoreUnavailable
from everloop.core.events import EventBus
from everloop.learning.config import LearningConfig, ModelParameters
from everloop.learning.intake import Intake
from everloop.learning.loop import LearningLoop
from everloop.optimization.background import BackgroundOptimizer
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
from everloop.runtime.modules import with_code
from everloop.runtime.source import Source
from everloop.serving.admission import Hall
from everloop.serving.cache import open_cache
from everloop.serving.config import effective
from everloop.serving.controller import Controller
from everloop.serving.predictor import Predictor
from everloop.serving.reconciler import Reconciler
from everloop.serving.recorder import Recorder
from everloop.serving.remote import open_apart
from everloop.serving.table import TableRef
from everloop.serving.trial import ProcessTrial
from everloop.stores.opening import open_stores
from everloop.stores.ports import ArtifactStore, Catalog, ModelRecord, VersionRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOUSEKEEPING_SECONDS = 60.0
LIVE_TIMEOUT_SECONDS = 30.0


class Engine:
    """Everything one process needs to serve and learn. `build_engine` makes it; `start` and `stop` run it."""

    def __init__(self, settings: EngineSettings, *, clock: Clock | None = None) -> None:
        settings.learning.validate()
        self.settings = settings
        clock = clock or SystemClock()
        # In memory, every artifact was made by this very process, so its pickles are its own. Files never are.
        said = Trust(settings.trust_pickle, settings.trust_types, settings.trust_code)
        trust = replace(said, pickle=said.pickle or settings.in_memory)
        cache = open_cache(settings.cache, clock)
        journal, catalog, artifacts = open_stores(settings.database or settings.data_dir, clock=clock)
        bus = EventBus()
        registry = Registry(catalog, artifacts, journal, bus, clock, trust)
        table = TableRef()
        recorder = Recorder(journal, clock)
        reconciler = Reconciler(
            registry,
            table,
            recorder,
            bus,
            clock,
            config=settings.serving,
            hall=Hall(settings.limits.max_waiting),
            cache=cache,
            trial=ProcessTrial(registry),
        )
        owner = reconciler.evidences.source
        controller = Controller(registry, journal, reconciler.evidences, clock, owner=owner, shadows=reconciler.shadows)
        loop = LearningLoop(
            registry,
            journal,
            settings.learning,
            bus,
            clock,
            owner=owner,
            trust=trust,
            rng=SystemRandom(),
            open_other=partial(open_apart, registry=registry),
        )
        intake = Intake(
            registry,
            journal,
            settings.learning,
            clock,
            before_join=recorder.drain,
            backlog=loop.backlog,
            wake=loop.wake,
        )
        optimizer = BackgroundOptimizer(
            registry,
            journal,
            settings.optimize,
            clock,
            owner=owner,
            ports=Surroundings(
                journal,
                table,
                clock,
                optimize=settings.optimize,
                serving=settings.serving,
                learning=settings.learning,
            ),
        )
        self.trust_files = said
        """What files may be read under, that somebody names here."""
        self.catalog: Catalog = catalog
        self.artifacts: ArtifactStore = artifacts
        self.services = Services(
            registry=registry,
            journal=journal,
            table=table,
            predictor=Predictor(table, registry, reconciler.refused),
            recorder=recorder,
            reconciler=reconciler,
            intake=intake,
            loop=loop,
            controller=controller,
            optimizer=optimizer,
            bus=bus,
            clock=clock,
            config=settings.learning,
            serving=settings.serving,
            cache=cache,
            started_at=clock.now(),
            limits=settings.limits,
            showcase=settings.showcase,
            record=settings.record,
            trust=trust,
            trust_files=replace(said, network=True),
            door=Door(catalog, clock),
            learning=False,
            starting=True,
        )
        self._housekeeping: threading.Thread | None = None
        self._stopping = threading.Event()
        self._stopped = False

    @property
    def trust(self) -> Trust:
        """What the artifacts that it keeps may be loaded under."""
        return self.services.registry.trust

    @property
    def learning(self) -> LearningConfig:
        return self.settings.learning

    def start(self, *, learning: bool = True) -> None:
        """Make live what should be live, then keep it so; with `learning`, start the loop. Starting twice is once."""
        services = self.services
        if self._housekeeping is None:
            services.recorder.start()
            services.reconciler.step()
            services.reconciler.start()
            services.controller.start()
            services.optimizer.start()
            self._housekeeping = threading.Thread(target=self._keep_house, name="everloop-housekeeping", daemon=True)
            self._housekeeping.start()
            services.starting = False
        if learning:
            services.learning = True
            services.loop.start()

    def stop(self) -> None:
        """Finish and close everything. Safe to call twice; afterwards every call raises Closed."""
        if self._stopped:
            return
        self._stopped = True
        services = self.services
        services.drain()
        self._stopping.set()
        if self._housekeeping is not None:
            self._housekeeping.join()
        services.optimizer.stop()
        services.loop.close()
        services.controller.stop()
        services.reconciler.stop()
        services.recorder.stop()
        services.cache.close()
        services.traffic.close()
        services.journal.close()
        self.catalog.close()

    def register(
        self,
        name: str,
        model: Any,
        parameters: ModelParameters | Mapping[str, Any] | None = None,
        *,
        learning: Mapping[str, Any] | None = None,
        rollout: Mapping[str, Any] | None = None,
        serving: Mapping[str, Any] | None = None,
        record: float | None = None,
    ) -> ModelRecord:
        """Register a kind, an estimator, a River model, a learner, or what names a model (`runtime.source`), and make it live if it is
        already trained. Code that is named is allowed by that.

        The same name with the same specification is the model that is already there, as after a restart; a file whose bytes
        have changed becomes the next version. Raises Conflict, NotSupported, InvalidInput, Untrusted."""
        effective(self.settings.serving, serving or {})
        share = self.settings.record if record is None else record
        return registering.register(
            self, name, model, parameters, registering.Wishes(learning or {}, rollout, serving, share)
        )

    def register_named(self, name: str, source: Source) -> ModelRecord:
        """`register` of what `source` names, whatever it looks like."""
        return registering.register_source(self, name, source, registering.Wishes(record=self.settings.record))

    def allow_code(self, entries: Sequence[str]) -> None:
        """From now on artifacts may run this Python code (`Trust.code`); what was refused for that is tried again."""
        registry = self.services.registry
        registry.trust = with_code(registry.trust, *entries)
        self.services.reconciler.forgive()

    def unregister(self, name: str) -> None:
        """The model, its versions and its examples go; its timeline stays. Raises ModelNotFound."""
        from everloop.api.verbs import delete_model

        delete_model(self.services, name)

    @property
    def place(self) -> str:
        """Where everything is kept, in words; no secret."""
        settings = self.settings
        if settings.database is not None:
            from everloop.stores.postgres import Database

            return Database(settings.database).name
        return "memory" if settings.data_dir is None else str(settings.data_dir.absolute())

    def settle(self, name: str, version: int) -> None:
        """Return once this process answers with `version` (or a later one). Raises why it cannot be opened."""
        if not self.tried(name, version):
            raise self.services.reconciler.refused(name, version) or StoreUnavailable(
                f"version {version} of {name!r} was registered, but did not become live within "
                f"{LIVE_TIMEOUT_SECONDS:.0f} s; its timeline tells why"
            )

    def tried(self, name: str, version: int) -> bool:
        """Return once this process answers with `version` (or a later one), or cannot: which of the two."""
        reconciler = self.services.reconciler
        reconciler.step()
        return reconciler.wait_for(name, version, LIVE_TIMEOUT_SECONDS)

    def register_file(
        self, name: str, source: Source, *, live: bool, version_name: str = "", note: str = "", by: str = "python"
    ) -> VersionRecord:
        """What `source` names as the next version of a model, which is made if it is not there; or the version there is of the very
        same bytes. Not `live`: it waits as `staging`. Raises as `runtime.source.read_source` and `api.files.accept`."""
        return registering.add_version(self, name, source, live=live, version_name=version_name, note=note, by=by)

    def _keep_house(self) -> None:
        settings, services = self.settings, self.services
        while not services.clock.wait(self._stopping, HOUSEKEEPING_SECONDS):
            services.journal.prune(
                now=services.clock.now(), max_age=settings.retention_age_sec, max_bytes=settings.retention_bytes
            )


def build_engine(settings: EngineSettings, *, clock: Clock | None = None) -> Engine:
    """Open the stores and construct every room; nothing runs before `Engine.start`. Raises StoreUnavailable."""
    return Engine(settings, clock=clock)
