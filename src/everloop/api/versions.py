"""What can be done with a model's versions, without a protocol. As in `api.verbs`, on a thread: stores are read and written.

Wherever a version is named, it is by number, name, alias, or as `champion` or `challenger`.
"""

from __future__ import annotations

from typing import Any

from everloop.api.rollout_wire import Aliases, VersionChange
from everloop.api.services import Services
from everloop.api.verbs import find_model, serving_version
from everloop.api.wire import VersionInfo, VersionList
from everloop.core.errors import VersionNotFound
from everloop.registry.lineage import Lineage
from everloop.registry.traffic import weights_of
from everloop.stores.ports import ModelRecord, VersionRecord

SETTLE_SECONDS = 5.0
"""How long a change of the live version waits until this process serves it, before it answers anyway."""
MOST_NUMBER = 2**53
"""Beyond it neither JSON readers nor stores agree on integers."""


def versions(services: Services, name: str) -> VersionList:
    model = find_model(services, name)
    serving = serving_version(services, name)
    quality = services.loop.status(name).quality
    return VersionList(name, [_info(model, v, serving, quality) for v in services.registry.versions(name)])


def version(services: Services, name: str, ref: int | str) -> VersionInfo:
    model, number = find_model(services, name), number_of(services, name, ref)
    quality = services.loop.status(name).quality
    return _info(model, services.registry.version(name, number), serving_version(services, name), quality)


def promote(services: Services, name: str, ref: int | str, note: str = "", *, by: str) -> VersionInfo:
    """Make a version live; answers once this process serves it (or after 5 s, then `serving` is false)."""
    number = number_of(services, name, ref)
    services.registry.promote(name, number, note=note, by=by)
    return settled(services, name, number)


def rollback(services: Services, name: str, note: str = "", *, by: str) -> VersionInfo:
    """Undo a rollout that is under way, else a split, else the last promotion. Raises Conflict where there is nothing."""
    find_model(services, name)
    return settled(services, name, services.registry.rollback(name, note=note, by=by).version)


def archive(services: Services, name: str, ref: int | str, *, by: str) -> VersionInfo:
    number = number_of(services, name, ref)
    services.registry.archive(name, number, by=by)
    return version(services, name, number)


def change(services: Services, name: str, ref: int | str, asked: VersionChange, *, by: str) -> VersionInfo:
    """Each part is a change of its own. Raises Conflict (the name is taken), InvalidInput."""
    number, registry = number_of(services, name, ref), services.registry
    if asked.name is not None:
        registry.rename(name, number, asked.name, by=by)
    if asked.tags:
        registry.tag(name, number, asked.tags, by=by)
    if asked.note is not None:
        registry.note(name, number, asked.note, by=by)
    return version(services, name, number)


def lineage(services: Services, name: str, ref: int | str) -> Lineage:
    return services.registry.lineage(name, number_of(services, name, ref))


def train(services: Services, name: str) -> VersionInfo:
    """Fit now, on this thread's time; may take long. Raises what the fit raised."""
    find_model(services, name)
    made = services.loop.train_now(name)
    if made.status != "live":
        return version(services, name, made.version)
    return settled(services, name, made.version)


def aliases(services: Services, name: str) -> Aliases:
    model = find_model(services, name)
    found = dict(model.aliases)
    if model.live_version is not None:
        found["champion"] = model.live_version
    rollout = services.registry.catalog.rollout(name)
    if rollout is not None and rollout.active:
        found["challenger"] = rollout.challenger
    return Aliases(name, dict(sorted(found.items())))


def set_alias(services: Services, name: str, alias: str, ref: int | str, *, by: str) -> Aliases:
    """Raises InvalidInput (no alias can be called so), Conflict (a version is)."""
    services.registry.set_alias(name, alias, number_of(services, name, ref), by=by)
    return aliases(services, name)


def remove_alias(services: Services, name: str, alias: str, *, by: str) -> None:
    """No error if it is not there."""
    if alias in find_model(services, name).aliases:
        services.registry.remove_alias(name, alias, by=by)


def number_of(services: Services, name: str, ref: int | str) -> int:
    """Raises ModelNotFound, Starting, VersionNotFound, ModelUntrained (`champion`, and nothing is live)."""
    find_model(services, name)
    digits = isinstance(ref, int) or ref.isdecimal()
    if len(str(ref)) > services.limits.max_name or (digits and not 1 <= int(ref) <= MOST_NUMBER):
        raise VersionNotFound(
            f"versions are whole numbers from 1 on, names or aliases, not {str(ref)[:40]!r}", field="version"
        )
    return services.registry.resolve(name, ref)


def settled(services: Services, name: str, number: int) -> VersionInfo:
    """Wait until this process serves `number`, so that whoever changed it then sees it."""
    services.reconciler.step()
    services.reconciler.wait_for(name, number, SETTLE_SECONDS)
    return version(services, name, number)


def _info(model: ModelRecord, record: VersionRecord, serving: int | None, quality: dict[str, Any]) -> VersionInfo:
    manifest = record.manifest
    return VersionInfo(
        model=record.model,
        version=record.version,
        status=record.status,
        serving=record.version == serving,
        name=record.name,
        tags=record.tags,
        aliases=sorted(alias for alias, number in model.aliases.items() if number == record.version),
        share=weights_of(model).get(record.version, 0.0),
        shadow=model.shadow == record.version,
        digest=record.digest,
        created_at=record.created_at,
        note=record.note,
        runtime=manifest.runtime,
        task=manifest.task,
        classes=manifest.classes,
        metrics=manifest.metrics,
        lineage=manifest.lineage,
        libraries=manifest.libraries,
        quality=quality.get("versions", {}).get(str(record.version), {}),
    )
