"""Copying an engine, whatever its stores, into a new data folder.

Models, versions (with their numbers), artifacts and examples go over. Recorded predictions and learners' places do not: the new
engine learns its place again from the examples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from everloop.app.settings import EngineSettings
from everloop.core.errors import Conflict, EverloopError, Untrusted
from everloop.core.types import Label

if TYPE_CHECKING:
    from everloop.app.build import Engine

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
    target.registry.register(
        name,
        record.kind,
        task=record.task,
        parameters=record.parameters,
        learning=record.learning,
        record=record.record,
        schema=record.schema,
        target=record.target,
        template=source.registry.template(name),
    )
    for version in source.registry.versions(name):
        made = target.registry.add_version(
            name, version.manifest, engine.artifacts.get(version.digest), live=False, note=version.note
        )
        assert made.version == version.version, "versions are copied in order into an empty catalog"
    if record.live_version is not None:
        target.registry.promote(name, record.live_version, note="saved")
    after = 0
    while page := source.journal.examples(name, after=after, limit=PAGE):
        after = page[-1].id
        appended = target.journal.append_now(
            [Label(name, e.label, e.at, row=e.row, validation=e.validation) for e in page]
        )
        for outcome in appended.outcomes:
            if isinstance(outcome, EverloopError):
                raise outcome
