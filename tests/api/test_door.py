"""Who may do what: by every route, in the fast lane and beside it, and nobody's key is ever told."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.api.conftest import TestClient
from tests.api.test_fastlane import ROW, Plain, Server, put_lane

from everloop.api import keys as verbs
from everloop.api.audit import MOST_REFUSALS, Refusals
from everloop.api.door import ANYBODY, Door
from everloop.api.http.front import Front, Hosts
from everloop.api.http.operations import OPERATIONS
from everloop.api.keys import KeyMade, Keyring, KeySpec
from everloop.api.services import Services
from everloop.core.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    KeyNotFound,
    QuotaExceeded,
    StoreUnavailable,
    Unauthenticated,
)
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_000_000.0)


@pytest.fixture
def store(clock: ManualClock) -> MemoryCatalog:
    return MemoryCatalog(MemoryJournal(clock=clock))


@pytest.fixture
def ring(store: MemoryCatalog, clock: ManualClock) -> Keyring:
    return Keyring(store, clock)


def bearer(made: KeyMade) -> str:
    return f"Bearer {made.key}"


class TestDoor:
    def test_it_is_open_until_there_is_a_key_and_never_again(
        self, store: Any, ring: Keyring, clock: ManualClock
    ) -> None:
        door = Door(store, clock)
        assert (door.closed, door.enter(None), door.enter("Bearer x")) == (False, ANYBODY, ANYBODY)
        door.allow(ANYBODY, "admin")
        made = ring.create(KeySpec("ops", ["admin"]))
        door.refresh()
        assert door.closed
        assert not door.stands(ANYBODY)
        with pytest.raises(Unauthenticated):
            door.allow(ANYBODY, "predict", "m")
        assert door.enter(bearer(made)).name == "ops"
        ring.revoke(made.id)
        door.refresh()
        assert door.closed, "the last key is gone, and nobody may come in"
        assert not door.has_keys

    @pytest.mark.parametrize(
        "credential", [None, "", "Bearer", "Bearer ", "Basic b3BzOng=", "evl_x", "Bearer x", "Bearer \udcff"]
    )
    def test_without_a_key_nobody_enters(
        self, store: Any, ring: Keyring, clock: ManualClock, credential: str | None
    ) -> None:
        ring.create(KeySpec("ops", ["admin"]))
        with pytest.raises(Unauthenticated) as refused:
            Door(store, clock).enter(credential)
        assert refused.value.field == "Authorization"

    def test_the_id_alone_or_with_another_secret_is_no_key(self, store: Any, ring: Keyring, clock: ManualClock) -> None:
        made, other = ring.create(KeySpec("a")), ring.create(KeySpec("b"))
        door = Door(store, clock)
        mixed = made.key[:17] + other.key[17:]
        for text in (mixed, made.key[:-1], made.key + "A", made.id, made.key.upper()):
            with pytest.raises(Unauthenticated) as refused:
                door.enter(f"Bearer {text}")
            assert made.key not in refused.value.message
        assert door.enter(f"bearer  {made.key}").id == made.id

    def test_a_key_ends_by_itself_and_by_hand(self, store: Any, ring: Keyring, clock: ManualClock) -> None:
        made = ring.create(KeySpec("short", expires_sec=60.0))
        door = Door(store, clock)
        caller = door.enter(bearer(made))
        assert door.stands(caller)
        clock.advance(60.0)
        assert not door.stands(caller)
        with pytest.raises(Unauthenticated, match="'short' is expired"):
            door.enter(bearer(made))
        second = ring.create(KeySpec("second"))
        door.refresh()
        caller = door.enter(bearer(second))
        ring.revoke("second")
        door.refresh()
        assert not door.stands(caller)
        with pytest.raises(Unauthenticated, match="has ended"):  # of a stream that began before
            door.allow(caller, "key")
        with pytest.raises(Unauthenticated, match="'second' is revoked"):
            door.enter(bearer(second))

    def test_scopes_and_models(self, store: Any, ring: Keyring, clock: ManualClock) -> None:
        door = Door(store, clock)
        made = ring.create(KeySpec("app", ["predict"], models=["a"]))
        door.refresh()
        caller = door.enter(bearer(made))
        door.allow(caller, "predict", "a")
        door.allow(caller, "key", "a")
        door.allow(caller, "own")
        door.allow(caller, "open")
        for need, model in (("feedback", "a"), ("admin", "a"), ("predict", "b"), ("key", "b"), ("key", None)):
            with pytest.raises(Forbidden):
                door.allow(caller, need, model)  # type: ignore[arg-type]
        assert (caller.reaches("a"), caller.reaches("b")) == (True, False)

    def test_a_quota_is_of_one_key_and_says_when_to_come_back(
        self, store: Any, ring: Keyring, clock: ManualClock
    ) -> None:
        made, free = ring.create(KeySpec("app", rate=2.0, burst=3)), ring.create(KeySpec("free"))
        door = Door(store, clock)
        caller = door.enter(bearer(made))
        for _ in range(3):
            door.allow(caller, "predict", "m")
        with pytest.raises(QuotaExceeded) as refused:
            door.allow(caller, "predict", "m")
        assert refused.value.retry_after == pytest.approx(0.5)
        door.allow(door.enter(bearer(free)), "predict", "m")
        clock.advance(0.5)
        door.allow(caller, "predict", "m")
        with pytest.raises(Forbidden):  # what one may not do costs nothing
            door.allow(caller, "admin")
        ring.revoke(free.id)
        door.refresh()
        assert door.enter(bearer(made)) is caller, "another key's change is no new start"

    def test_rotation_overlaps(self, store: Any, ring: Keyring, clock: ManualClock) -> None:
        old = ring.create(KeySpec("app", ["predict", "feedback"], rate=5.0, expires_sec=1000.0))
        clock.advance(100.0)
        new = ring.rotate("app", 50.0)
        assert (new.replaces, new.scopes, new.rate, new.expires_at) == (old.id, old.scopes, 5.0, clock.now() + 1000.0)
        door = Door(store, clock)
        assert {door.enter(bearer(each)).id for each in (old, new)} == {old.id, new.id}
        clock.advance(50.0)
        assert door.enter(bearer(new)).id == new.id
        with pytest.raises(Unauthenticated, match="expired"):
            door.enter(bearer(old))
        with pytest.raises(Conflict, match="expired"):
            ring.rotate(old.id)
        with pytest.raises(KeyNotFound):
            ring.rotate("nobody")

    def test_names_are_enough_where_they_are_clear(self, ring: Keyring) -> None:
        first = ring.create(KeySpec("app"))
        second = ring.create(KeySpec("app"))
        with pytest.raises(Conflict, match=second.id):
            ring.revoke("app")
        assert ring.revoke(first.id).state == "revoked"
        assert ring.revoke("app").id == second.id

    def test_what_another_process_does_is_seen_and_uses_are_told(
        self, store: Any, ring: Keyring, clock: ManualClock
    ) -> None:
        door = Door(store, clock)
        made = ring.create(KeySpec("app"))
        door.look()
        caller = door.enter(bearer(made))
        door.allow(caller, "key")
        door.look()
        assert store.key_uses() == {}
        clock.advance(60.0)
        door.look()
        assert store.key_uses() == {made.id: clock.now()}
        assert ring.listed()[0].used_at == clock.now()

    def test_a_store_that_fails_leaves_the_keys_as_they_were(
        self,
        store: Any,
        ring: Keyring,
        clock: ManualClock,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        made = ring.create(KeySpec("app"))
        door = Door(store, clock)

        def fail() -> int:
            raise StoreUnavailable("the disk is gone")

        monkeypatch.setattr(store, "revision", fail)
        door.look()
        door.look()
        assert caplog.text.count("the disk is gone") == 1
        assert door.enter(bearer(made)).id == made.id

    def test_given_keys_may_do_everything(self, clock: ManualClock) -> None:
        door = Door(clock=clock, given=["a-secret-of-the-operator"])
        caller = door.enter("Bearer a-secret-of-the-operator")
        door.allow(caller, "admin", "m")
        assert door.stands(caller)
        with pytest.raises(Unauthenticated):
            door.enter("Bearer a-secret-of-the-operato")

    def test_no_text_of_a_key_is_in_any_repr(self, store: Any, ring: Keyring, clock: ManualClock) -> None:
        made = ring.create(KeySpec("app"))
        door = Door(store, clock)
        secret = made.key[17:]
        shown = [repr(each) for each in (door, door.enter(bearer(made)), *store.keys(), *ring.listed())]
        assert all(secret not in text for text in shown)
        assert store.keys()[0].digest not in "".join(shown)


@pytest.fixture
def key(services: Services) -> Callable[..., dict[str, str]]:
    """Makes a key; the headers to send it with."""
    ring = verbs.keyring_of(services)

    def make(*scopes: str, **fields: Any) -> dict[str, str]:
        made = ring.create(KeySpec(fields.pop("name", "test"), list(scopes), **fields))
        services.door.refresh()
        return {"authorization": bearer(made)}

    return make


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_every_operation_asks_for_a_key_and_for_the_right_one(
    client: TestClient, key: Callable[..., dict[str, str]], operation: Any
) -> None:
    """All of them, so that a route that somebody adds cannot be forgotten: what changes something needs `admin`."""
    path = operation.path
    for name in ("model", "version", "alias", "key", "name"):
        path = path.replace(f"{{{name}}}", "m")
    little, admin = key("predict", models=["other"]), key("admin")
    need = operation.need
    if need == "open":
        assert client.request(operation.method, path, follow_redirects=False).status_code not in (401, 403)
        return
    if operation.id == "events":
        path += "?model=m"
    answer = client.request(operation.method, path)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    answer = client.request(operation.method, path, headers={"authorization": "Bearer nonsense"})
    assert answer.status_code == 401
    if need != "own":
        answer = client.request(operation.method, path, headers=little)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    if operation.id != "events":  # it would not end
        assert client.request(operation.method, path, headers=admin).status_code not in (401, 403)
    if operation.method != "GET" and operation.id != "repository_index":  # the protocol's way to read it
        assert need in ("predict", "feedback", "admin"), "what changes something needs more than any key"


def test_from_the_first_key_on_everybody_needs_one(client: TestClient) -> None:
    assert client.get("/v1/keys").json() == {"open": True, "keys": []}
    refused = client.post("/v1/keys", json={"name": "app", "scopes": ["predict"]})
    assert (refused.status_code, refused.json()["field"]) == (422, "scopes")
    made = client.post("/v1/keys", json={"name": "ops", "scopes": ["admin"]})
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    assert client.get("/v1/models").status_code == 401
    ops = {"authorization": f"Bearer {made.json()['key']}"}
    app = client.post("/v1/keys", json={"name": "app", "scopes": ["predict"], "rate": 1.0}, headers=ops).json()
    listed = client.get("/v1/keys", headers=ops).json()
    assert [(each["name"], each["burst"]) for each in listed["keys"]] == [("ops", None), ("app", 10)]
    assert not any("key" in each or "digest" in each for each in listed["keys"])
    rotated = client.post("/v1/keys/app/rotate", json={"overlap_sec": 0}, headers=ops).json()
    assert client.get("/v1/models", headers={"authorization": f"Bearer {app['key']}"}).status_code == 401
    new = {"authorization": f"Bearer {rotated['key']}"}
    assert client.get("/v1/models", headers=new).status_code == 200
    assert client.get("/v1/keys", headers=new).status_code == 403
    assert client.delete(f"/v1/keys/{rotated['id']}", headers=ops).json()["state"] == "revoked"
    assert client.get("/v1/models", headers=new).status_code == 401
    assert client.delete("/v1/keys/nobody", headers=ops).json()["code"] == "key_not_found"
    assert client.post("/v1/keys", json={"name": "x", "scopes": ["root"]}, headers=ops).json()["field"] == "scopes"


def test_a_key_of_some_models_sees_only_those(client: TestClient, key: Callable[..., dict[str, str]]) -> None:
    for name in ("mine", "yours"):
        assert client.post("/v1/models", json={"name": name, "kind": "linear"}).status_code == 201
    ops, little = key("admin"), key("admin", models=["mine"])
    assert [each["name"] for each in client.get("/v1/models", headers=ops).json()["models"]] == ["mine", "yours"]
    assert [each["name"] for each in client.get("/v1/models", headers=little).json()["models"]] == ["mine"]
    assert client.get("/v1/models/mine", headers=little).status_code == 200
    hidden = client.get("/v1/models/yours", headers=little)
    nothing = client.get("/v1/models/nothing", headers=little)
    assert (hidden.status_code, hidden.json()) == (403, nothing.json()), "not even whether it is there"
    assert client.post("/v1/models", json={"name": "new", "kind": "linear"}, headers=little).status_code == 403
    assert client.post("/v1/keys", json={"name": "me", "scopes": ["admin"]}, headers=little).status_code == 403
    assert client.get("/metrics", headers=little).status_code == 403
    assert client.get("/v1/events", headers=little).status_code == 403


def test_a_quota_is_told_before_and_when_it_is_used_up(client: TestClient, key: Callable[..., dict[str, str]]) -> None:
    app = key("predict", rate=0.001, burst=3)
    left = []
    for _ in range(3):
        answer = client.get("/v1/models", headers=app)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"key";q=3;w=3000'
        left.append(answer.headers["ratelimit"].split(";")[1])
    assert left == ["r=2", "r=1", "r=0"]
    refused = client.get("/v1/models", headers=app)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert 990 < int(refused.headers["retry-after"]) <= 1000
    assert refused.headers["ratelimit"].startswith('"key";r=0;t=')


def test_every_act_has_its_line_and_its_place_in_the_timeline(
    client: TestClient, key: Callable[..., dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ops, app = key("admin", name="ops"), key("predict", name="app")
    assert client.post("/v1/models", json={"name": "m", "kind": "linear"}, headers=ops).status_code == 201
    assert client.post("/v1/models/m/rollback", headers=ops).status_code == 409
    assert client.post("/v1/models/m/rollback", headers=app).status_code == 403
    assert client.post("/v1/models/m/rollback").status_code == 401
    assert client.get("/v1/models/m", headers=ops).status_code == 200
    assert client.get("/v1/keys", headers=ops).status_code == 200
    lines = [(record.name, record.getMessage()) for record in caplog.records if record.name == "everloop.audit"]
    assert [line for _, line in lines if "create_model by ops" in line and "done" in line]
    assert [line for _, line in lines if "rollback by ops" in line and "conflict" in line]
    assert [line for _, line in lines if "rollback by app" in line and "forbidden" in line]
    assert [line for _, line in lines if "rollback by nobody known" in line and "unauthenticated" in line]
    assert not any("describe" in line for _, line in lines)
    told = [e for e in client.get("/v1/models/m/timeline", headers=ops).json()["events"] if e["kind"] == "audit"]
    assert [(e["data"]["operation"], e["data"]["by"], e["data"]["outcome"]) for e in told] == [
        ("create_model", "ops", "done")
    ]
    for headers in (ops, app):
        assert headers["authorization"].split("_", 2)[2] not in caplog.text


def test_refusals_cannot_fill_the_log(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    told = Refusals(clock)
    for _ in range(1000):
        told.tell("train", None, address="192.0.2.1", code="unauthenticated")
    assert len(caplog.records) == MOST_REFUSALS
    clock.advance(1.0)
    told.tell("train", None, address="192.0.2.1", code="unauthenticated")
    assert f"({1000 - MOST_REFUSALS} more before it)" in caplog.text


def test_no_pickle_is_ever_loaded_without_trust(client: TestClient, tmp_path: Any) -> None:
    """BentoML's CVE-2025-27520 and CVE-2025-32375: a body that says what it is, and runs when it is read."""
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "ran"), "w"))

    payload = pickle.dumps(Evil())
    kinds = [
        "application/octet-stream",
        "application/vnd.bentoml+pickle",
        "application/x-pickle",
        "application/json",
        "",
    ]
    for operation in OPERATIONS:
        if operation.method == "GET":
            continue
        path = (
            operation.path.replace("{model}", "m")
            .replace("{version}", "1")
            .replace("{alias}", "a")
            .replace("{key}", "k")
        )
        for kind in kinds:
            headers = {"content-type": kind} if kind else {}
            answer = client.request(operation.method, path, content=payload, headers=headers)
            assert answer.status_code in (204, 400, 403, 404, 409, 413, 415, 422, 503), (
                operation.id,
                kind,
                answer.text,
            )
    assert not (tmp_path / "ran").exists()


class TestFastLane:
    @pytest.fixture
    def server(self, services: Services) -> Any:
        services.reconciler.stop()
        for name in ("sum", "other"):
            put_lane(services, name, Plain(verbs_schema(), lambda X: X.sum(axis=1)))
        with Server(services) as server:
            yield server

    def test_it_asks_the_same_door(self, server: Any, key: Callable[..., dict[str, str]], services: Services) -> None:
        with server.connect() as client:
            assert client.ask(ROW)[0] == 200, "open"
            app = key("predict", models=["sum"])
            status, headers, body = client.ask(ROW)
            assert (status, json.loads(body)["code"]) == (401, "unauthenticated"), "also on a head that was known"
            assert headers["www-authenticate"].startswith("Bearer")
            for _ in range(3):
                assert client.ask(ROW, headers=app)[0] == 200
            assert client.ask(ROW, "/v1/models/other/predict", headers=app)[0] == 403
            assert client.ask({"features": [1, 2], "label": 3}, "/v1/models/sum/feedback", headers=app)[0] == 403
            found = verbs.list_keys(services)
            verbs.revoke_key(services, found.keys[0].id)
            status, _, body = client.ask(ROW, headers=app)
            assert (status, json.loads(body)["code"]) == (401, "unauthenticated"), "at once, also on a known head"
        assert server.app_requests == 0

    def test_its_refusals_are_told(
        self, server: Any, key: Callable[..., dict[str, str]], caplog: pytest.LogCaptureFixture
    ) -> None:
        app = key("feedback")
        with server.connect() as client:
            for headers in ({}, {"authorization": "Bearer x"}, app):
                client.ask(ROW, headers=headers)
        assert server.app_requests == 0
        told = [record.getMessage() for record in caplog.records if record.name == "everloop.audit"]
        assert told[:2] == ["predict by nobody known from 127.0.0.1: refused, unauthenticated"] * 2
        assert told[2].startswith("predict by test (")
        assert told[2].endswith("from 127.0.0.1: refused, forbidden")

    def test_its_refusals_are_those_of_the_app(self, server: Any, key: Callable[..., dict[str, str]]) -> None:
        good, little = key("predict"), key("feedback")
        spent = key("predict", rate=0.001, burst=1)
        with server.connect() as client:
            assert client.ask(ROW, headers=spent)[0] == 200
            for headers in ({}, {"authorization": "Bearer x"}, little, spent, good):
                fast = client.ask(ROW, headers=headers)
                slow = client.ask(ROW, "/v1/models/sum/predict?", headers=headers)
                ignored = {"date", "server", "content-length"}
                assert fast[0] == slow[0]
                if fast[0] != 200:
                    assert fast[2] == slow[2]
                assert {k: v for k, v in fast[1].items() if k not in ignored} == {
                    k: v for k, v in slow[1].items() if k not in ignored
                }
        assert server.app_requests == 5

    def test_a_quota_counts_once_also_where_the_app_answers(
        self, server: Any, key: Callable[..., dict[str, str]]
    ) -> None:
        app = key("predict", rate=0.001, burst=3)
        with server.connect() as client:
            status, headers, _ = client.ask(ROW, "/v1/models/nothing/predict", headers=app)
            assert (status, headers["ratelimit"].split(";")[1]) == (404, "r=2"), "handed over, and not counted again"
            status, headers, _ = client.ask(ROW, headers=app)
            assert (status, headers["ratelimit"].split(";")[1]) == (200, "r=1")
            assert client.ask(ROW, headers=app)[0] == 200
            status, headers, _ = client.ask(ROW, headers=app)
            assert (status, headers["retry-after"]) == (429, "1000")

    def test_names_of_others_are_not_answered(self, server: Any, services: Services) -> None:
        services.front = Front(hosts=Hosts(["models.example.org", "*.internal"]))
        with server.connect() as client:
            for name in (
                "localhost",
                "127.0.0.1:3000",
                "[::1]:3000",
                "models.example.org",
                "a.internal:80",
                "MODELS.example.org.",
            ):
                assert client.ask(ROW, headers={"Host": name})[0] == 200, name
            for name in (
                "attacker.example",
                "models.example.org.attacker.example",
                "127.0.0.1.attacker.example",
                "internal",
            ):
                status, _, body = client.ask(ROW, headers={"Host": name})
                assert (status, json.loads(body)["code"]) == (421, "unknown_host"), name


def verbs_schema() -> Any:
    from everloop.core.schema import Schema

    return Schema.unnamed(2)


class TestBrowsers:
    def test_pages_of_named_origins_may_call(
        self, client: TestClient, services: Services, key: Callable[..., Any]
    ) -> None:
        services.front = Front(cors_origins=("https://app.example",))
        origin = {"origin": "https://app.example", "sec-fetch-site": "cross-site"}
        asked = client.options(
            "/v1/models/m/predict",
            headers={
                **origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization",
            },
        )
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == "https://app.example"
        assert "authorization" in asked.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in asked.headers
        answer = client.post("/v1/models", json={"name": "m", "kind": "linear"}, headers=origin)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, "https://app.example")
        assert "origin" in answer.headers["vary"].lower()
        key("admin")
        refused = client.post("/v1/models", json={"name": "n", "kind": "linear"}, headers=origin)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")

    def test_pages_of_others_may_not(self, client: TestClient, services: Services) -> None:
        for origins in ((), ("https://app.example",)):
            services.front = Front(cors_origins=origins)
            for origin in ("https://evil.example", "https://app.example.evil", "null", "http://app.example"):
                headers = {"origin": origin, "sec-fetch-site": "cross-site"}
                asked = client.options("/v1/models", headers={**headers, "access-control-request-method": "POST"})
                assert "access-control-allow-origin" not in asked.headers
                refused = client.post("/v1/models", json={"name": "m", "kind": "linear"}, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")

    def test_every_answer_says_that_it_is_what_it_says(self, client: TestClient) -> None:
        for path in ("/v1/models", "/nothing", "/docs", "/v2/health/live"):
            assert client.get(path).headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in client.get("/docs").headers["content-security-policy"]


def test_keys_are_watched_on_a_thread_for_as_long_as_it_is_asked(
    store: Any, ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everloop.api.door.LOOK_SECONDS", 0.01)
    door = Door(store)
    seen = threading.Event()
    refresh = door.refresh

    def noticed() -> None:
        refresh()
        seen.set()

    monkeypatch.setattr(door, "refresh", noticed)
    with door.watching():
        made = ring.create(KeySpec("app"))
        assert seen.wait(20)
        door.allow(door.enter(bearer(made)), "key")
    assert list(store.key_uses()) == [made.id], "told when it ends"


def test_a_name_of_nothing_or_of_too_much_is_refused(ring: Keyring) -> None:
    for spec in (
        KeySpec(""),
        KeySpec("x" * 101),
        KeySpec("a", []),
        KeySpec("a", models=[]),
        KeySpec("a", expires_sec=0.0),
    ):
        with pytest.raises(InvalidInput):
            ring.create(spec)
