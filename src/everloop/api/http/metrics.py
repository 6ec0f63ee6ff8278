"""`/metrics`: Prometheus or OpenMetrics text where `Accept` asks for it, the summary in JSON otherwise.

What is in the text, `api.exposition` says.
"""

from __future__ import annotations

import msgspec

from everloop.api import wire
from everloop.api.services import Services
from everloop.api.traffic import quantile
from everloop.serving.counters import Counters

_TEXT = ("application/openmetrics-text", "text/plain")


def render(services: Services, accept: str) -> tuple[bytes, str]:
    """The body and its content type."""
    if not wants_text(accept):
        return msgspec.json.encode(summary(services)), "application/json"
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    from everloop.api.exposition import Collector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(services))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


def wants_text(accept: str) -> bool:
    """Whether Prometheus' formats are asked for by name, and JSON is not preferred. `*/*` alone is a person with curl."""
    text = json = 0.0
    for part in accept.lower().split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if media in _TEXT:
            text = max(text, weight)
        elif media == "application/json":
            json = max(json, weight)
    return text > json


def summary(services: Services) -> wire.MetricsSummary:
    models = services.traffic.models()
    total = Counters()
    for counts in models.values():
        total.add(counts)
    good = max(0, total.requests - total.failed)
    refused = services.traffic.refused().items()
    errors = sum(number for (operation, _), number in refused if operation.startswith("predict"))
    asked = good + errors
    return wire.MetricsSummary(
        requests=wire.RequestCounts(
            total=asked, success=good, error=errors, success_rate=f"{100 * good / asked if asked else 100:.2f}%"
        ),
        performance=wire.Latencies(
            avg=_milliseconds(_mean(total)),
            p95=_milliseconds(quantile(total, 0.95)),
            p99=_milliseconds(quantile(total, 0.99)),
        ),
        models={name: wire.ModelCalls(c.requests, _milliseconds(_mean(c))) for name, c in sorted(models.items())},
    )


def _mean(counts: Counters) -> float | None:
    return counts.latency_seconds / counts.requests if counts.requests else None


def _milliseconds(seconds: float | None) -> str:
    return f"{(seconds or 0.0) * 1000:.3g}ms"
