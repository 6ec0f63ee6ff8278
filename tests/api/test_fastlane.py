"""The fast lane over real sockets: the same answers as the app, and a connection that stays sane whatever a client does."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import http.client
import inspect
import json
import re
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from everloop.api.http import fastlane, heads
from everloop.api.http.app import create_app
from everloop.api.http.fastlane import make_protocol
from everloop.core.errors import Overloaded
from everloop.core.schema import Field, Schema, Target
from everloop.policy.batching import BatchRules
from everloop.policy.routing import allocate
from everloop.serving.lane import open_lane
from everloop.serving.split import Split
from everloop.stores.ports import Manifest, ModelRecord, VersionRecord


class Plain:
    """A session that does what `answers` says."""

    classes = None
    dtype = np.float64

    def __init__(self, schema: Schema, answers: Any, dtype: Any = np.float64) -> None:
        self.schema, self.target, self.answers, self.dtype = schema, Target("regression"), answers, dtype

    def run(self, X: Any) -> Any:
        return self.answers(X)

    def scores(self, X: Any) -> None:
        return None

    def close(self) -> None:
        return


class _One:
    def __init__(self, session: Any) -> None:
        self.session = session

    def open_session(self, record: Any) -> Any:
        return self.session


def put_lane(services: Any, name: str, session: Any, *, version: int = 1, rules: BatchRules | None = None) -> Any:
    """A lane straight into the table; the registry knows the model, but has no version of it."""
    if name not in services.registry.names():
        services.registry.register(
            name,
            "artifact",
            task="regression",
            parameters={},
            learning={},
            schema=session.schema,
            target=session.target,
        )
    manifest = Manifest("linear", "regression", session.schema, session.target)
    lane = open_lane(
        VersionRecord(name, version, f"{version:064x}", "live", 0.0, manifest),
        ModelRecord(name, "artifact", 0.0),
        _One(session),  # type: ignore[arg-type]
        services.recorder,
        rules=rules or BatchRules(),
    )
    services.table.current = services.table.current.with_lane(lane)
    return lane


def put_split(services: Any, name: str, champion: Any, challenger: Any) -> Split:
    """Half to each of two versions, each unit always to the same one."""
    lanes = [put_lane(services, name, session, version=n) for n, session in enumerate((champion, challenger), 1)]
    split = Split(lanes[0], lanes[1:], allocate({1: 0.5, 2: 0.5}, salt=name))
    services.table.current = services.table.current.with_split(split)
    return split


class Server(uvicorn.Server):
    """On a thread, on a free port. `ways` counts who answered."""

    def __init__(self, services: Any, *, fast: bool = True, small: bool = False, **options: Any) -> None:
        self.app_requests = 0
        app = create_app(services)

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                self.app_requests += 1
            await app(scope, receive, send)

        self.socket = socket.create_server(("127.0.0.1", 0))
        if small:  # as little as the kernel will buffer, on each accepted connection
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        self.port = self.socket.getsockname()[1]
        self.ready = threading.Event()
        self.ended = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            counted,
            http=make_protocol(services) if fast else HttpToolsProtocol,
            loop="uvloop",
            ws="none",
            log_level="critical",
            log_config=None,
            access_log=False,
            **options,
        )
        super().__init__(config)
        self.thread = threading.Thread(target=self._work, name="test-server")

    def _work(self) -> None:
        try:
            self.run([self.socket])
        finally:
            self.ended.set()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.ready.set()

    def __enter__(self) -> Server:
        self.thread.start()
        assert self.ready.wait(20)
        return self

    def __exit__(self, *_: Any) -> None:
        self.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def connect(self) -> Client:
        return Client(self.port)

    def on_loop(self, function: Any, *args: Any) -> Any:
        """Call on the event loop's thread and wait."""
        done = threading.Event()
        found: list[Any] = []

        def call() -> None:
            found.append(function(*args))
            done.set()

        assert self.loop is not None
        self.loop.call_soon_threadsafe(call)
        assert done.wait(20)
        return found[0]


class Client:
    """Bytes in, parsed answers out."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, method: str = "POST") -> tuple[int, dict[str, str], bytes]:
        status_line = self.file.readline()
        if not status_line:
            raise ConnectionResetError("closed without an answer")
        status = int(status_line.split()[1])
        headers = {k.lower(): v for k, v in http.client.parse_headers(self.file).items()}
        if status == 100:
            return status, headers, b""
        if method == "HEAD" or status == 204:
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.file.readline(), 16):
                body += self.file.read(size)
                self.file.readline()
            self.file.readline()
            return status, headers, body
        return status, headers, self.file.read(int(headers["content-length"]))

    def ask(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, str], bytes]:
        self.send(request(*args, **kwargs))
        return self.answer()

    def closed(self) -> bool:
        return self.file.read(1) == b""

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def request(
    body: Any = b"",
    path: str = "/v1/models/sum/predict",
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    version: str = "1.1",
) -> bytes:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Host": "test", "Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items() if value is not None)
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode() + body


ROW = {"features": [1.0, 2.0]}


def twice_unless_negative(X: Any) -> Any:
    return np.where((X < 0).any(axis=1), np.nan, 2 * X.sum(axis=1))


@pytest.fixture
def serve(services: Any) -> Iterator[Any]:
    """Starts servers over the test's services, with three models: `sum` of two numbers, `person`, by name, and `shared`, two versions
    of `sum` of which the second answers twice as much and cannot do negative numbers."""
    services.reconciler.stop()
    put_lane(services, "sum", Plain(Schema.unnamed(2), lambda X: X.sum(axis=1)))
    person = Schema((Field("age"), Field("city", "text", nullable=True)), named=True)
    put_lane(services, "person", Plain(person, lambda X: np.array([age + len(str(city)) for age, city in X]), object))
    put_split(
        services,
        "shared",
        Plain(Schema.unnamed(2), lambda X: X.sum(axis=1)),
        Plain(Schema.unnamed(2), twice_unless_negative),
    )
    services.registry.register("blank", "linear", task="regression", parameters={}, learning={})
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(Server(services, **options))


def test_the_base_class_is_the_one_this_was_written_against() -> None:
    """The fast lane overrides and calls these. If uvicorn changes them, read them again, then change this digest."""
    names = [
        "__init__",
        "connection_lost",
        "data_received",
        "on_message_begin",
        "on_url",
        "on_header",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "on_response_complete",
        "shutdown",
        "pause_writing",
        "resume_writing",
        "timeout_keep_alive_handler",
        "_start_asgi_task",
    ]
    source = "".join(inspect.getsource(getattr(HttpToolsProtocol, name)) for name in names)
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == "9ac10e4181030cc4", uvicorn.__version__


def test_a_prediction_is_answered_without_the_app(serve: Any) -> None:
    server = serve()
    with server.connect() as client:
        ids = set()
        for i in range(5):
            status, headers, body = client.ask({"features": [float(i), 0.5]})
            answer = json.loads(body)
            assert (status, answer["prediction"], answer["model_version"]) == (200, i + 0.5, 1)
            assert headers["content-type"] == "application/json"
            assert headers["date"]
            ids.add(answer["request_id"])
        assert len(ids) == 5
        status, _, body = client.ask({"instances": [[1.0, 1.0], [2.0, 2.0]]})
        assert (status, json.loads(body)["predictions"]) == (200, [2.0, 4.0])
        status, _, body = client.ask({"features": {"city": "Rome", "age": 40}}, "/v1/models/person/predict")
        assert (status, json.loads(body)["prediction"]) == (200, 44.0)
    assert server.app_requests == 0
    assert server.server_state.total_requests == 7


def test_a_label_is_answered_after_its_commit_without_the_app(serve: Any, services: Any) -> None:
    server = serve()
    with server.connect() as client:
        request_id = json.loads(client.ask(ROW)[2])["request_id"]
        status, _, body = client.ask({"request_id": request_id, "label": 3.5}, "/v1/models/sum/feedback")
        assert (status, body) == (202, b'{"accepted":1,"duplicate":false,"rejected":[]}')
        assert services.journal.examples("sum")[0].row == [1.0, 2.0]
        status, headers, body = client.ask({"request_id": "0000000000-1", "label": 3.5}, "/v1/models/sum/feedback")
        assert (status, json.loads(body)["code"]) == (404, "prediction_not_found")
        assert headers["content-type"] == "application/problem+json"
        both = [{"features": [1, 1], "label": 2}, {"request_id": "0000000000-1", "label": 1}]
        status, _, body = client.ask({"examples": both}, "/v1/models/sum/feedback")
        assert (status, json.loads(body)["accepted"], len(json.loads(body)["rejected"])) == (202, 1, 1)
    assert server.app_requests == 0


def test_many_labels_at_once_are_all_answered(serve: Any, services: Any) -> None:
    server = serve()
    clients = [server.connect() for _ in range(20)]
    for turn in range(5):
        for i, client in enumerate(clients):
            client.send(request({"features": [float(i), float(turn)], "label": 1.0}, "/v1/models/sum/feedback"))
        assert [client.answer()[0] for client in clients] == [202] * 20
    for client in clients:
        client.close()
    assert services.journal.examples_total("sum") == 100
    assert server.app_requests == 0


ORDINARY: dict[str, bytes] = {
    "query": request(ROW, "/v1/models/sum/predict?x=1"),
    "escaped": request(ROW, "/v1/models/s%75m/predict"),
    "other route": request(ROW, "/v1/models/sum/train"),
    "trailing slash": request(ROW, "/v1/models/sum/predict/"),
    "get": request(b"", method="GET", headers={"Content-Type": None, "Content-Length": None}),
    "put": request(ROW, method="PUT"),
    "text": request(ROW, headers={"Content-Type": "text/plain"}),
    "no type": request(ROW, headers={"Content-Type": None}),
    "close": request(ROW, headers={"Connection": "close"}),
    "http 1.0": request(ROW, version="1.0"),
    "foreign page": request(ROW, headers={"Origin": "http://evil.example"}),
    "own page": request(ROW, headers={"Origin": "http://test"}),
    "encoded": request(ROW, headers={"Content-Encoding": "gzip"}),
    "chunked": request(b"", headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
    + b'f\r\n{"features":[1,\r\n3\r\n2]}\r\n0\r\n\r\n',
    "empty": request(b""),
    "no length": request(b"", headers={"Content-Length": None}),
    "unknown model": request(ROW, "/v1/models/som/predict"),
    "no model's name": request(ROW, "/v1/models/-/predict"),
    "untrained": request(ROW, "/v1/models/blank/predict"),
    "first labels": request({"features": [1], "label": 2}, "/v1/models/blank/feedback"),
    "idempotent": request({"features": [1], "label": 2}, "/v1/models/sum/feedback", headers={"Idempotency-Key": "a"}),
    "a version by header": request(ROW, headers={"Everloop-Version": "1"}),
    "too large": request(b" " * 100_001),
    "too many rows": request({"instances": [[1, 2]] * 51}),
    "wide": request({"features": [1.0] * 21}),
}


def normal(answer: tuple[int, dict[str, str], bytes]) -> tuple[Any, ...]:
    """Status, headers that matter, and body, without what differs between any two answers."""
    status, headers, body = answer
    body = re.sub(rb'"request_id":"[0-9a-f]+-[0-9a-f]+"', b'"request_id":""', body)
    body = re.sub(rb'"created_at":[0-9.]+', b'"created_at":0', body)
    kept = {name: headers.get(name) for name in ("content-type", "retry-after", "connection", "allow")}
    return status, kept, body


@pytest.fixture
def both(serve: Any) -> tuple[Server, Server]:
    return serve(), serve(fast=False)


def test_whatever_is_not_plainly_fast_is_answered_as_by_the_app(both: tuple[Server, Server]) -> None:
    fast, ordinary = both
    for name, sent in ORDINARY.items():
        before, found = fast.app_requests, []
        for server in (ordinary, fast):
            with server.connect() as client:
                client.send(sent)
                found.append(normal(client.answer(sent[:4].decode().strip())))
                if found[-1][1]["connection"] == "close":
                    assert client.closed(), name
                else:
                    client.send(request(ROW))
                    assert json.loads(client.answer()[2])["prediction"] == 3.0, f"{name}: the connection goes on"
        assert found[0] == found[1], name
        assert fast.app_requests > before or name == "empty", name


values = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.integers(-5, 5),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.just([1.0]),
)
rows = st.one_of(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2),
    st.lists(values, max_size=3),
    st.dictionaries(st.sampled_from(["age", "city", "citi"]), values, max_size=3),
    values,
)
bodies = st.one_of(
    st.builds(lambda row: {"features": row}, rows),
    st.builds(lambda found: {"instances": found}, st.lists(rows, max_size=3)),
    st.builds(lambda a, b: {"features": a, "instances": b}, rows, st.lists(rows, max_size=1)),
    st.builds(
        lambda label, row, extra: {"label": label, "features": row, **extra},
        values,
        rows,
        st.sampled_from([{}, {"validation": True}, {"index": 1}, {"request_id": "0-1"}, {"typo": 1}]),
    ),
    st.builds(lambda label: {"label": label, "request_id": "0123456789a-5"}, values),
    st.builds(lambda found: {"examples": [{"label": 1, "features": row} for row in found]}, st.lists(rows, max_size=3)),
    st.binary(max_size=8),
    values,
)
units = st.one_of(st.text(max_size=3), st.sampled_from(["x" * 256, "x" * 257, None, 3, ["u"]]))
unit_headers = st.one_of(st.none(), st.sampled_from(["u", "someone", "x" * 256, "x" * 257, "", "caf\u00e9"]))


def with_unit(body: Any, unit: Any) -> Any:
    return {**body, "unit": unit} if isinstance(body, dict) else body


paths = st.builds(
    lambda model, verb: f"/v1/models/{model}/{verb}",
    st.sampled_from(["sum", "person", "blank", "nobody"]),
    st.sampled_from(["predict", "feedback"]),
)


def test_both_ways_give_the_same_answers(both: tuple[Server, Server]) -> None:
    """Status, content type and body, for whatever bodies there may be: on connections that stay open all along."""
    fast, ordinary = both
    with fast.connect() as one, ordinary.connect() as other:

        def answers(sent: bytes) -> None:
            one.send(sent)
            other.send(sent)
            assert normal(one.answer()) == normal(other.answer())

        @settings(max_examples=400, suppress_health_check=list(HealthCheck))
        @given(bodies, paths, st.one_of(st.just("nothing"), units), unit_headers)
        def compare(body: Any, path: str, unit: Any, header: str | None) -> None:
            headers = None if header is None else {"Everloop-Unit": header}
            answers(request(body if unit == "nothing" else with_unit(body, unit), path, headers=headers))

        @settings(max_examples=200, suppress_health_check=list(HealthCheck))
        @given(bodies, units, st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=2))
        def compare_shared(body: Any, unit: Any, header: str) -> None:
            """Without any unit, who answers is drawn."""
            headers = {"Everloop-Unit": header}
            answers(request(with_unit(body, unit), "/v1/models/shared/predict", headers=headers))

        compare()
        compare_shared()
    assert fast.app_requests < ordinary.app_requests


def test_a_unit_meets_one_version_by_body_or_header(serve: Any, services: Any) -> None:
    server, split = serve(), services.table.current.splits["shared"]
    path, met = "/v1/models/shared/predict", set()
    with server.connect() as client:
        for i in range(30):
            unit = f"user-{i}"
            version = split.choose(unit).version
            met.add(version)
            by_body = json.loads(client.ask({**ROW, "unit": unit}, path)[2])
            by_header = json.loads(client.ask(ROW, path, headers={"Everloop-Unit": unit})[2])
            several = json.loads(client.ask({"instances": [[1.0, 2.0]] * 3, "unit": unit}, path)[2])
            assert by_body["model_version"] == by_header["model_version"] == several["model_version"] == version
            assert by_body["prediction"] == 3.0 * version
            assert several["predictions"] == [3.0 * version] * 3
    assert met == {1, 2}
    assert server.app_requests == 0
    (shared,) = server.config.http_protocol_class.servers.values()
    assert not any(b"unit" in head.lower() for head in shared.known.heads), "as many as units: not remembered"


def test_without_a_unit_requests_are_drawn(serve: Any) -> None:
    server = serve()
    with server.connect() as client:
        met = {json.loads(client.ask(ROW, "/v1/models/shared/predict")[2])["model_version"] for _ in range(60)}
    assert met == {1, 2}


def test_what_a_challenger_cannot_do_the_champion_answers(serve: Any, services: Any) -> None:
    server, split = serve(), services.table.current.splits["shared"]
    units = [unit for unit in map(str, range(20)) if split.choose(unit).version == 2]
    path = "/v1/models/shared/predict"
    with server.connect() as client:
        for unit in units:
            status, _, body = client.ask({"features": [-1.0, 2.0], "unit": unit}, path)
            assert (status, json.loads(body)["prediction"], json.loads(body)["model_version"]) == (200, 1.0, 1)
            status, _, body = client.ask({"instances": [[1.0, 2.0], [-1.0, 2.0]], "unit": unit}, path)
            assert (status, json.loads(body)["predictions"], json.loads(body)["model_version"]) == (200, [3.0, 1.0], 1)
            assert json.loads(client.ask({**ROW, "unit": unit}, path)[2])["prediction"] == 6.0
        services.recorder.drain()
        services.journal.flush()
        answer = json.loads(client.ask({"features": [-1.0, 2.0], "unit": units[0]}, path)[2])
        label = {"request_id": answer["request_id"], "label": 1.0}
        assert client.ask(label, "/v1/models/shared/feedback")[0] == 202, "the id is the champion's, and recorded"
    counts = services.traffic.versions()
    assert counts["shared", 2].referred == counts["shared", 2].failed == 2 * len(units) + 1
    assert counts["shared", 1].failed == 0
    assert services.traffic.models()["shared"].requests == 3 * len(units) + 1 + 2 * len(units) + 1


def test_bytes_may_come_in_any_pieces(serve: Any) -> None:
    server = serve()
    whole = request({"features": [1.5, 2.0]})
    with server.connect() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in (1, 5, len(whole) // 2, whole.index(b"\r\n\r\n") + 2, whole.index(b"\r\n\r\n") + 4, len(whole) - 1):
            client.send(whole[:cut])
            server.on_loop(lambda: None)
            client.send(whole[cut:])
            assert json.loads(client.answer()[2])["prediction"] == 3.5
        for byte in whole:
            client.send(bytes([byte]))
        assert json.loads(client.answer()[2])["prediction"] == 3.5
    assert server.app_requests == 0


def test_a_client_that_pipelines_gets_its_answers_in_order(serve: Any) -> None:
    server = serve()
    with server.connect() as client:
        for _ in range(3):
            client.send(b"".join(request({"features": [float(i), 0.0]}) for i in range(20)))
            assert [json.loads(client.answer()[2])["prediction"] for _ in range(20)] == [float(i) for i in range(20)]
        client.send(request(ROW) + request(b"", "/v1/models", method="GET") + request({"features": [1]}) + request(ROW))
        assert [client.answer()[0] for _ in range(4)] == [200, 200, 422, 200]
    assert server.server_state.total_requests == 64


def test_the_same_head_with_another_body_is_parsed_anew(serve: Any) -> None:
    """A known head is only a known head: lengths are checked, and smuggled bytes are not skipped."""
    server = serve()
    one, two = request({"features": [1.0, 2.0]}), request({"features": [1.0, 2.5]})
    assert len(one) == len(two)
    head = one[: one.index(b"\r\n\r\n") + 4]
    with server.connect() as client:
        for sent, expected in ((one, 3.0), (one, 3.0), (two, 3.5), (two + one, 3.5)):
            client.send(sent)
            assert json.loads(client.answer()[2])["prediction"] == expected
        assert json.loads(client.answer()[2])["prediction"] == 3.0
        client.send(head)  # its body comes later
        server.on_loop(lambda: None)
        client.send(one[len(head) :])
        assert json.loads(client.answer()[2])["prediction"] == 3.0
        client.send(one + b"GARBAGE\r\n\r\n")
        assert client.answer()[0] == 400, "as uvicorn does: who cannot be understood is not listened to any longer"
        assert client.closed()


def test_known_heads_are_bounded(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MOST_HEADS", 4)
    server = serve()
    with server.connect() as client:
        for i in range(20):
            assert client.ask(ROW, headers={"X-Trace": str(i)})[0] == 200
    (shared,) = server.config.http_protocol_class.servers.values()  # type: ignore[union-attr]
    assert 0 < len(shared.known.heads) <= 4


def test_expect_100_continue_is_honoured(serve: Any) -> None:
    server = serve()
    body = json.dumps(ROW).encode()
    whole = request(body, headers={"Expect": "100-continue"})
    with server.connect() as client:
        client.send(whole[: -len(body)])
        assert client.answer()[0] == 100
        client.send(body)
        assert client.answer()[0] == 200


def test_head_and_body_errors_do_not_cost_the_connection(serve: Any) -> None:
    server = serve()
    with server.connect() as client:
        for body, status in (
            ({"features": [1]}, 422),
            (b"{", 400),
            (ROW, 200),
            ({"features": ["a", 1]}, 422),
            (ROW, 200),
        ):
            assert client.ask(body)[0] == status
    assert server.app_requests == 0, "bad input is refused here, too: a flood of it must stay cheap"


class Gate:
    """A model that waits inside until the test lets it go on; row value below zero passes at once."""

    def __init__(self) -> None:
        self.inside, self.go = threading.Event(), threading.Event()

    def __call__(self, X: Any) -> Any:
        if (X[:, 0] > 0).any():
            self.inside.set()
            assert self.go.wait(20)
        return X.sum(axis=1)


@pytest.fixture
def gate(services: Any, serve: Any) -> Iterator[Gate]:
    gate = Gate()
    rules = BatchRules(max_rows=4, queue_rows=8, inline_seconds=0.0)
    lane = put_lane(services, "gated", Plain(Schema.unnamed(2), gate), rules=rules)
    yield gate
    gate.go.set()
    services.table.current = services.table.current.without("gated")
    lane.retire()


def gated(value: float = 1.0) -> bytes:
    return request({"features": [value, 0.0]}, "/v1/models/gated/predict")


def test_a_failing_request_fails_alone(serve: Any, services: Any) -> None:
    def answers(X: Any) -> Any:
        if (X[:, 0] < 0).any():
            raise RuntimeError("negative")
        return X.sum(axis=1)

    put_lane(services, "picky", Plain(Schema.unnamed(2), answers))
    server = serve()
    path = "/v1/models/picky/predict"
    clients = [server.connect() for _ in range(8)]
    for i, client in enumerate(clients):
        client.send(request({"features": [-1.0 if i == 3 else float(i), 0.0]}, path))
    for i, client in enumerate(clients):
        status, headers, body = client.answer()
        if i == 3:
            assert (status, json.loads(body)["code"]) == (500, "model_failed")
            assert headers["content-type"] == "application/problem+json"
        else:
            assert (status, json.loads(body)["prediction"]) == (200, float(i))
        client.close()


def test_overload_is_a_503_with_retry_after(serve: Any, gate: Gate) -> None:
    server = serve()
    clients = [server.connect() for _ in range(12)]
    clients[0].send(gated())
    assert gate.inside.wait(20)
    for client in clients[1:]:
        client.send(gated())
    refused = []
    for client in clients[1:]:
        client.socket.settimeout(None)
    # Which ones are refused depends on the order of arrival; they are answered while the others wait.
    import select

    while len(refused) < 3:
        readable, _, _ = select.select([c.socket for c in clients[1:]], [], [], 20)
        for client in [c for c in clients[1:] if c.socket in readable and c not in [r[0] for r in refused]]:
            refused.append((client, client.answer()))
    for _, (status, headers, body) in refused:
        assert status == 503
        assert json.loads(body)["code"] == "overloaded"
        assert int(headers["retry-after"]) >= 1
    gate.go.set()
    gone = [client for client, _ in refused]
    assert [c.answer()[0] for c in clients if c not in gone] == [200] * 9
    for client in clients:
        client.close()


def test_a_client_that_goes_away_is_dropped_before_its_row_runs(serve: Any, gate: Gate, services: Any) -> None:
    server = serve()
    lane = services.table.current.lanes["gated"]
    with server.connect() as first:
        first.send(gated())
        assert gate.inside.wait(20)
        second, third = server.connect(), server.connect()
        second.send(gated(2.0))
        third.send(gated(3.0))
        while lane.waiting < 2:
            server.on_loop(lambda: None)
        second.close()
        while len(server.server_state.connections) > 2:
            server.on_loop(lambda: None)
        gate.go.set()
        assert json.loads(first.answer()[2])["prediction"] == 1.0
        assert json.loads(third.answer()[2])["prediction"] == 3.0
        third.close()
    assert lane.counters().abandoned == 1
    assert lane.counters().requests == 2


def test_a_client_that_goes_away_while_its_row_runs_harms_nobody(serve: Any, gate: Gate) -> None:
    server = serve()
    first = server.connect()
    first.send(gated())
    assert gate.inside.wait(20)
    first.close()
    with server.connect() as other:
        other.send(gated(2.0))
        gate.go.set()
        assert other.answer()[0] == 200


def test_requests_behind_a_waiting_one_are_answered_after_it(serve: Any, gate: Gate) -> None:
    server = serve()
    with server.connect() as client:
        client.send(gated(5.0) + request(ROW) + request(b"", "/v1/models", method="GET"))
        assert gate.inside.wait(20)
        client.send(gated(-1.0))
        server.on_loop(lambda: None)
        gate.go.set()
        answers = [client.answer() for _ in range(4)]
        assert [a[0] for a in answers] == [200] * 4
        assert [json.loads(a[2]).get("prediction") for a in answers] == [5.0, 3.0, None, -1.0]


def test_a_server_that_ends_answers_what_is_in_flight(serve: Any, gate: Gate) -> None:
    server = serve()
    idle, busy = server.connect(), server.connect()
    assert idle.ask(ROW)[0] == 200
    busy.send(gated(4.0))
    assert gate.inside.wait(20)
    server.should_exit = True
    assert idle.closed()
    assert not server.ended.is_set()
    gate.go.set()
    status, headers, body = busy.answer()
    assert (status, json.loads(body)["prediction"]) == (200, 4.0)
    assert headers["connection"] == "close"
    assert busy.closed()
    assert server.ended.wait(20)
    idle.close()
    busy.close()


def test_while_draining_every_answer_closes_its_connection(serve: Any, services: Any) -> None:
    server = serve()
    with server.connect() as client:
        assert client.ask(ROW)[0] == 200
        services.draining = True
        status, headers, _ = client.ask(ROW)
        assert (status, headers["connection"]) == (200, "close")
        assert client.closed()
    services.draining = False


def test_idle_connections_are_closed_and_busy_ones_are_not(serve: Any, gate: Gate) -> None:
    server = serve(timeout_keep_alive=1)
    with server.connect() as idle, server.connect() as ordinary, server.connect() as busy, server.connect() as half:
        assert idle.ask(ROW)[0] == 200
        ordinary.send(request(b"", "/v1/models", method="GET"))
        assert ordinary.answer()[0] == 200
        assert half.ask(ROW)[0] == 200
        half.send(request(ROW)[:30])
        assert busy.ask(ROW)[0] == 200
        busy.send(gated())
        assert gate.inside.wait(20)
        assert idle.closed()
        assert ordinary.closed()
        assert half.answer()[0] == 408, "a request that stalls"
        assert half.closed()
        gate.go.set()
        assert busy.answer()[0] == 200


def test_connections_that_stall_before_their_first_answer_are_closed(serve: Any) -> None:
    server = serve(timeout_keep_alive=1)
    with server.connect() as silent, server.connect() as head, server.connect() as body, server.connect() as ordinary:
        head.send(request(ROW)[:30])
        body.send(request(ROW)[:-3])
        ordinary.send(request(ROW, "/v1/models/sum/predict?x")[:-3])
        assert [head.answer()[0], body.answer()[0]] == [408, 408]
        for client in (silent, head, body, ordinary):
            assert client.closed()


def test_a_request_that_comes_drop_by_drop_is_given_up_however_long_the_connection_may_idle(
    serve: Any, services: Any
) -> None:
    services.limits = dataclasses.replace(services.limits, head_sec=1, body_sec=1)
    server = serve(timeout_keep_alive=60)
    with server.connect() as head, server.connect() as body, server.connect() as ordinary, server.connect() as well:
        head.send(b"POST /v1/models/sum/predict HTTP/1.1\r\nX: ")
        for client, path in ((body, "sum/predict"), (ordinary, "sum/train")):
            client.send(request(b"", f"/v1/models/{path}", headers={"Content-Length": "100000"}))
        slow, answered = {head, body, ordinary}, 0
        while slow:
            for client in list(slow):
                if select.select([client.socket], [], [], 0.02)[0]:
                    slow.discard(client)
                else:
                    client.send(b"a")
            answered += well.ask(ROW)[0] == 200
        assert [head.answer()[0], body.answer()[0]] == [408, 408]
        assert all(client.closed() for client in (head, body, ordinary))
        assert answered > 3


def test_a_head_without_end_is_refused(serve: Any) -> None:
    server = serve()
    with server.connect() as client:
        assert client.ask(ROW)[0] == 200
        client.send(b"GET /v1/models HTTP/1.1\r\n")
        sent = 0
        while sent < 4 << 20:
            try:
                client.send(b"x-%d: %b\r\n" % (sent, b"a" * 8000))
            except OSError:
                break
            sent += 8000
        assert sent < 4 << 20
    with server.connect() as client:
        assert client.ask(ROW)[0] == 200


def test_a_client_that_does_not_read_is_not_read_from(serve: Any) -> None:
    """It sends and sends; what waits for it on the server stays bounded, and it gets every answer once it reads."""
    server = serve(small=True)
    sent = request({"instances": [[1.0, float(i)] for i in range(50)]})
    with server.connect() as client:
        assert client.ask(ROW)[0] == 200
        (connection,) = server.server_state.connections
        client.socket.setblocking(False)
        count = stuck = 0
        pending = b""
        while stuck < 50 and count < 50_000:
            pending = pending or sent
            try:
                pending = pending[client.socket.send(pending) :]
            except BlockingIOError:
                stuck += 1
                server.on_loop(lambda: None)
                continue
            stuck = 0
            count += not pending
        assert count < 50_000, "the server stopped reading"
        assert server.on_loop(connection.transport.get_write_buffer_size) < 200_000
        client.socket.setblocking(True)
        client.socket.settimeout(20)
        rest = threading.Thread(target=client.socket.sendall, args=(pending,))
        rest.start()
        for _ in range(count + bool(pending)):
            status, _, body = client.answer()
            assert (status, json.loads(body)["predictions"][3]) == (200, 4.0)
        rest.join()
        assert client.ask(ROW)[0] == 200


def test_a_swap_under_load_is_seen_by_nobody(serve: Any, services: Any) -> None:
    """64 connections, 40 swaps: every answer is what its version gives, versions never go back on a connection."""
    server = serve()
    path = "/v1/models/swapped/predict"

    def version(number: int) -> Any:
        return put_lane(services, "swapped", Plain(Schema.unnamed(1), lambda X: X[:, 0] * number), version=number)

    lanes = [version(1)]
    clients = [server.connect() for _ in range(64)]
    last = dict.fromkeys(clients, 0)
    for number in range(2, 42):
        for client in clients:
            client.send(request({"features": [1.0]}, path))
        lanes.append(version(number))
        lanes[-2].retire()
        for client in clients:
            status, _, body = client.answer()
            answer = json.loads(body)
            assert status == 200
            assert answer["prediction"] == answer["model_version"]
            assert answer["model_version"] >= last[client]
            last[client] = answer["model_version"]
    for client in clients:
        client.close()
    assert all(lane.closed for lane in lanes[:-1])
    assert sum(lane.counters().requests for lane in lanes) == 64 * 40
    assert max(lane.counters().largest for lane in lanes[1:]) > 1, "it batches after a swap as before"
    assert server.app_requests == 0


def test_a_path_prefix_and_uvicorns_own_limit_leave_it_to_the_app(serve: Any) -> None:
    limited = serve(limit_concurrency=100)
    with limited.connect() as client:
        assert client.ask(ROW)[0] == 200
    assert limited.app_requests == 1


def test_the_access_log_has_fast_requests(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    import logging

    logger = logging.getLogger("uvicorn.access")
    server = serve()
    logger.addHandler(caplog.handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with server.connect() as client:
            assert client.ask(ROW)[0] == 200
            assert client.ask({"features": []})[0] == 422
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)
    lines = [record.getMessage().partition(" - ")[2] for record in caplog.records]
    assert lines == [f'"POST /v1/models/sum/predict HTTP/1.1" {status}' for status in (200, 422)]


def test_connections_leave_nothing_behind(serve: Any) -> None:
    import gc
    import weakref

    server = serve()
    with server.connect() as client:
        assert client.ask(ROW)[0] == 200
        (connection,) = server.server_state.connections
        gone = weakref.ref(connection)
        del connection
    while server.server_state.connections:
        server.on_loop(lambda: None)
    server.on_loop(gc.disable)
    try:
        server.on_loop(lambda: None)
        assert gone() is None
    finally:
        gc.enable()


def test_overload_before_anything_runs_is_told_by_its_error() -> None:
    error = Overloaded("full", retry_after=0.2)
    assert fastlane.problem(error).headers[-1] == ("retry-after", "1")


def test_a_body_somewhat_too_large_is_answered_before_the_connection_closes(serve: Any, services: Any) -> None:
    """The client sends all of it before it reads: a connection that closed meanwhile would be a reset."""
    server = serve()
    body = b" " * (services.limits.max_body * 7)
    with server.connect() as client:
        assert client.ask(body)[0] == 413
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:100_000], body[100_000:])) + b"0\r\n\r\n"
    head = request(headers={"Transfer-Encoding": "chunked", "Content-Length": None})  # type: ignore[dict-item]
    with server.connect() as client:
        client.send(head + chunks)
        assert client.answer()[0] == 413
