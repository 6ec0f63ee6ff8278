"""Where the rooms are put together: one `Engine` is one process's stores, lanes, learner and threads.

Order matters twice. Starting: what is stored is opened first, then what should be live is made live, then learning may begin.
Stopping is the reverse, so that nobody writes into a store that is gone: the learner saves its place, lanes let go, recorded
predictions are drained, and the journal commits what it has before it closes.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from everloop.api.door import Door
from everloop.api.services import Services
from everloop.app.settings import EngineSettings
from everloop.core.clock import Clock, SystemClock
from everloop.core.errors import StoreUnavailable
from everloop.core.events import EventBus
from everloop.core.hashing import artifact_digest
from everloop.learning.config import LearningConfig, ModelParameters
from everloop.learning.intake import Intake
from everloop.learning.loop import LearningLoop
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
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
    from collections.abc import Mapping

    from everloop.learning.learners.base import Learner

HOUSEKEEPING_SECONDS = 60.0
LIVE_TIMEOUT_SECONDS = 30.0


class Engine:
    """Everything one process needs to serve and learn. `build_engine` makes it; `start` and `stop` run it."""

    def __init__(self, settings: EngineSettings, *, clock: Clock | None = None) -> None:
        settings.learning.validate()
        self.settings = settings
        clock = clock or SystemClock()
        # In memory, every artifact was made by this very process, so its pickles are its own. Files never are.
        trust = Trust(pickle=settings.trust_pickle or settings.in_memory, types=settings.trust_types)
        self._trust_files = Trust(pickle=settings.trust_pickle, types=settings.trust_types)
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
            trial=ProcessTrial(registry, trust),
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
        self.trust = trust
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
            bus=bus,
            clock=clock,
            config=settings.learning,
            serving=settings.serving,
            cache=cache,
            started_at=clock.now(),
            limits=settings.limits,
            record=settings.record,
            trust=trust,
            trust_files=self._trust_files,
            door=Door(catalog, clock),
            learning=False,
            starting=True,
        )
        self._housekeeping: threading.Thread | None = None
        self._stopping = threading.Event()
        self._stopped = False

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
        """Register a kind, an estimator, a River model, a learner or a file, and make it live if it is already trained.

        The same name with the same specification is the model that is already there, as after a restart; a file whose bytes
        have changed becomes the next version. Raises Conflict, NotSupported, InvalidInput, Untrusted."""
        share = self.settings.record if record is None else record
        overrides = dict(learning or {})
        effective(self.settings.serving, serving or {})
        if isinstance(model, os.PathLike) or (isinstance(model, str) and _looks_like_path(model)):
            return self._register_file(
                name, Path(model), learning=overrides, rollout=rollout, serving=serving, record=share
            )
        from everloop.learning.learners.make import already_fitted, make_learner

        learner = make_learner(model, parameters, trust=self.trust)
        made = self.services.loop.register(
            name, learner, task=learner.task, learning=overrides, rollout=rollout, serving=serving, record=share
        )
        if made.live_version is None and already_fitted(model):
            self._publish_fitted(name, learner)
        return self.services.registry.get(name)

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
        reconciler = self.services.reconciler
        reconciler.step()
        if not reconciler.wait_for(name, version, LIVE_TIMEOUT_SECONDS):
            raise reconciler.refused(name, version) or StoreUnavailable(
                f"version {version} of {name!r} was registered, but did not become live within "
                f"{LIVE_TIMEOUT_SECONDS:.0f} s; its timeline tells why"
            )

    def register_file(
        self, name: str, path: Path, *, live: bool, version_name: str = "", note: str = "", by: str = "python"
    ) -> VersionRecord:
        """A model file as the next version of a model, which is made if it is not there; or the version there is of the very same
        bytes. Not `live`: it waits as `staging`. Raises as `api.files.hand_in`."""
        from everloop.api.files import hand_in
        from everloop.runtime.artifact import read_payload

        made, new = hand_in(
            self.services,
            name,
            read_payload(path),
            source=str(path),
            live=live,
            version_name=version_name,
            note=note,
            by=by,
            field="path",
        )
        if new and live:
            self.settle(name, made.version)
        return made

    def _register_file(
        self,
        name: str,
        path: Path,
        *,
        learning: dict[str, Any],
        rollout: Mapping[str, Any] | None,
        serving: Mapping[str, Any] | None,
        record: float,
    ) -> ModelRecord:
        """A scikit-learn file brings an estimator that can be fitted again; an ONNX file only answers."""
        from everloop.learning.learners.make import make_learner
        from everloop.runtime.artifact import read_model_file

        manifest, payload = read_model_file(path, trust=self._trust_files)
        learner: Learner | None = None
        if manifest.runtime == "sklearn":
            from everloop.runtime.sklearn import load_estimator

            learner = make_learner(load_estimator(payload, self._trust_files), trust=self._trust_files)
        found = self.services.loop.register(
            name,
            learner,
            task=manifest.task,
            learning=learning,
            rollout=rollout,
            serving=serving,
            record=record,
            schema=manifest.schema,
            target=manifest.target,
        )
        registry = self.services.registry
        digest = artifact_digest(payload)
        if found.live_version is None or all(known.digest != digest for known in registry.versions(name)):
            made = registry.add_version(name, manifest, payload, live=True, note=f"from {path.name}")
            self.settle(name, made.version)
        return registry.get(name)

    def _publish_fitted(self, name: str, learner: Learner) -> None:
        manifest, payload = learner.freeze()
        registry = self.services.registry
        registry.fix_schema(name, manifest.schema, manifest.target)
        made = registry.add_version(name, manifest, payload, live=True, note="fitted when it was registered")
        self.settle(name, made.version)

    def _keep_house(self) -> None:
        settings, services = self.settings, self.services
        while not services.clock.wait(self._stopping, HOUSEKEEPING_SECONDS):
            services.journal.prune(
                now=services.clock.now(), max_age=settings.retention_age_sec, max_bytes=settings.retention_bytes
            )


def build_engine(settings: EngineSettings, *, clock: Clock | None = None) -> Engine:
    """Open the stores and construct every room; nothing runs before `Engine.start`. Raises StoreUnavailable."""
    return Engine(settings, clock=clock)


def _looks_like_path(text: str) -> bool:
    """A kind is one plain word; whatever has a separator or an ending is meant as a file."""
    return os.sep in text or "/" in text or "." in text
