"""Forgetting what a model has answered, in every process that serves it: its record counts how often that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from everloop.stores.ports import ModelRecord

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry

EVERY_VERSION = "*"


def clear_answers(registry: Registry, name: str, version: int | None = None, *, by: str = "") -> ModelRecord:
    """Of the model, or of one version of it. Raises ModelNotFound, VersionNotFound."""
    with registry.changes.on(name, by=by) as change:
        if version is not None:
            change.shelf.version(version)
        before = change.shelf.model
        key = EVERY_VERSION if version is None else str(version)
        after = msgspec.structs.replace(before, cleared=before.cleared | {key: before.cleared.get(key, 0) + 1})
        change.shelf.put_model(after)
        change.log("cleared", "its cached answers were cleared", version=version)
    return after


def clearings(model: ModelRecord, version: int) -> tuple[int, int]:
    """How often the model, and this version of it, were cleared."""
    return model.cleared.get(EVERY_VERSION, 0), model.cleared.get(str(version), 0)
