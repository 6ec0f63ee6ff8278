"""Copying an engine, whatever its stores, into a new data folder.

Models, versions (with their numbers, names and tags), aliases, the split, artifacts and examples go over. Recorded predictions and learners' places do not: the new
engine learns its place again from the examples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from everloop.app.settings import EngineSettings
from everloop.core.errors import Conflict, EverloopError, Untrusted
from everloop.core.types import Label
from everloop.core.wording import counted

if TYPE_CHECKING:
    from everloop.app.build import Engine
    from everloop.registry.catalog import Registry

PAGE = 5_000


def save_engine(engine: Engine, folder: Path) -> None:
    """Raises Conflict if `folder` holds an engine already, Untrusted if a model could not be loaded again from there."""
    from everloop.app.build import build_engine

    if (folder / "everloop.db").exists():
        raise Conflict(
            f"data folder {str(folder)!r} holds an engine already; choose another or remove it", field="data_dir"
        )
    settings: EngineSettings = replace(engine.settings, data_dir=folder, database=None)
    copy = build_engine(settings)
    try:
        for record in engine.services.registry.list():
            _copy_model(engine, copy, record.name)
    finally:
        copy.stop()


def _copy_model(engine: Engine, copy: Engine, name: str) -> None:
    source, target = engine.services, copy.services
    record = source.registry.get(name)
    if record.kind == "river" and not copy.trust.pickle:
        raise Untrusted(
            f"model {name!r} can only be stored as a pickle; make the Continuum with trust_pickle=True to allow that"
        )
    _copy_versions(source.registry, target.registry, name)
    after = 0
    while page := source.journal.examples(name, after=after, limit=PAGE):
        after = page[-1].id
        appended = target.journal.append_now(
            [Label(name, e.label, e.at, row=e.row, validation=e.validation) for e in page]
        )
        for outcome in appended.outcomes:
            if isinstance(outcome, EverloopError):
                raise outcome


def _copy_versions(source: Registry, target: Registry, name: str) -> None:
    """Everything that the catalog holds of the model, rollouts aside: the traffic of one that is under way stays with its champion."""
    with source.catalog.look(name) as shelf:
        model, versions, history, rollout = shelf.model, shelf.versions(), shelf.history, shelf.rollout()
    if rollout is not None and rollout.active:
        model = msgspec.structs.replace(model, allocation=None, shadow=None)
    digests = {version.digest for version in versions if not version.collected}
    for digest in digests | ({model.template} if model.template else set()):
        target.artifacts.put(source.artifacts.get(digest))
    with target.changes.on(name, new=model) as change:
        shelf = change.shelf
        for version in versions:
            while shelf.next_number() < version.version:
                pass
            shelf.put_version(version)
        shelf.put_model(model, history)
        change.log(
            "imported",
            f"saved with {counted(len(versions), 'version')}",
            version=model.live_version,
            data={"numbers": [version.version for version in versions]},
        )
