"""W3C trace context in and out, and one OpenTelemetry span a request that is traced, with its time in the queue and in the model as children.

Only the API of OpenTelemetry is used here; where spans go is the app's business (`app.tracing`). Whether a request is traced is decided
before anything is made of it: by the flag of its `traceparent`, or by lot where it has none. Attributes are those of the semantic
conventions for HTTP servers, and for the version that was chosen those for feature flags; a model's own are `everloop.…`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import random
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer
    from prometheus_client.samples import Exemplar

    from everloop.api.observing import Observed

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?")
"""Source: W3C Trace Context, 3.2."""
MOST_EXEMPLARS = 10_000
NS = 1_000_000_000


class Trace(NamedTuple):
    span: Span
    id: str
    """32 hexadecimal digits."""
    at: float
    """When its request came, in seconds since the epoch."""
    header: str
    """`traceresponse` of the answer: which span of ours the request became. Source: W3C Trace Context, Level 3."""


class Tracing:
    """Of one server. Safe from any thread: assignments only."""

    def __init__(self, tracer: Tracer, share: float) -> None:
        self._tracer = tracer
        self._share = share
        self._exemplars: dict[tuple[str, int, int], Exemplar] = {}

    def begin(self, seen: Observed, traceparent: str) -> Trace | None:
        """None: it is not traced."""
        parsed = TRACEPARENT.fullmatch(traceparent) if traceparent else None
        if parsed is not None:
            if not int(parsed[1], 16) & 1:
                return None
        elif random() >= self._share:  # noqa: S311  not a secret
            return None
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent}) if parsed is not None else None
        at = seen.at
        span = self._tracer.start_span(seen.method, parent, SpanKind.SERVER, start_time=int(at * NS))
        context = span.get_span_context()
        ours = f"{context.trace_id:032x}"
        return Trace(span, ours, at, f"00-{ours}-{context.span_id:016x}-{int(context.trace_flags):02x}")

    def end(self, seen: Observed) -> None:
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        trace = seen.trace
        assert trace is not None
        span, at = trace.span, trace.at
        span.update_name(f"{seen.method} {seen.route or seen.path}")
        span.set_attributes(_attributes(seen))
        if seen.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        if seen.ran:
            inside = set_span_in_context(span)
            for name, start, seconds in (("queue", seen.began, seen.queue or 0.0), ("run", seen.ran, seen.run)):
                began = at + start - seen.began
                child = self._tracer.start_span(name, inside, start_time=int(began * NS))
                child.end(int((began + seconds) * NS))
            self._remember(seen, trace.id)
        span.end(int((at + seen.total) * NS))

    def exemplars(self, model: str, version: str) -> dict[int, Exemplar]:
        """Of one version: the newest traced request of each bucket of `serving.counters.LATENCY_BOUNDS`."""
        return {
            bucket: found
            for (name, number, bucket), found in [*self._exemplars.items()]
            if (name, str(number)) == (model, version)
        }

    def _remember(self, seen: Observed, trace: str) -> None:
        from bisect import bisect_left

        from prometheus_client.samples import Exemplar

        from everloop.serving.counters import LATENCY_BOUNDS

        if len(self._exemplars) >= MOST_EXEMPLARS:  # of versions that are gone, most of them
            self._exemplars = {}
        bucket = bisect_left(LATENCY_BOUNDS, seen.total)
        self._exemplars[seen.model, seen.version, bucket] = Exemplar({"trace_id": trace}, seen.total, time())


def _attributes(seen: Observed) -> Mapping[str, Any]:
    found: dict[str, Any] = {
        "http.request.method": seen.method,
        "http.response.status_code": seen.status,
        "url.path": seen.path,
        "everloop.request_id": seen.id,
    }
    if seen.route:
        found["http.route"] = seen.route
    if seen.client:
        found["client.address"] = seen.client.rpartition(":")[0]
    if seen.code:
        found["error.type"] = seen.code
    if seen.model:
        found["everloop.model"] = seen.model
        found["feature_flag.key"] = seen.model
        found["feature_flag.result.variant"] = str(seen.version)
        found["everloop.rows"] = seen.rows
    return found
