"""What the cache answered instead of the models, and what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from everloop.api.exposition.families import counter, gauge
from everloop.api.services import Services

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_RESULTS = {"hits": "hit", "shared": "shared", "joined": "joined", "misses": "miss"}


def cache(services: Services) -> Iterator[Metric]:
    kept = services.cache
    models = set(services.table.current.lanes)
    yield counter(
        "cache_requests",
        "Requests to models with a cache: answered from this process's memory (hit), from what processes share (shared), "
        "with the answer another request was waiting for (joined), by the model (miss).",
        [
            ({"model": model, "result": result}, counts[name])
            for model, counts in kept.counts().items()
            if model in models
            for name, result in _RESULTS.items()
        ],
    )
    yield gauge("cache_bytes", "Memory that cached answers take.", [({}, kept.entries.size)])
    yield gauge("cache_entries", "Cached answers in memory.", [({}, len(kept.entries))])
    yield counter(
        "cache_dropped",
        "Cached answers that went: for want of room (evicted), or of age (expired).",
        [({"reason": "evicted"}, kept.entries.evicted), ({"reason": "expired"}, kept.entries.expired)],
    )
    second = kept.second
    yield gauge(
        "cache_shared_up",
        "Whether the cache that processes share can be used.",
        [] if second is None else [({}, int(not kept.trouble))],
    )
    yield counter(
        "cache_shared_skipped",
        "Lookups and answers that were left out of what processes share, because it was in trouble or too much waited.",
        [] if second is None else [({}, second.skipped)],
    )
