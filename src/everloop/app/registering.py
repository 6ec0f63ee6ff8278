"""A model comes in at the engine: what a person names (`runtime.source`), or an object that is handed over, as a model with a version.

What can learn is registered with its learner, and learns on; what only answers is an artifact. The same name with the same model is the
model that is there, as after a restart; other bytes are its next version.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from everloop.api.files import accept, learner_of
from everloop.core.hashing import artifact_digest
from everloop.runtime.artifact import Trust
from everloop.runtime.source import Source, is_source, read_source, title, trust_in
from everloop.showcase.builtin import located

if TYPE_CHECKING:
    from everloop.app.build import Engine
    from everloop.learning.config import ModelParameters
    from everloop.learning.learners.base import Learner
    from everloop.stores.ports import Manifest, ModelRecord, VersionRecord


@dataclass(frozen=True)
class Wishes:
    """How a model is to learn, to go out, to be served and recorded."""

    learning: Mapping[str, Any] = field(default_factory=dict)
    rollout: Mapping[str, Any] | None = None
    serving: Mapping[str, Any] | None = None
    record: float = 1.0


def register(
    engine: Engine, name: str, model: Any, parameters: ModelParameters | Mapping[str, Any] | None, wishes: Wishes
) -> ModelRecord:
    """As `Engine.register`."""
    from everloop.learning.learners.make import already_fitted, make_learner
    from everloop.runtime.packing import import_path, only_answers, pack

    if isinstance(model, os.PathLike) or (isinstance(model, str) and is_source(model)):
        return register_source(engine, name, model, wishes)
    entry = import_path(model)
    if entry is not None:
        return register_source(engine, name, entry, wishes)
    if only_answers(model):
        return _register_artifact(engine, name, pack(model, trust=engine.trust), None, wishes)
    learner = make_learner(model, parameters, trust=engine.trust)
    made = engine.services.loop.register(
        name,
        learner,
        task=learner.task,
        learning=dict(wishes.learning),
        rollout=wishes.rollout,
        serving=wishes.serving,
        record=wishes.record,
    )
    if made.live_version is None and already_fitted(model):
        manifest, payload = learner.freeze()
        engine.services.registry.fix_schema(name, manifest.schema, manifest.target)
        _publish(engine, name, manifest, payload, "fitted when it was registered")
    return engine.services.registry.get(name)


def add_version(
    engine: Engine, name: str, source: Source, *, live: bool, version_name: str, note: str, by: str
) -> VersionRecord:
    """As `Engine.register_file`."""
    source = located(source)
    trust = named(engine, source)
    manifest, payload = read_source(source, trust=trust)
    made, new = accept(
        engine.services,
        name,
        manifest,
        payload,
        trust=trust,
        live=live,
        version_name=version_name,
        note=note or f"from {title(source)}",
        by=by,
    )
    if new and live:
        engine.settle(name, made.version)
    return made


def named(engine: Engine, source: Source) -> Trust:
    """What a file may be read under; from now on the engine runs the code that `source` names, if it names any."""
    trust = trust_in(source, engine.trust_files)
    if trust != engine.trust_files:
        engine.allow_code(trust.code)
    return trust


def register_source(engine: Engine, name: str, source: Source, wishes: Wishes) -> ModelRecord:
    """As `register`, of what `source` names. A scikit-learn file brings an estimator that can be fitted again; all else only answers."""
    source = located(source)
    trust = named(engine, source)
    artifact = read_source(source, trust=trust)
    made = _register_artifact(
        engine, name, artifact, learner_of(*artifact, trust), wishes, note=f"from {title(source)}"
    )
    if trust != engine.trust_files and made.live_version is not None and made.serving.get("loaded", True):
        engine.tried(name, made.live_version)  # its code was not allowed until now
    return made


def _register_artifact(
    engine: Engine,
    name: str,
    artifact: tuple[Manifest, bytes],
    learner: Learner | None,
    wishes: Wishes,
    *,
    note: str = "as it was registered",
) -> ModelRecord:
    manifest, payload = artifact
    found = engine.services.loop.register(
        name,
        learner,
        task=manifest.task,
        learning=dict(wishes.learning),
        rollout=wishes.rollout,
        serving=wishes.serving,
        record=wishes.record,
        schema=manifest.schema,
        target=manifest.target,
    )
    registry = engine.services.registry
    digest = artifact_digest(payload)
    if found.live_version is None or all(known.digest != digest for known in registry.versions(name)):
        _publish(engine, name, manifest, payload, note)
    return registry.get(name)


def _publish(engine: Engine, name: str, manifest: Manifest, payload: bytes, note: str) -> None:
    made = engine.services.registry.add_version(name, manifest, payload, live=True, note=note)
    engine.settle(name, made.version)
