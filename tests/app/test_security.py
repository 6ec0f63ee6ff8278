"""TLS, a port for the administration, and keys as an operator meets them: real sockets, real certificates."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from typer.testing import CliRunner

from everloop.api import keys as verbs
from everloop.api.door import Door
from everloop.api.keys import KeySpec
from everloop.app.build import build_engine
from everloop.app.cli.commands import app
from everloop.app.client import Client
from everloop.app.security import Certificates, Security, front_of
from everloop.app.server import serving
from everloop.app.settings import EngineSettings, ServerSettings
from everloop.core.errors import Forbidden, InvalidInput, QuotaExceeded, Unauthenticated

runner = CliRunner()
GIVEN = "a-key-of-the-operator"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    return write(authority, tmp_path)


def write(authority: trustme.CA, folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    made = authority.issue_cert(name, "127.0.0.1")
    chain, key = folder / "cert.pem", folder / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    return chain, key


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def ask(port: int, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json", **headers} if body else headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


class TestTls:
    def test_the_whole_server_speaks_it_the_fast_lane_too(self, authority: Any, certificate: tuple[Path, Path]) -> None:
        chain, key = certificate
        settings = ServerSettings(port=0, notice=0.0, security=Security(tls_cert=chain, tls_key=key))
        engine = build_engine(EngineSettings())
        engine.register("m", "linear")
        with serving(engine, settings) as address:
            assert address.url == f"https://127.0.0.1:{address.port}"
            connection = http.client.HTTPSConnection("127.0.0.1", address.port, timeout=20, context=trusting(authority))
            examples = [{"features": [float(x)], "label": 2.0 * x} for x in range(120)]
            for path, body in (("feedback", {"examples": examples}), ("train", {}), ("predict", {"features": [3.0]})):
                connection.request(
                    "POST", f"/v1/models/m/{path}", json.dumps(body), {"content-type": "application/json"}
                )
                answer = connection.getresponse()
                content = json.loads(answer.read())
                assert answer.status < 300, content
                assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert content["prediction"] == pytest.approx(6.0, abs=0.5)
            connection.close()
            plain = http.client.HTTPConnection("127.0.0.1", address.port, timeout=20)
            plain.request("GET", "/v2/health/live")
            with pytest.raises((http.client.HTTPException, OSError)):
                plain.getresponse()
            plain.close()

    def test_who_asks_in_the_wrong_way_is_told_the_right_one(
        self, authority: Any, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def told(url: str) -> str:
            with Client(url) as client, pytest.raises(ConnectionError) as refused:
                client.get("/v2/health/live")
            return str(refused.value)

        chain, key = certificate
        secure = ServerSettings(port=0, notice=0.0, security=Security(tls_cert=chain, tls_key=key))
        with serving(build_engine(EngineSettings()), secure) as address:
            assert "ask with https://" in told(f"127.0.0.1:{address.port}")
            assert "is trusted with SSL_CERT_FILE=FILE" in told(address.url)
            root = tmp_path / "root.pem"
            authority.cert_pem.write_to_path(root)
            monkeypatch.setenv("SSL_CERT_FILE", str(root))
            with Client(address.url) as client:
                assert client.get("/v2/health/live")["live"]
        with serving(build_engine(EngineSettings()), ServerSettings(port=0, notice=0.0)) as address:
            assert "ask with http://" in told(f"https://127.0.0.1:{address.port}")

    def test_clients_without_a_certificate_are_turned_away_where_they_need_one(
        self, authority: Any, certificate: tuple[Path, Path], tmp_path: Path
    ) -> None:
        chain, key = certificate
        root = tmp_path / "root.pem"
        authority.cert_pem.write_to_path(root)
        settings = ServerSettings(
            port=0, notice=0.0, security=Security(tls_cert=chain, tls_key=key, tls_client_ca=root)
        )
        with serving(build_engine(EngineSettings()), settings) as address:
            bare, own = trusting(authority), trusting(authority)
            authority.issue_cert("client@example.org").configure_cert(own)
            for context, good in ((bare, False), (own, True)):
                connection = http.client.HTTPSConnection("127.0.0.1", address.port, timeout=20, context=context)
                try:
                    connection.request("GET", "/v2/health/live")
                    assert (connection.getresponse().status == 200) is good
                except OSError:
                    assert not good
                finally:
                    connection.close()

    def test_a_renewed_certificate_is_taken_up_and_half_of_one_is_not(
        self, authority: Any, certificate: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        chain, key = certificate
        made = Certificates(Security(tls_cert=chain, tls_key=key))
        made.look()
        assert caplog.text == ""
        old = chain.read_bytes()
        chain.write_bytes(b"-----BEGIN")
        os.utime(chain, ns=(1, 1))
        made.look()
        made.look()
        assert caplog.text.count("the old one stays in force") == 1
        chain.write_bytes(old)
        write(authority, tmp_path, "renewed.example")
        with caplog.at_level("INFO"):
            made.look()
        assert "is in force" in caplog.text

    def test_a_forgotten_key_is_asked_for(self, certificate: tuple[Path, Path]) -> None:
        with pytest.raises(InvalidInput, match="where with tls_key"):
            Certificates(Security(tls_cert=certificate[0]))

    @pytest.mark.parametrize("broken", ["missing", "nonsense", "foreign key"])
    def test_what_cannot_be_used_is_said(
        self, authority: Any, certificate: tuple[Path, Path], tmp_path: Path, broken: str
    ) -> None:
        chain, key = certificate
        if broken == "missing":
            key = tmp_path / "nowhere.pem"
        elif broken == "nonsense":
            chain.write_text("no certificate")
        else:
            authority.issue_cert("other").private_key_pem.write_to_path(key)
        with pytest.raises(InvalidInput) as refused:
            Certificates(Security(tls_cert=chain, tls_key=key))
        assert refused.value.field == "tls_cert"


class TestAdministration:
    @pytest.fixture
    def ports(self) -> Iterator[tuple[int, int]]:
        settings = ServerSettings(port=0, notice=0.0, security=Security(admin_port=0))
        with serving(build_engine(EngineSettings()), settings) as address:
            assert address.admin is not None
            assert address.admin_url == f"http://127.0.0.1:{address.admin[1]}"
            yield address.port, address.admin[1]

    def test_it_is_only_on_its_port(self, ports: tuple[int, int]) -> None:
        public, admin = ports
        model = {"name": "m", "kind": "linear"}
        status, answer = ask(public, "/v1/models", "POST", model)
        assert (status, answer["code"]) == (404, "route_not_found")
        assert "has a port of its own" in answer["detail"]
        assert ask(public, "/v1/keys")[0] == 404
        assert ask(admin, "/v1/models", "POST", model)[0] == 201
        for port in ports:
            assert ask(port, "/v1/models/m")[0] == 200
            assert ask(port, "/v1/models/m/predict", "POST", {"features": [1.0]})[1]["code"] == "model_untrained"

    def test_a_public_admin_port_needs_keys_as_well(self) -> None:
        settings = ServerSettings(port=0, security=Security(admin_port=0, admin_host="0.0.0.0"))
        with pytest.raises(InvalidInput) as refused, serving(build_engine(EngineSettings()), settings):
            pytest.fail("it must not start")
        assert refused.value.field == "admin_host"


def test_which_names_a_server_answers_to() -> None:
    opened, closed = Door(), Door(required=True)
    local = front_of(Security(), "127.0.0.1", opened, None).hosts
    assert local is not None
    assert [local.admits(name) for name in ("localhost:3000", "127.0.0.1", "evil.example")] == [True, True, False]
    assert front_of(Security(), "127.0.0.1", closed, None).hosts is None, "a key is what a foreign page does not have"
    assert front_of(Security(), "0.0.0.0", opened, None).hosts is None, "insecure: said by hand"
    named = front_of(Security(allowed_hosts=("models.example",)), "0.0.0.0", closed, None).hosts
    assert named is not None
    assert [named.admits(name) for name in ("models.example", "evil.example")] == [True, False]
    assert front_of(Security(allowed_hosts=("*",)), "127.0.0.1", opened, None).hosts is None


def test_an_operator_makes_keys_without_a_server_and_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("EVERLOOP_")]:
        monkeypatch.delenv(name)
    made = runner.invoke(app, ["keys", "create", "ops", "--scope", "admin"])
    assert made.exit_code == 0, made.output
    ops = made.stdout.strip()
    assert ops.startswith("evl_")
    folder = tmp_path / "everloop-data"
    assert not any(ops.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    with serving(build_engine(EngineSettings(data_dir=folder)), ServerSettings(port=0, notice=0.0)) as address:
        url = address.url
        with Client(url) as client, pytest.raises(Unauthenticated):
            client.get("/v1/models")
        refused = runner.invoke(app, ["models", "list", "--url", url])
        assert (refused.exit_code, "asks for a key" in refused.output) == (1, True)
        monkeypatch.setenv("EVERLOOP_KEY", ops)
        assert runner.invoke(app, ["models", "create", "m", "--kind", "linear", "--url", url]).exit_code == 0
        arguments = ["--scope", "feedback", "--model", "m", "--rate", "0.001", "--burst", "2", "--expires", "90d"]
        through = runner.invoke(app, ["keys", "create", "labels", *arguments, "--url", url])
        assert through.exit_code == 0, through.output
        with Client(url, key=through.stdout.strip()) as client:
            assert client.feedback("m", [{"features": [1.0], "label": 2.0}])["accepted"] == 1
            with pytest.raises(Forbidden):
                client.predict("m", [1.0])
            with Client(url, key=through.stdout.strip()) as other:
                assert [each["name"] for each in other.get("/v1/models")["models"]] == ["m"]
                with pytest.raises(QuotaExceeded) as spent:
                    other.get("/v1/models")
                assert spent.value.retry_after is not None
        rotated = runner.invoke(app, ["keys", "rotate", "ops", "--overlap", "0", "--url", url])
        assert rotated.exit_code == 0, rotated.output
        again = runner.invoke(app, ["keys", "list", "--url", url])
        assert (again.exit_code, "is expired" in again.output) == (1, True)
        monkeypatch.setenv("EVERLOOP_KEY", rotated.stdout.strip())
        listed = runner.invoke(app, ["keys", "list", "--url", url, "--json"])
        assert [each["state"] for each in json.loads(listed.stdout)] == ["expired", "active", "active"]
        gone = runner.invoke(app, ["keys", "revoke", "labels", "--url", url])
        assert gone.exit_code == 0, gone.output
    offline = runner.invoke(app, ["keys", "list"])
    assert offline.exit_code == 0
    assert "revoked" in offline.stdout
    for text in (ops, rotated.stdout.strip(), through.stdout.strip()):
        secret = text.split("_", 2)[2]
        assert secret not in caplog.text
        assert secret not in listed.stdout + offline.stdout + again.output


def test_a_key_made_beside_a_running_server_closes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everloop.api.door.LOOK_SECONDS", 0.01)
    engine = build_engine(EngineSettings(data_dir=tmp_path / "data"))
    with serving(engine, ServerSettings(port=0, notice=0.0)) as address:
        assert ask(address.port, "/v1/models")[0] == 200
        assert runner.invoke(app, ["keys", "create", "ops", "--data-dir", str(tmp_path / "data")]).exit_code == 0
        while ask(address.port, "/v1/models")[0] != 401:
            assert engine.services.up


def test_given_keys_come_from_the_environment_and_are_told_nowhere(tmp_path: Path) -> None:
    from everloop.app.settings import load_settings

    settings = load_settings(environ={"EVERLOOP_ADMIN_KEYS": GIVEN}, cwd=tmp_path).server
    assert settings.security.admin_keys == (GIVEN,)
    assert GIVEN not in repr(settings)
    engine = build_engine(EngineSettings())
    with serving(engine, ServerSettings(port=0, notice=0.0, security=settings.security)) as address:
        assert ask(address.port, "/v1/models")[0] == 401
        assert ask(address.port, "/v1/models", Authorization=f"Bearer {GIVEN}")[0] == 200
        made = verbs.create_key(engine.services, KeySpec("app"))
        assert ask(address.port, "/v1/models", Authorization=f"Bearer {made.key}")[0] == 200
        assert GIVEN not in repr(engine.services.door)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "there is no data folder"),
        (["create", "a", "--scope", "root"], "some of predict, feedback, admin"),
        (["create", "a", "--expires", "soon"], "expected a time like 90d"),
        (["create", "a", "--expires", "5"], "expected a time like 90d"),
        (["revoke", "nobody", "--data-dir", "."], "no key 'nobody'"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["keys", *arguments])
    assert result.exit_code in (1, 2)
    assert said in result.output
