"""Spans: of whom they are, what they say, that they leave the process, and that nobody pays for those that are not made."""

from __future__ import annotations

import gzip
import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from everloop.api.observing import Observed, Observer, Observing
from everloop.api.services import Services
from everloop.api.tracing import TRACEPARENT, Tracing
from everloop.app.build import build_engine
from everloop.app.cli.calls import connect
from everloop.app.server import serving
from everloop.app.settings import EngineSettings, ServerSettings
from everloop.learning.config import LearningConfig

THEIRS = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture
def exported() -> Iterator[tuple[InMemorySpanExporter, Any]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter, provider.get_tracer("test")
    provider.shutdown()


def train(client: Any, name: str = "m") -> None:
    examples = [{"features": [float(x)], "label": 2.0 * x} for x in range(40)]
    for path, body in (
        ("", {"name": name, "kind": "linear"}),
        (f"/{name}/feedback", {"examples": examples}),
        (f"/{name}/train", {}),
    ):
        assert client.post(f"/v1/models{path}", json=body).status_code < 300


def test_a_traced_request_is_a_span_with_its_queue_and_run(client: Any, services: Services, exported: Any) -> None:
    exporter, tracer = exported
    train(client)
    services.observer = Observer(Observing(), Tracing(tracer, 0.0))
    answer = client.post(
        "/v1/models/m/predict",
        json={"features": [1.0]},
        headers={"traceparent": f"00-{THEIRS}-{PARENT}-01", "x-request-id": "r1"},
    )
    exemplars = scrape_exemplars(client)
    services.observer = None
    queue, run, whole = exporter.get_finished_spans()
    assert [span.name for span in (queue, run, whole)] == ["queue", "run", "POST /v1/models/{model}/predict"]
    assert f"{whole.context.trace_id:032x}" == THEIRS
    assert f"{whole.parent.span_id:016x}" == PARENT
    assert whole.kind is SpanKind.SERVER
    assert {span.parent.span_id for span in (queue, run)} == {whole.context.span_id}
    assert answer.headers["traceresponse"] == f"00-{THEIRS}-{whole.context.span_id:016x}-01"
    assert dict(whole.attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/models/{model}/predict",
        "url.path": "/v1/models/m/predict",
        "client.address": "testclient",
        "everloop.request_id": "r1",
        "everloop.model": "m",
        "everloop.rows": 1,
        "feature_flag.key": "m",
        "feature_flag.result.variant": "1",
    }
    assert whole.start_time <= queue.start_time <= queue.end_time <= run.start_time + 1000 <= run.end_time + 1000
    assert run.end_time <= whole.end_time + 1000
    assert exemplars == [THEIRS]


def scrape_exemplars(client: Any) -> list[str]:
    text = client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"}).text
    return [
        sample.exemplar.labels["trace_id"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar
    ]


def test_errors_have_their_code_and_those_of_the_server_their_status(
    client: Any, services: Services, exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, tracer = exported
    train(client)
    services.observer = Observer(Observing(), Tracing(tracer, 1.0))
    client.post("/v1/models/m/predict", json={"features": ["x"]})
    monkeypatch.setattr(services.registry, "list", lambda: 1 / 0)
    client.get("/v1/models")
    services.observer = None
    wrong, broken = exporter.get_finished_spans()
    assert (wrong.attributes["error.type"], wrong.status.status_code) == ("invalid_input", StatusCode.UNSET)
    assert (broken.attributes["error.type"], broken.status.status_code) == ("internal", StatusCode.ERROR)


@pytest.mark.parametrize(
    ("traceparent", "share", "traced"),
    [
        (f"00-{THEIRS}-{PARENT}-01", 0.0, True),
        (f"00-{THEIRS}-{PARENT}-00", 1.0, False),
        ("", 1.0, True),
        ("", 0.0, False),
        (f"00-{'0' * 32}-{PARENT}-01", 0.0, False),
        (f"ff-{THEIRS}-{PARENT}-01", 0.0, False),
        (f"01-{THEIRS}-{PARENT}-01-more", 0.0, True),
        ("nonsense", 1.0, True),
    ],
)
def test_who_is_traced(exported: Any, traceparent: str, share: float, traced: bool) -> None:
    seen = Observed("GET", "/", "/", "", "")
    trace = Tracing(exported[1], share).begin(seen, traceparent)
    assert (trace is not None) is traced
    if trace is not None:
        assert (trace.id == THEIRS) is (TRACEPARENT.fullmatch(traceparent) is not None)


@given(st.text(max_size=80))
def test_no_traceparent_breaks_anything(text: str) -> None:
    found = TRACEPARENT.fullmatch(text)
    assert found is None or int(found[1], 16) < 256


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes OTLP over HTTP, as a collector does."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, body))  # type: ignore[attr-defined]
        self.server.parents.append(self.headers.get("traceparent"))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def collector() -> Iterator[Any]:
    made = http.server.HTTPServer(("127.0.0.1", 0), Collector)
    made.received, made.parents = [], []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def spans_of(body: bytes) -> list[Any]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    sent = ExportTraceServiceRequest.FromString(body)
    return [span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans]


def test_a_server_sends_its_spans_to_a_collector_before_it_ends(collector: Any) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    engine = build_engine(EngineSettings(learning=LearningConfig(min_samples=20, interval_sec=3600)))
    observe = Observing(trace_endpoint=endpoint, trace_share=0.0)
    with serving(engine, ServerSettings(port=0, notice=0.0, observe=observe)) as address:
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=30)
        examples = [{"features": [float(x)], "label": 2.0 * x} for x in range(40)]
        answers = []
        for path, body in (
            ("", {"name": "m", "kind": "linear"}),
            ("/m/feedback", {"examples": examples}),
            ("/m/train", {}),
            ("/m/predict", {"features": [1.0]}),
            ("/m/predict?way=app", {"features": [1.0]}),
        ):
            headers = {"content-type": "application/json"}
            if "predict" in path:
                headers["traceparent"] = f"00-{THEIRS}-{PARENT}-01"
            connection.request("POST", f"/v1/models{path}", json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            answers.append(answer.headers.get("traceresponse"))
        connection.close()
    assert answers[:3] == [None] * 3
    spans = [span for path, body in collector.received for span in spans_of(body) if path == "/v1/traces"]
    assert sorted(span.name for span in spans) == [
        *["POST /v1/models/{model}/predict"] * 2,
        *["queue"] * 2,
        *["run"] * 2,
    ]
    assert {span.trace_id.hex() for span in spans} == {THEIRS}
    whole = [span.span_id.hex() for span in spans if span.name.startswith("POST")]
    assert sorted(answer.split("-")[2] for answer in answers[3:] if answer) == sorted(whole)


def test_a_command_goes_on_in_the_trace_that_it_is_started_in(collector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{collector.server_port}"
    for said in (f"00-{THEIRS}-{PARENT}-01", "nonsense\r\nx: y", ""):
        monkeypatch.setenv("TRACEPARENT", said)
        with connect(url) as client:
            client.call("POST", "/v1/anything", {})
    assert collector.parents == [f"00-{THEIRS}-{PARENT}-01", None, None]


def test_a_collector_that_is_gone_costs_no_answer() -> None:
    engine = build_engine(EngineSettings(learning=LearningConfig(min_samples=20, interval_sec=3600)))
    observe = Observing(trace_endpoint="http://127.0.0.1:9/v1/traces", trace_share=1.0)
    with serving(engine, ServerSettings(port=0, notice=0.0, observe=observe)) as address:
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=30)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read()
        connection.close()


def test_attributes_are_few(exported: Any) -> None:
    exporter, tracer = exported
    observer = Observer(Observing(), Tracing(tracer, 1.0))
    observer.end(observer.begin("GET", "/x" * 1000), 404)
    (span,) = exporter.get_finished_spans()
    assert isinstance(span, ReadableSpan)
    assert len(span.name) < 210
