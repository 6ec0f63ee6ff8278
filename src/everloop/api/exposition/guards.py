"""What stands before the models: refusals, keys and their quotas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from everloop.api.exposition.families import Labels, counter, gauge
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
    yield counter(
        "grpc_requests", "Calls over gRPC, and requests of its streams, by what became of them.", _grpc(services)
    )
    observer = services.observer
    slow = 0 if observer is None else observer.seen_slow
    yield counter("slow_requests", "Requests that took longer than `observe.slow_ms`.", [({}, slow)])


def _grpc(services: Services) -> list[tuple[Labels, float]]:
    """Of the methods that were called, and the outcomes that there were."""
    calls = [*services.traffic.calls.items()]
    failed = services.traffic.refused()
    found: list[tuple[Labels, float]] = []
    for method, number in sorted(calls):
        codes = {code: failures for (operation, code), failures in failed.items() if operation == f"grpc_{method}"}
        found.append(({"method": method, "outcome": "ok"}, max(0, number - sum(codes.values()))))
        found += [({"method": method, "outcome": code}, failures) for code, failures in sorted(codes.items())]
    return found


def room(services: Services) -> Iterator[Metric]:
    """What waits, of all models together."""
    hall = services.reconciler.hall
    yield gauge("waiting_bytes", "Decoded input that waits for its runs, about.", [({}, hall.used)])
    yield gauge("waiting_limit_bytes", "The most that it may be.", [({}, hall.most)])


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
