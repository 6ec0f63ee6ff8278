"""The process and its parts."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from everloop import __version__
from everloop.api import health
from everloop.api.exposition.families import counter, gauge
from everloop.api.services import Services

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
    parts = health.components(services)
    yield gauge(
        "component_up",
        "0 for a part that has failed.",
        [({"component": name}, int(part.status != "failed")) for name, part in parts.items()],
    )
    yield gauge(
        "component_degraded",
        "1 for a part that works, and not as it should.",
        [({"component": name}, int(part.status == "degraded")) for name, part in parts.items()],
    )
