"""The process, its parts, and what it refused."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from everloop import __version__
from everloop.api import health
from everloop.api.exposition.families import counter, gauge
from everloop.api.services import Services
from everloop.api.status import STATUSES

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def process(services: Services) -> Iterator[Metric]:
    yield gauge(
        "build_info",
        "Always 1; the labels tell what runs.",
        [({"version": __version__, "python": platform.python_version()}, 1)],
    )
    yield gauge("uptime_seconds", "Since the server started.", [({}, services.clock.now() - services.started_at)])
    yield gauge("resident_memory_bytes", "Resident memory of this process.", [({}, health.resident_bytes())])
    yield counter("cpu_seconds", "Processor time of this process.", [({}, time.process_time())])
    yield gauge("draining", "1 while the server drains.", [({}, int(services.draining))])
    yield gauge(
        "component_up",
        "0 for a part that has failed.",
        [({"component": name}, int(part.status != "failed")) for name, part in health.components(services).items()],
    )


def refused(services: Services) -> Iterator[Metric]:
    codes: Counter[str] = Counter()
    for (_, code), number in services.traffic.refused().items():
        codes[code] += number
    yield counter(
        "refusals",
        "Requests of any kind that were refused or failed, by the code they were told.",
        [({"outcome": code}, codes[code]) for code in STATUSES],
    )
