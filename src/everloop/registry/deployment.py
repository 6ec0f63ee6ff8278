"""What should be live here: the wanted state that `serving.reconciler` compares with what is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from everloop.core.errors import ModelNotFound, VersionNotFound
from everloop.policy.rollout import Rollout
from everloop.policy.routing import Allocation
from everloop.registry.catalog import Registry
from everloop.stores.ports import ModelRecord, VersionRecord


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model as it should be."""

    model: ModelRecord
    champion: VersionRecord
    """The live version: it answers whatever nobody else owns."""
    others: tuple[VersionRecord, ...] = ()
    """By ascending number: every other version that owns buckets, and the challenger of an active rollout also while it owns none
    (blue-green: open and warm before it gets everything)."""
    allocation: Allocation | None = None
    """None: the champion answers everybody."""
    shadow: VersionRecord | None = None
    rollout: Rollout | None = None
    """The active one."""

    @property
    def challenger(self) -> int | None:
        """The version that the rollout is about, where it is opened here (a shadow's is not: it runs elsewhere)."""
        if self.rollout is None or self.rollout.plan.strategy == "shadow":
            return None
        return self.rollout.challenger


def desired(registry: Registry) -> dict[str, Deployment]:
    """Model -> how it should be served. Models without a live version are left out."""
    rollouts = {rollout.model: rollout for rollout in registry.catalog.active_rollouts()}
    wanted: dict[str, Deployment] = {}
    for model in registry.list():
        if model.live_version is None:
            continue
        try:
            wanted[model.name] = _deployment(registry, model, model.live_version, rollouts.get(model.name))
        except (ModelNotFound, VersionNotFound):  # unregistered since the list was read
            continue
    return wanted


def _deployment(registry: Registry, model: ModelRecord, live: int, rollout: Rollout | None) -> Deployment:
    champion = registry.version(model.name, live)
    allocation = model.allocation
    needed = set(allocation.counts()) if allocation is not None else set()
    if rollout is not None and rollout.plan.strategy != "shadow":
        needed.add(rollout.challenger)
    needed.discard(live)
    shadow = _found(registry, model.name, [] if model.shadow is None or model.shadow == live else [model.shadow])
    return Deployment(
        model,
        champion,
        tuple(_found(registry, model.name, sorted(needed))),
        allocation,
        shadow[0] if shadow else None,
        rollout,
    )


def _found(registry: Registry, name: str, numbers: Iterable[int]) -> list[VersionRecord]:
    """Those that are there: one that was deleted meanwhile is answered for by the champion."""
    found: list[VersionRecord] = []
    for number in numbers:
        try:
            found.append(registry.version(name, number))
        except VersionNotFound:
            continue
    return found
