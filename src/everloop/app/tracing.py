"""Where spans go: OpenTelemetry's SDK with its exporter (OTLP over HTTP), from the extra `otel`.

Spans are sent by a thread of the SDK, in batches, out of a bounded queue; a collector that is slow or gone costs spans, not answers.
What the SDK itself reads from the environment holds: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, and for the exporter
`OTEL_EXPORTER_OTLP_HEADERS`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from everloop import __version__
from everloop.api.observing import observer_of
from everloop.api.tracing import Tracing
from everloop.core.errors import MissingExtra

if TYPE_CHECKING:
    from everloop.api.observing import Observing
    from everloop.api.services import Services


@contextlib.contextmanager
def observing(services: Services, config: Observing) -> Iterator[None]:
    """While it lasts, single requests are looked at as `config` says. Raises MissingExtra."""
    with tracing(config) as spans:
        services.observer = observer_of(config, spans)
        try:
            yield
        finally:
            services.observer = None


@contextlib.contextmanager
def tracing(config: Observing) -> Iterator[Tracing | None]:
    """None where no endpoint is set. At the end what is left is sent, for a few seconds at most. Raises MissingExtra."""
    if config.trace_endpoint is None:
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    except ImportError as error:
        raise MissingExtra.of("otel", "trace_endpoint") from error
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "everloop"}
    provider = TracerProvider(
        sampler=ALWAYS_ON,  # `Tracing` asks for no span of a request that is not traced
        resource=Resource.create({**named, "service.version": __version__}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(config.trace_endpoint, timeout=5)))
    try:
        yield Tracing(provider.get_tracer("everloop", __version__), config.trace_share)
    finally:
        provider.shutdown()
