"""What should be live here: the wanted state that `serving.reconciler` compares with what is."""

from __future__ import annotations

from everloop.core.errors import ModelNotFound, VersionNotFound
from everloop.registry.catalog import Registry
from everloop.stores.ports import VersionRecord


def desired(registry: Registry) -> dict[str, VersionRecord]:
    """Model -> the version that should serve it. Models without a live version are left out."""
    wanted: dict[str, VersionRecord] = {}
    for model in registry.list():
        if model.live_version is None:
            continue
        try:
            wanted[model.name] = registry.version(model.name, model.live_version)
        except (ModelNotFound, VersionNotFound):  # unregistered since the list was read
            continue
    return wanted
