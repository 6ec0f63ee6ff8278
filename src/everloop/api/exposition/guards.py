"""What stands before the models: refusals, keys and their quotas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from everloop.api.exposition.families import counter, gauge
from everloop.api.services import Services
from everloop.api.status import STATUSES

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def refused(services: Services) -> Iterator[Metric]:
    codes: Counter[str] = Counter()
    for (_, code), number in services.traffic.refused().items():
        codes[code] += number
    yield counter(
        "refusals",
        "Requests of any kind that were refused or failed, by the code they were told.",
        [({"outcome": code}, codes[code]) for code in STATUSES],
    )
    observer = services.observer
    slow = 0 if observer is None else observer.seen_slow
    yield counter("slow_requests", "Requests that took longer than `observe.slow_ms`.", [({}, slow)])


def door(services: Services) -> Iterator[Metric]:
    """Of keys by their ids, which are no secret; those of the store that can be used."""
    yield gauge("door_closed", "1 if callers need a key.", [({}, int(services.door.closed))])
    bounded = [caller for caller in services.door.active() if caller.bucket is not None]
    yield counter(
        "quota_refusals",
        "Requests that came too early for their key.",
        [({"key": caller.id, "name": caller.name}, caller.limited) for caller in bounded],
    )
    yield gauge(
        "quota_left",
        "Requests that a key might make at once when it was last used.",
        [({"key": caller.id, "name": caller.name}, caller.bucket.left) for caller in bounded if caller.bucket],
    )
