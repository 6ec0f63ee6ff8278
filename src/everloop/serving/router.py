"""`ModelRouter`: whom to ask, for a program that does its own asking; and how the versions it asked have done.

It answers from the registry's allocation, the one that a server on the same storage answers from (`policy.routing`): the same unit gets the
same version here and there. The split and the shadow are kept in the registry, so they survive a restart, and a server there runs the
shadow. What `record_request` counts is this router's own.

Routing never touches the storage on the event loop: what the registry says is read on a thread, anew when it has changed; changes of
other processes are noticed within `LOOK_AGAIN` seconds. While the storage is away, what was read last goes on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from everloop.core.clock import Clock, SystemClock
from everloop.core.errors import InvalidInput, ModelUntrained, StoreUnavailable, explain
from everloop.policy.routing import Allocation, bucket_of
from everloop.registry.catalog import Registry
from everloop.registry.info import ModelInfo
from everloop.registry.models import ModelRegistry

LOOK_AGAIN = 0.25
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _View:
    """One model as the registry had it."""

    revision: int
    infos: dict[int, ModelInfo]
    owners: list[int] | int
    """Bucket -> version, or the one that owns them all."""
    salt: str
    numbers: dict[str, int]
    """By name, number and id."""


class _Tally:
    __slots__ = ("errors", "last_error", "latency_ms", "requests", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.requests = self.errors = 0
        self.latency_ms = 0.0
        self.last_error: str | None = None


class ModelRouter:
    """Safe from any thread and any event loop."""

    def __init__(self, registry: ModelRegistry | Registry, *, clock: Clock | None = None) -> None:
        self._models = registry if isinstance(registry, ModelRegistry) else ModelRegistry(registry)
        self._registry = self._models.registry
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._views: dict[str, _View] = {}
        self._looked_at: dict[str, float] = {}
        self._tallies: dict[str, dict[int, _Tally]] = {}

    def __repr__(self) -> str:
        return f"ModelRouter({self._models!r})"

    async def set_traffic_split(
        self, name: str, weights: Mapping[str | int, float], shadow_version: str | int | None = None
    ) -> None:
        """Give each version its share of `name`'s traffic: weights sum to 1, and 0 gets nothing. Only the units that must change their
        version do. `shadow_version` is shown a copy of the traffic by the servers on this storage, and answers nobody.

        Versions are named by name, number, alias or id. Raises InvalidInput, ModelNotFound, VersionNotFound, ArtifactCorrupt, Conflict
        while a rollout is active."""
        await asyncio.to_thread(self._split, name, dict(weights), shadow_version)

    async def route_request(self, name: str, request_id: str) -> ModelInfo:
        """The version that answers this request, or user, or session: always the same one while its share does not shrink. Raises
        ModelNotFound, ModelUntrained."""
        view = self._views.get(name)
        if view is None:
            view = await asyncio.to_thread(self._look, name)
        elif self._clock.monotonic() - self._looked_at[name] >= LOOK_AGAIN:
            self._looked_at[name] = self._clock.monotonic()  # one looks; the others go on meanwhile
            try:
                view = await asyncio.to_thread(self._look, name)
            except StoreUnavailable:
                _log.warning("the split of %s stays as it was last seen: its storage is away", name, exc_info=True)
        owners = view.owners
        return view.infos[owners if isinstance(owners, int) else owners[bucket_of(view.salt, str(request_id))]]

    def record_request(
        self, name: str, version: str | int, latency_ms: float, error: str | BaseException | None = None
    ) -> None:
        """Count a request that `version` has answered, or failed to. Raises InvalidInput, ModelNotFound, VersionNotFound."""
        if (
            isinstance(latency_ms, bool)
            or not isinstance(latency_ms, (int, float))
            or not 0 <= latency_ms < float("inf")
        ):
            raise InvalidInput(f"latency_ms: expected milliseconds, got {latency_ms!r}", field="latency_ms")
        number = self._number(name, version)
        with self._lock:
            tally = self._tallies.setdefault(name, {}).get(number)
            if tally is None:
                tally = self._tallies[name][number] = _Tally(self._clock.monotonic())
            tally.requests += 1
            tally.latency_ms += latency_ms
            if error is not None:
                tally.errors += 1
                tally.last_error = explain(error) if isinstance(error, BaseException) else str(error)

    def get_version_stats(self, name: str, version: str | int) -> dict[str, Any]:
        """`request_count avg_latency_ms error_rate_pct error_count last_error uptime_seconds`, the last since its first request that was
        counted here. Raises ModelNotFound, VersionNotFound."""
        number = self._number(name, version)
        with self._lock:
            return self._stats(self._tallies.get(name, {}).get(number))

    def get_all_stats(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Model -> version (by its name, or number) -> its stats; of what was counted."""
        with self._lock:
            counted = {
                name: {number: self._stats(tally) for number, tally in tallies.items()}
                for name, tallies in self._tallies.items()
            }
        return {
            name: {self._called(name, number): stats for number, stats in sorted(versions.items())}
            for name, versions in counted.items()
        }

    def reset_stats(self, name: str | None = None, version: str | int | None = None) -> None:
        """Of everything, of a model, or of one version. Raises InvalidInput, ModelNotFound, VersionNotFound."""
        if name is None and version is not None:
            raise InvalidInput("name: expected the model that the version is of", field="name")
        number = None if name is None or version is None else self._number(name, version)
        with self._lock:
            if name is None:
                self._tallies.clear()
            elif number is None:
                self._tallies.pop(name, None)
            else:
                self._tallies.get(name, {}).pop(number, None)

    def should_rollback(
        self, name: str, version: str | int, error_rate_threshold: float = 5.0, min_requests: int = 100
    ) -> bool:
        """Whether more than `error_rate_threshold` percent of at least `min_requests` requests failed. A threshold, not a test: looked at
        after every request it is passed by chance; a rollout (`everloop.registry`) decides by a test that is not."""
        stats = self.get_version_stats(name, version)
        return bool(stats["request_count"] >= min_requests and stats["error_rate_pct"] > error_rate_threshold)

    # -- on any thread but an event loop's -----------------------------------------------------------------------------

    def _split(self, name: str, weights: Mapping[str | int, float], shadow: str | int | None) -> None:
        self._registry.set_traffic(name, weights, shadow, by="python")
        self._look(name)

    def _look(self, name: str) -> _View:
        """What the registry says now. Raises ModelNotFound, ModelUntrained."""
        view, revision, now = self._views.get(name), self._registry.revision(), self._clock.monotonic()
        if view is None or view.revision != revision:
            record, versions = self._models.state(name)
            if record.live_version is None:
                raise ModelUntrained(f"no version of model {name!r} is in production yet")
            allocation: Allocation | None = record.allocation
            infos = {info.number: info for info in versions}
            view = _View(
                revision,
                infos,
                record.live_version if allocation is None else allocation.owners(),
                name if allocation is None else allocation.salt,
                {
                    key: i.number
                    for i in infos.values()
                    for key in (str(i.number), i.id, i.version, f"{name}@{i.version}")
                },
            )
        with self._lock:
            self._views[name], self._looked_at[name] = view, now
        return view

    def _number(self, name: str, version: str | int) -> int:
        view = self._views.get(name)
        found = None if view is None or isinstance(version, bool) else view.numbers.get(str(version))
        return self._registry.resolve(name, version) if found is None else found

    def _called(self, name: str, number: int) -> str:
        view = self._views.get(name)
        return view.infos[number].version if view is not None and number in view.infos else str(number)

    def _stats(self, tally: _Tally | None) -> dict[str, Any]:
        now = self._clock.monotonic()
        tally = tally or _Tally(now)
        requests = tally.requests
        return {
            "request_count": requests,
            "avg_latency_ms": tally.latency_ms / requests if requests else 0.0,
            "error_rate_pct": 100 * tally.errors / requests if requests else 0.0,
            "error_count": tally.errors,
            "last_error": tally.last_error,
            "uptime_seconds": now - tally.since,
        }
