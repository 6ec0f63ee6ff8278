"""What can be done with a model's versions, without a protocol. As in `api.verbs`, on a thread: stores are read and written."""

from __future__ import annotations

from everloop.api.services import Services
from everloop.api.verbs import find_model, serving_version
from everloop.api.wire import VersionInfo, VersionList
from everloop.stores.ports import VersionRecord

SETTLE_SECONDS = 5.0
"""How long a change of the live version waits until this process serves it, before it answers anyway."""


def versions(services: Services, name: str) -> VersionList:
    find_model(services, name)
    serving = serving_version(services, name)
    return VersionList(name, [_version(v, serving) for v in services.registry.versions(name)])


def version(services: Services, name: str, number: int) -> VersionInfo:
    return _version(_find(services, name, number), serving_version(services, name))


def promote(services: Services, name: str, number: int, note: str = "") -> VersionInfo:
    """Make `number` live; answers once this process serves it (or after 5 s, then `serving` is false)."""
    _find(services, name, number)
    services.registry.promote(name, number, note=note)
    return _settled(services, name, number)


def rollback(services: Services, name: str, note: str = "") -> VersionInfo:
    """Back to the version that was live before. Raises Conflict where there is none."""
    find_model(services, name)
    return _settled(services, name, services.registry.rollback(name, note=note).version)


def archive(services: Services, name: str, number: int) -> VersionInfo:
    _find(services, name, number)
    services.registry.archive(name, number)
    return version(services, name, number)


def train(services: Services, name: str) -> VersionInfo:
    """Fit now, on this thread's time; may take long. Raises what the fit raised."""
    find_model(services, name)
    made = services.loop.train_now(name)
    if made.status != "live":
        return version(services, name, made.version)
    return _settled(services, name, made.version)


def _find(services: Services, name: str, number: int) -> VersionRecord:
    find_model(services, name)
    return services.registry.version(name, number)


def _settled(services: Services, name: str, number: int) -> VersionInfo:
    """Wait until this process serves `number`, so that whoever changed it then sees it."""
    services.reconciler.step()
    services.reconciler.wait_for(name, number, SETTLE_SECONDS)
    return version(services, name, number)


def _version(record: VersionRecord, serving: int | None) -> VersionInfo:
    manifest = record.manifest
    return VersionInfo(
        model=record.model,
        version=record.version,
        status=record.status,
        serving=record.version == serving,
        digest=record.digest,
        created_at=record.created_at,
        note=record.note,
        runtime=manifest.runtime,
        task=manifest.task,
        classes=manifest.classes,
        metrics=manifest.metrics,
        lineage=manifest.lineage,
        libraries=manifest.libraries,
    )
