"""The shadows of this process: opened and closed as the registry wants, asked by the controller."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from everloop.core.events import EventBus
from everloop.core.types import Row
from everloop.policy.shadowing import ShadowRules
from everloop.registry.deployment import Deployment
from everloop.serving.comparison import Shown
from everloop.serving.recorder import Recorder
from everloop.serving.shadow import DEFAULT_RULES, PATIENCE, Shadow, open_shadow

if TYPE_CHECKING:
    from everloop.registry.catalog import Registry

_Key = tuple[int, str, int | None]
"""Version, digest, and the rollout that it is about: another rollout counts anew."""


class Shadows:
    """`reach` and `close` are the reconciler's; the rest may be called from any thread."""

    def __init__(
        self, registry: Registry, recorder: Recorder, bus: EventBus, *, rules: ShadowRules = DEFAULT_RULES
    ) -> None:
        rules.validate()
        self._registry = registry
        self._recorder = recorder
        self._bus = bus
        self._rules = rules
        self._lock = threading.Lock()
        self._open: dict[str, tuple[_Key, Shadow]] = {}

    def reach(self, wanted: Mapping[str, Deployment]) -> None:
        """Open what should be there and is not, close what is there and should not."""
        keys = {name: _key(deployment) for name, deployment in wanted.items()}
        with self._lock:
            gone = {name: shadow for name, (key, shadow) in self._open.items() if keys.get(name) != key}
            for name in gone:
                del self._open[name]
        for shadow in gone.values():
            shadow.close()
        for name, key in keys.items():
            if key is not None and name not in self._open:
                shadow = self._opened(wanted[name])
                with self._lock:
                    self._open[name] = key, shadow

    def close(self) -> None:
        self.reach({})

    def all(self) -> list[Shadow]:
        with self._lock:
            return [shadow for _, shadow in self._open.values()]

    def of(self, model: str, version: int) -> Shadow | None:
        with self._lock:
            _, shadow = self._open.get(model, (None, None))
        return shadow if shadow is not None and shadow.version == version else None

    def observed(self, model: str, version: int) -> Shown | None:
        """What it has done so far; None where there is none."""
        shadow = self.of(model, version)
        return None if shadow is None else shadow.observed()

    def answers(self, model: str, version: int, rows: Sequence[Row], time_limit: float = PATIENCE) -> list[Any] | None:
        """As `Shadow.answers`; None where there is none."""
        shadow = self.of(model, version)
        return None if shadow is None else shadow.answers(rows, time_limit)

    def _opened(self, wanted: Deployment) -> Shadow:
        record, rollout, rules = wanted.shadow, wanted.rollout, self._rules
        assert record is not None
        if rollout is not None and rollout.challenger == record.version:
            rules = dataclasses.replace(rules, timeout=rollout.plan.gates.timeout)
        return open_shadow(record, wanted.model, self._registry, self._recorder, self._bus, rules=rules)


def _key(wanted: Deployment) -> _Key | None:
    record, rollout = wanted.shadow, wanted.rollout
    if record is None:
        return None
    about = rollout is not None and rollout.challenger == record.version
    return record.version, record.digest, rollout.id if about and rollout is not None else None
