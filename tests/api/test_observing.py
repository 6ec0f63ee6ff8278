"""Single requests: lines, samples and ids are the same whichever way a request is answered, and nobody writes into them what they like."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from everloop.api.http.app import create_app
from everloop.api.observing import MOST_ERRORS, ErrorLog, Observer, Observing, checked_id, observer_of
from everloop.api.services import Services
from everloop.app.build import build_engine
from everloop.app.server import Address, serving
from everloop.app.settings import EngineSettings, ServerSettings
from everloop.core.errors import InvalidInput, ModelFailed, ModelNotFound
from everloop.learning.config import LearningConfig

ASK = json.dumps({"features": [1.0]}).encode()
LONG = json.dumps({"instances": [[1.0]] * 60_000, "unit": None}).encode()
"""Too large for the fast lane."""


@contextmanager
def server(
    *, grpc_port: int | None = None, **observed: Any
) -> Iterator[tuple[Services, http.client.HTTPConnection, Address]]:
    """A real one, with a model `m` that answers."""
    engine = build_engine(EngineSettings(learning=LearningConfig(min_samples=20, interval_sec=3600)))
    settings = ServerSettings(port=0, notice=0.0, grpc_port=grpc_port, observe=Observing(**observed))
    with serving(engine, settings) as address:
        connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=30)
        try:
            call(connection, "/v1/models", b'{"name": "m", "kind": "linear"}')
            examples = [{"features": [float(x)], "label": 2.0 * x} for x in range(40)]
            call(connection, "/v1/models/m/feedback", json.dumps({"examples": examples}).encode())
            call(connection, "/v1/models/m/train", b"{}")
            yield engine.services, connection, address
        finally:
            connection.close()


def call(
    connection: http.client.HTTPConnection, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", path, body, {"content-type": "application/json", **named})
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(text) if text else None


def facts(caplog: pytest.LogCaptureFixture, logger: str) -> list[dict[str, Any]]:
    return [record.facts for record in caplog.records if record.name == logger]  # type: ignore[attr-defined]


def test_where_nobody_looks_there_is_no_observer() -> None:
    assert observer_of(Observing()) is None
    assert observer_of(Observing(access_log=0.5)) is not None
    assert observer_of(Observing(slow_ms=0)) is not None


@pytest.mark.parametrize(
    "wrong",
    [{"access_log": 2}, {"access_log": float("nan")}, {"slow_ms": -1}, {"slow_kept": 0}, {"trace_endpoint": "x"}],
)
def test_a_wrong_option_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as raised:
        Observing(**wrong)
    assert raised.value.field == next(iter(wrong))


def test_both_ways_tell_the_same_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "everloop.access")
    with server(access_log=1.0, slow_ms=0) as (services, connection, _):
        caplog.clear()
        _, fast_headers, fast = call(connection, "/v1/models/m/predict", ASK, x_request_id="mine-1")
        _, slow_headers, slow = call(connection, "/v1/models/m/predict?way=app", ASK, x_request_id="mine-2")
        assert (fast_headers["x-request-id"], slow_headers["x-request-id"]) == ("mine-1", "mine-2")
        call(connection, "/v1/models/m/predict", ASK)
        call(connection, "/v1/models/m/predict", b'{"features": ["x"]}')
        call(connection, "/v1/models/none/predict", ASK)
        _, _, kept = call(connection, "/v1/slow")
    lines = [line for line in facts(caplog, "everloop.access") if line["path"].endswith("/predict")]
    assert [line["status"] for line in lines] == [200, 200, 200, 422, 404]
    by_fast, by_app = lines[:2]
    assert by_fast.keys() == by_app.keys()
    for line, answer, sent in ((by_fast, fast, "mine-1"), (by_app, slow, "mine-2")):
        assert line["request_id"] == sent
        assert line["prediction_id"] == answer["request_id"]
        assert (line["model"], line["version"], line["rows"]) == ("m", answer["model_version"], 1)
        assert line["seconds"] >= line["queue_seconds"] + line["run_seconds"] - 1e-5
        assert line["run_seconds"] > 0
        assert line["client"].startswith("127.0.0.1:")
    assert lines[2]["request_id"] == lines[2]["prediction_id"]
    assert [line.get("code") for line in lines[3:5]] == ["invalid_input", "model_not_found"]

    samples = [each for each in kept["requests"] if each["path"].endswith("/predict")]
    assert kept["slow_ms"] == 0
    assert kept["seen"] == len(kept["requests"]) > len(samples) == 5
    newest_first = [each["status"] for each in samples]
    assert newest_first == [404, 422, 200, 200, 200]
    for each in samples[2:]:
        parts = each["queue_seconds"] + each["run_seconds"] + each["rest_seconds"]
        assert parts == pytest.approx(each["total_seconds"], abs=1e-6)
    assert samples[0]["queue_seconds"] is None
    assert samples[-1]["request_id"] == "mine-1"
    assert services.observer is None, "the server has ended"


def test_a_large_body_and_many_rows_are_seen_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "everloop.access")
    rows = json.dumps({"instances": [[1.0]] * 9000, "unit": " " * 1}).encode() + b" " * (300 << 10)
    with server(access_log=1.0) as (_, connection, _):
        caplog.clear()
        assert call(connection, "/v1/models/m/predict", rows)[0] in (200, 422)
        assert call(connection, "/v1/models/m/predict", b'{"instances": [[1], [2]]}')[0] == 200
    assert [line.get("rows") for line in facts(caplog, "everloop.access")][-1] == 2


def test_without_an_observer_ids_go_back_and_nothing_is_kept() -> None:
    with server() as (services, connection, _):
        assert services.observer is None
        for path in ("/v1/models/m/predict", "/v1/models/m/predict?way=app"):
            status, headers, _ = call(connection, path, ASK, x_request_id="abc")
            assert (status, headers["x-request-id"]) == (200, "abc")
            _, headers, _ = call(connection, path, ASK, x_request_id="a b")
            assert "x-request-id" not in headers
            _, headers, _ = call(connection, path, ASK)
            assert "x-request-id" not in headers
        assert call(connection, "/v1/slow")[2] == {"slow_ms": None, "seen": 0, "requests": []}


def test_an_error_of_the_server_is_found_in_the_log_by_the_id_of_its_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server() as (services, connection, _):

        def fails(*_: Any) -> Any:
            raise ModelFailed("it broke")

        monkeypatch.setattr(type(services.table.current.lanes["m"].runner), "run", fails)
        ids = []
        for path in ("/v1/models/m/predict", "/v1/models/m/predict?way=app"):
            status, headers, _ = call(connection, path, ASK)
            assert status == 500
            ids.append(headers["x-request-id"])
            _, headers, _ = call(connection, path, ASK, x_request_id="mine")
            ids.append(headers["x-request-id"])
    lines = facts(caplog, "everloop.errors")
    assert [line["request_id"] for line in lines] == ids
    assert len(set(ids)) == 3
    assert {(line["operation"], line["model"], line["code"]) for line in lines} == {("predict", "m", "model_failed")}


def test_a_flood_of_errors_is_counted_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    now = [5.0]
    log = ErrorLog(clock=lambda: now[0])
    for _ in range(MOST_ERRORS + 7):
        assert log.heard("predict", ModelFailed("x"), request_id="")
    now[0] = 6.0
    assert log.heard("predict", ModelFailed("y"), request_id="theirs") == ""
    told = facts(caplog, "everloop.errors")
    assert len(told) == MOST_ERRORS + 1
    assert told[-1]["untold"] == 7
    assert log.heard("predict", ModelNotFound("z"), request_id="") == ""
    assert len(facts(caplog, "everloop.errors")) == len(told)


def test_samples_are_bounded_and_the_newest_are_kept() -> None:
    observer = Observer(Observing(slow_ms=0, slow_kept=3))
    for i in range(10):
        observer.end(observer.begin("GET", f"/{i}" + "x" * 1000), 200)
    found = observer.slow()
    assert found.seen == 10
    assert [each.path[:2] for each in found.requests] == ["/9", "/8", "/7"]
    assert max(len(each.path) for each in found.requests) == 200


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("a", "a"),
        ("0af7651916cd43dd", "0af7651916cd43dd"),
        ("x" * 129, ""),
        ("a b", ""),
        ("ü", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_only_a_short_printable_id_is_taken(sent: str | None, taken: str) -> None:
    assert checked_id(sent) == taken


def test_a_client_that_went_away_has_a_line(caplog: pytest.LogCaptureFixture, services: Services) -> None:
    """The app, whose client closes before the answer."""
    caplog.set_level(logging.INFO, "everloop.access")
    services.observer = Observer(Observing(access_log=1.0))
    app = create_app(services)

    async def main() -> None:
        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise OSError("gone")

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v2/health/live",
            "raw_path": b"/v2/health/live",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "client": ("10.0.0.1", 5),
            "server": ("localhost", 1),
            "scheme": "http",
            "http_version": "1.1",
        }
        with pytest.raises(OSError, match="gone"):
            await app(scope, receive, send)

    import asyncio

    asyncio.run(main())
    services.observer = None
    (line,) = facts(caplog, "everloop.access")
    assert line["path"] == "/v2/health/live"


def test_text_lines_cannot_be_forged() -> None:
    from everloop.app.logs import TextLines, json_lines

    record = logging.LogRecord("n", logging.ERROR, "f", 1, "%s", ("a\nERROR b\x1b[31m\u2028",), None)
    record.facts = {"request_id": "r", "message": "not this"}
    assert TextLines("%(levelname)s %(message)s").format(record) == "ERROR a\\nERROR b\\x1b[31m\\u2028"
    told = json.loads(json_lines().format(record))
    assert (told["request_id"], told["level"], told["logger"]) == ("r", "error", "n")
    assert told["message"].startswith("a\nERROR")


def test_calls_over_grpc_are_seen_as_well(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    caplog.set_level(logging.INFO, "everloop.access")
    with server(access_log=1.0, slow_ms=0, grpc_port=0) as (services, connection, address):
        client = triton.InferenceServerClient(address.grpc)
        asked = triton.InferInput("features", [1, 1], "FP64")
        asked.set_data_from_numpy(np.array([[1.0]]))
        client.infer("m", [asked], headers={"x-request-id": "mine"})
        with pytest.raises(InferenceServerException):
            client.infer("none", [asked])

        def fails(*_: Any) -> Any:
            raise ModelFailed("it broke")

        work = services.table.current.lanes["m"].tensor_work
        monkeypatch.setattr(type(work), "run", fails)
        with pytest.raises(InferenceServerException):
            client.infer("m", [asked], headers={"x-request-id": "failing"})
        assert client.is_server_live()
        client.close()
        connection.request("GET", "/metrics", headers={"accept": "text/plain"})
        text = connection.getresponse().read().decode()
    infer = "/inference.GRPCInferenceService/ModelInfer"
    lines = [line for line in facts(caplog, "everloop.access") if line["path"] == infer]
    assert [line["status"] for line in lines] == [200, 404, 500]
    assert (lines[0]["request_id"], lines[0]["model"], lines[0]["rows"]) == ("mine", "m", 1)
    assert lines[0]["run_seconds"] > 0
    assert [line.get("code") for line in lines] == [None, "model_not_found", "model_failed"]
    (error,) = facts(caplog, "everloop.errors")
    assert (error["request_id"], error["code"]) == ("failing", "model_failed")
    assert 'everloop_grpc_requests_total{method="ModelInfer",outcome="ok"} 1.0' in text
    assert 'everloop_grpc_requests_total{method="ModelInfer",outcome="model_failed"} 1.0' in text
