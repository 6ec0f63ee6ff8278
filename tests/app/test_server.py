"""A server starts only where it should, is ready only when it is, and ends without losing a request or a label."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from everloop.app import server
from everloop.app.build import Engine, build_engine
from everloop.app.listening import Address, bind
from everloop.app.security import Security, check_public
from everloop.app.server import run, serving
from everloop.app.settings import EngineSettings, ServerSettings
from everloop.core.errors import Conflict, EverloopError, InvalidInput
from everloop.learning.config import LearningConfig

WITHIN = 20.0
SETTINGS = ServerSettings(port=0, notice=0.0)
Look = Callable[[int], None]

SCRIPT = """
import sys
from pathlib import Path
from everloop.app.build import build_engine
from everloop.app.server import run
from everloop.app.settings import EngineSettings, ServerSettings
from everloop.learning.config import LearningConfig

folder, notice = sys.argv[1:3]
engine = build_engine(EngineSettings(data_dir=Path(folder), learning=LearningConfig(min_samples=20)))
code = run(
    engine,
    ServerSettings(port=0, notice=float(notice)),
    prepare=lambda: engine.register("m", "linear"),
    on_ready=lambda address: print(address.port, flush=True),
)
print("stopped", code, flush=True)
sys.exit(code)
"""


def make_engine(learning: LearningConfig | None = None) -> Engine:
    return build_engine(EngineSettings(data_dir=None, learning=learning or LearningConfig(min_samples=20)))


def call(
    port: int, method: str, path: str, body: Any = None, connection: http.client.HTTPConnection | None = None
) -> tuple[int, Any, dict[str, str]]:
    made = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)
    try:
        headers = {"content-type": "application/json"} if body is not None else {}
        made.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = made.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None, {k.lower(): v for k, v in answer.getheaders()}
    finally:
        if connection is None:
            made.close()


def teach(port: int, name: str = "m") -> None:
    examples = [{"features": [float(x)], "label": 2.0 * x + 0.5} for x in range(40)]
    assert call(port, "POST", f"/v1/models/{name}/feedback", {"examples": examples})[0] == 202
    assert call(port, "POST", f"/v1/models/{name}/train")[0] == 200


@contextmanager
def process(folder: Path, notice: float = 0.3) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server as a process of its own: (process, port)."""
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(notice)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        if not line:
            assert started.stderr is not None
            pytest.fail(started.stderr.read())
        yield started, int(line)
    finally:
        started.kill()
        started.communicate()


@pytest.mark.e2e
def test_a_signal_fails_readiness_first_then_ends_with_everything_on_disk(tmp_path: Path) -> None:
    with process(tmp_path, notice=1.0) as (ended, port):
        assert call(port, "GET", "/v2/health/ready")[0] == 200
        teach(port)
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)
        row = {"features": [3.0]}
        status, first, headers = call(port, "POST", "/v1/models/m/predict", row, kept)
        assert (status, headers.get("connection")) == (200, None)
        ended.send_signal(signal.SIGTERM)
        until = time.monotonic() + WITHIN
        while call(port, "GET", "/v2/health/ready")[0] != 503:
            assert time.monotonic() < until
        # It still serves: on a connection that is kept alive, which is told to close, and on a new one.
        status, answer, headers = call(port, "POST", "/v1/models/m/predict", row, kept)
        assert (status, headers["connection"]) == (200, "close")
        assert answer["prediction"] == first["prediction"]
        label = {"request_id": answer["request_id"], "label": 6.5}
        assert call(port, "POST", "/v1/models/m/feedback", label)[0] == 202
        out, err = ended.communicate(timeout=WITHIN)
        kept.close()
    assert (ended.returncode, out, err) == (0, "stopped 0\n", "")
    with process(tmp_path) as (_, port):
        status, answer, _ = call(port, "POST", "/v1/models/m/predict", {"features": [3.0]})
        assert (status, answer["model_version"]) == (200, 1), "the last version serves at once"
        assert call(port, "GET", "/v1/models/m")[1]["labels"] == 41


@pytest.mark.e2e
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with process(tmp_path, notice=60.0) as (ended, port):
        ended.send_signal(signal.SIGTERM)
        until = time.monotonic() + WITHIN
        while call(port, "GET", "/v2/health/ready")[0] != 503:
            assert time.monotonic() < until
        ended.send_signal(signal.SIGTERM)
        assert ended.wait(WITHIN) == 128 + signal.SIGTERM


@pytest.mark.e2e
def test_under_load_a_signal_costs_no_request_that_was_taken(tmp_path: Path) -> None:
    """Clients that keep their connection as long as they are let see nothing but 200, then a closed port."""
    with process(tmp_path, notice=0.5) as (ended, port):
        teach(port)
        seen: list[int] = []
        broken: list[BaseException] = []

        def client() -> None:
            body = json.dumps({"features": [3.0]})
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)
            try:
                while True:
                    if connection.sock is None:
                        try:
                            connection.connect()
                        except ConnectionRefusedError:
                            return
                    connection.request("POST", "/v1/models/m/predict", body, {"content-type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                    seen.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                broken.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + WITHIN
        while len(seen) < 500:
            assert time.monotonic() < until
            threads[0].join(0.01)
        ended.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(WITHIN)
        assert ended.wait(WITHIN) == 0
    assert set(seen) == {200}
    # The last connection to come may still have been the kernel's when the port closed.
    assert len(broken) <= 2, broken
    assert all(isinstance(error, (ConnectionError, http.client.RemoteDisconnected)) for error in broken), broken


def test_what_is_in_flight_finishes_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    asked, release = threading.Event(), threading.Event()
    listed = engine.services.registry.list

    def slow() -> Any:
        asked.set()
        release.wait(WITHIN)
        return listed()

    answers: list[int] = []
    with serving(engine, SETTINGS) as address:
        monkeypatch.setattr(engine.services.registry, "list", slow)
        asker = threading.Thread(target=lambda: answers.append(call(address.port, "GET", "/v1/models")[0]))
        asker.start()
        assert asked.wait(WITHIN)
        threading.Timer(0.2, release.set).start()
    asker.join(WITHIN)
    assert answers == [200]


def test_what_does_not_finish_within_the_grace_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    asked, release = threading.Event(), threading.Event()

    def stuck(*_: Any) -> Any:
        asked.set()
        release.wait(WITHIN)
        return []

    failures: list[BaseException] = []

    def ask(port: int) -> None:
        try:
            call(port, "POST", "/v1/models/m/train")
        except (OSError, http.client.HTTPException) as error:
            failures.append(error)

    with serving(engine, ServerSettings(port=0, notice=0.0, grace=0.1)) as address:
        engine.register("m", "linear")
        monkeypatch.setattr(engine.services.loop, "train_now", stuck)
        asker = threading.Thread(target=ask, args=(address.port,))
        asker.start()
        assert asked.wait(WITHIN)
    asker.join(WITHIN)
    release.set()
    assert len(failures) == 1


def test_event_streams_end_with_the_drain() -> None:
    engine = make_engine()
    lines: list[bytes] = []
    begun = threading.Event()

    def listen(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN)
        connection.request("GET", "/v1/events?after=0")
        answer = connection.getresponse()
        while line := answer.readline():
            lines.append(line)
            begun.set()
        connection.close()

    with serving(engine, SETTINGS) as address:
        listener = threading.Thread(target=listen, args=(address.port,))
        listener.start()
        assert begun.wait(WITHIN)
        engine.register("m", "linear")
        until = time.monotonic() + WITHIN
        while not any(b"registered" in line for line in lines):
            assert time.monotonic() < until
            listener.join(0.01)
    listener.join(WITHIN)
    assert not listener.is_alive()


def test_a_taken_port_is_told_and_the_engine_is_stopped() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        engine = make_engine()
        with pytest.raises(Conflict, match="is taken by another program") as refused:
            run(engine, ServerSettings(port=other.getsockname()[1]))
        assert refused.value.field == "port"
    with pytest.raises(EverloopError):
        engine.register("m", "linear")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_public_address_needs_an_explicit_word(host: str) -> None:
    engine = make_engine()
    with pytest.raises(InvalidInput, match="no key to tell callers apart") as refused:
        check_public(Security(), host, engine.services.door, insecure=False)
    assert refused.value.field == "host"
    check_public(Security(), host, engine.services.door, insecure=True)
    assert not engine.services.door.closed
    check_public(Security(admin_keys=("0123456789abcdef",)), host, engine.services.door, insecure=False)
    assert engine.services.door.closed
    engine.stop()


def test_with_that_word_it_listens_there() -> None:
    listener = bind(ServerSettings(host="0.0.0.0", port=0, insecure=True))
    assert listener.getsockname()[0] == "0.0.0.0"
    listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_any_free_port_is_told(host: str) -> None:
    with bind(ServerSettings(host=host, port=0)) as listener:
        address = Address.of(listener)
    assert address.port > 0
    assert address.url == f"http://127.0.0.1:{address.port}"
    assert Address("::1", 80).url == "http://[::1]:80"


def test_what_fails_while_getting_ready_is_raised() -> None:
    engine = make_engine()

    def prepare() -> None:
        raise InvalidInput("x.onnx: not a model")

    with pytest.raises(InvalidInput, match="not a model"):
        run(engine, SETTINGS, prepare=prepare, on_ready=lambda _: pytest.fail("it is not ready"))
    assert engine.services.draining


def test_on_a_thread_what_fails_is_raised_and_the_engine_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = make_engine()
        with pytest.raises(Conflict), serving(taken, ServerSettings(port=other.getsockname()[1])):
            pytest.fail("the port was taken")
    assert taken.services.draining
    broken = make_engine()

    def start() -> None:
        raise InvalidInput("no such folder")

    monkeypatch.setattr(broken, "start", start)
    with pytest.raises(InvalidInput, match="no such folder"), serving(broken, SETTINGS):
        pytest.fail("it has not started")
    assert broken.services.draining


def run_until_ready(engine: Engine, patch: pytest.MonkeyPatch, *, starting: Look, ready: Look) -> int:
    """Serve with a look at the port while the server starts and another when it is ready, then end it."""
    ports: list[int] = []
    bound = server.bind

    def spy(settings: ServerSettings) -> socket.socket:
        listener = bound(settings)
        ports.append(listener.getsockname()[1])
        return listener

    def end(address: Address) -> None:
        ready(address.port)
        signal.raise_signal(signal.SIGINT)

    patch.setattr(server, "bind", spy)
    return run(engine, SETTINGS, prepare=lambda: starting(ports[0]), on_ready=end)


def test_it_is_live_before_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def look(port: int) -> None:
        seen.append((call(port, "GET", "/v2/health/live")[0], call(port, "GET", "/v2/health/ready")[0]))

    before = signal.getsignal(signal.SIGINT)
    assert run_until_ready(make_engine(), monkeypatch, starting=look, ready=look) == 0
    assert seen == [(200, 503), (200, 200)]
    assert signal.getsignal(signal.SIGINT) is before


def test_while_it_starts_no_model_is_said_not_to_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    seen: list[list[tuple[int, str, bool]]] = []

    def look(port: int) -> None:
        engine.register("new", "linear")  # what `serve` was told to serve is registered before it is live
        asked = [
            ("POST", "/v1/models/soon/predict", {"features": [1.0]}),
            ("POST", "/v1/models/new/predict", {"features": [1.0]}),
            ("POST", "/v1/models/soon/feedback", {"features": [1.0], "label": 1.0}),
            ("GET", "/v1/models/soon", None),
        ]
        answers = [call(port, *each) for each in asked]
        seen.append([(status, body["code"], "retry-after" in headers) for status, body, headers in answers])

    assert run_until_ready(engine, monkeypatch, starting=look, ready=look) == 0
    assert seen == [
        [(503, "starting", True)] * 4,
        [(404, "model_not_found", False), (409, "model_untrained", False), *[(404, "model_not_found", False)] * 2],
    ]


def test_a_model_that_is_not_there_is_asked_for_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry is on a disk: while it takes its time over one request, others are answered."""
    engine = make_engine()
    asked, release = threading.Event(), threading.Event()
    get: Callable[[str], Any] = engine.services.registry.get

    def slow(name: str) -> Any:
        if name == "nowhere":
            asked.set()
            release.wait(WITHIN)
        return get(name)

    answers: list[int] = []
    with serving(engine, SETTINGS) as address:
        engine.register("m", "linear")
        teach(address.port)
        monkeypatch.setattr(engine.services.registry, "get", slow)
        path = "/v1/models/nowhere/predict"
        asker = threading.Thread(
            target=lambda: answers.append(call(address.port, "POST", path, {"features": [1.0]})[0])
        )
        asker.start()
        assert asked.wait(WITHIN)
        assert call(address.port, "POST", "/v1/models/m/predict", {"features": [1.0]})[0] == 200
        release.set()
        asker.join(WITHIN)
    assert answers == [404]
