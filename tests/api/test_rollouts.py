"""Rollouts and splits over HTTP: started, looked at, acted on, refused in words, and idempotent where asking again is natural."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from everloop.api.override import OverrideKeys
from everloop.api.services import Services
from everloop.core.events import Event

if TYPE_CHECKING:
    from starlette.testclient import TestClient

Make = Callable[..., str]
SECONDS = 30.0
KEY = "a-key-of-sixteen-characters"
SLOW = {"seconds": 3600, "samples": 1000}


class Happened:
    """The events of the server; `wait` for the first of a kind."""

    def __init__(self, services: Services) -> None:
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self.undo = services.bus.subscribe(self._on_event)

    def _on_event(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def wait(self, kind: str) -> Event:
        def there() -> Event | None:
            return next((event for event in self._events if event.kind == kind), None)

        with self._changed:
            found = self._changed.wait_for(there, SECONDS)
        assert found is not None, f"no {kind} within {SECONDS} s; there were {[e.kind for e in self._events]}"
        return found


@pytest.fixture
def happened(services: Services) -> Iterator[Happened]:
    made = Happened(services)
    yield made
    made.undo()


@pytest.fixture
def two(client: TestClient, trained: Make, teach: Callable[..., None]) -> str:
    """A model with a live version 1 (y = 2 x) and a version 2 that waits (y = 2.01 x)."""
    name = trained(factor=2.0)
    teach(name, 2.01, 50)
    if client.get(f"/v1/models/{name}").json()["live_version"] == 2:
        client.post(f"/v1/models/{name}/rollback")
    return name


def code(got: Any) -> tuple[int, str, str | None]:
    return got.status_code, got.json().get("code"), got.json().get("field")


def start(client: TestClient, name: str, **spec: Any) -> Any:
    return client.post(f"/v1/models/{name}/rollout", json={"version": 2, **spec})


def act(client: TestClient, name: str, verb: str, **body: Any) -> Any:
    return client.post(f"/v1/models/{name}/rollout/{verb}", json=body)


def version_of(client: TestClient, name: str, unit: str = "", **headers: str) -> int:
    body = {"features": [1.0], **({"unit": unit} if unit else {})}
    got = client.post(f"/v1/models/{name}/predict", json=body, headers=headers)
    assert got.status_code == 200, got.text
    found: int = got.json()["model_version"]
    return found


# --- one rollout


def test_a_canary_starts_and_says_where_it_stands(client: TestClient, two: str) -> None:
    got = start(client, two, steps="10%,50%", **SLOW, note="spring data")
    assert got.status_code == 201, got.text
    assert got.headers["location"] == f"/v1/models/{two}/rollout"
    told = client.get(f"/v1/models/{two}/rollout").json()
    assert (told["id"], told["state"], told["champion"], told["challenger"]) == (1, "running", 1, 2)
    assert (told["step"], told["share"], told["verdict"]) == (0, 0.1, "continue")
    assert (told["by"], told["note"], told["revision"]) == ("http", "spring data", 1)
    assert [s["share"] for s in told["plan"]["steps"]] == [0.1, 0.5]
    assert "10 %" in told["summary"]
    assert told["evidence"]["champion"]["version"] == 1
    assert told["evidence"]["challenger"]["version"] == 2
    traffic = client.get(f"/v1/models/{two}/traffic").json()
    assert traffic == {"model": two, "weights": {"1": 0.9, "2": 0.1}, "live_version": 1, "shadow": None}
    shares = {v["version"]: v["share"] for v in client.get(f"/v1/models/{two}/versions").json()["versions"]}
    assert shares == {1: 0.9, 2: 0.1}
    aliases = client.get(f"/v1/models/{two}/aliases").json()["aliases"]
    assert aliases == {"champion": 1, "challenger": 2}
    units = {f"user {i}": version_of(client, two, f"user {i}") for i in range(100)}
    assert {1, 2} == set(units.values())
    assert {unit: version_of(client, two, unit) for unit in units} == units, "who meets whom stays"


def test_a_model_without_a_rollout_says_so(client: TestClient, trained: Make) -> None:
    name = trained()
    assert code(client.get(f"/v1/models/{name}/rollout"))[:2] == (404, "rollout_not_found")
    assert client.get(f"/v1/models/{name}/rollouts").json() == {"model": name, "rollouts": []}
    for verb in ("pause", "resume", "promote", "rollback", "stop"):
        assert code(act(client, name, verb))[:2] == (404, "rollout_not_found")
    assert code(client.get("/v1/models/nobody/rollout"))[:2] == (404, "model_not_found")


def test_asking_again_answers_with_what_is_there(client: TestClient, two: str) -> None:
    first = start(client, two, steps="10%", **SLOW)
    again = start(client, two, steps="10%", **SLOW)
    assert (first.status_code, again.status_code) == (201, 200)
    assert (again.json()["id"], again.json()["revision"]) == (1, 1)
    other = start(client, two, steps="20%", **SLOW)
    assert code(other)[:2] == (409, "conflict")
    assert "rollout 1" in other.json()["detail"]
    paused = [act(client, two, "pause", note="looking").json() for _ in range(2)]
    assert [(p["state"], p["revision"]) for p in paused] == [("paused", 2)] * 2
    assert [act(client, two, "resume").json()["state"] for _ in range(2)] == ["running"] * 2
    ended = [act(client, two, "rollback", note="enough").json() for _ in range(2)]
    assert [(e["state"], e["reason"]) for e in ended] == [("rolled_back", "enough")] * 2
    assert code(act(client, two, "promote"))[:2] == (409, "conflict")


def test_a_revision_is_compared_and_set(client: TestClient, two: str) -> None:
    revision = start(client, two, **SLOW).json()["revision"]
    assert act(client, two, "pause", revision=revision).status_code == 200
    late = act(client, two, "promote", revision=revision)
    assert code(late) == (409, "conflict", "revision")
    assert client.get(f"/v1/models/{two}/rollout").json()["state"] == "paused"
    assert act(client, two, "promote", revision=revision + 1).json()["state"] == "promoted"


@pytest.mark.parametrize(
    ("verb", "state", "live", "status"),
    [
        ("promote", "promoted", 2, "live"),
        ("rollback", "rolled_back", 1, "rejected"),
        ("stop", "inconclusive", 1, "staging"),
    ],
)
def test_a_rollout_is_ended_by_hand(
    client: TestClient, two: str, verb: str, state: str, live: int, status: str
) -> None:
    start(client, two, steps="50%", **SLOW)
    assert act(client, two, verb, note="by hand").json()["state"] == state
    assert {version_of(client, two) for _ in range(20)} == {live}
    assert client.get(f"/v1/models/{two}/versions/2").json()["status"] == status
    history = client.get(f"/v1/models/{two}/rollouts").json()["rollouts"]
    assert [(r["id"], r["state"], r["evidence"]) for r in history] == [(1, state, None)]
    kinds = [e["kind"] for e in client.get(f"/v1/models/{two}/timeline?limit=20&latest=true").json()["events"]]
    assert {"rollout_started", "rollout_ended"} <= set(kinds)


def test_the_versions_own_verbs_know_the_rollout(client: TestClient, two: str) -> None:
    start(client, two, steps="50%", **SLOW)
    split = client.put(f"/v1/models/{two}/traffic", json={"weights": {"1": 1.0}})
    assert code(split)[:2] == (409, "conflict")
    assert code(client.post(f"/v1/models/{two}/archive", json={"version": 2}))[:2] == (409, "conflict")
    assert client.post(f"/v1/models/{two}/promote", json={"version": "challenger"}).json()["serving"]
    assert client.get(f"/v1/models/{two}/rollout").json()["state"] == "promoted"
    assert client.post(f"/v1/models/{two}/rollback").json()["version"] == 1


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"strategy": "canry"}, "strategy"),
        ({"steps": [0.5, 0.1]}, "steps[1].share"),
        ({"steps": [{"share": 0.1, "sample": 3}]}, "steps[0].sample"),
        ({"steps": "a lot"}, "steps[0]"),
        ({"steps": [[[1]]]}, "steps[0]"),
        ({"seconds": -1}, "seconds"),
        ({"samples": 1.5}, "samples"),
        ({"gates": {"level": 2}}, "gates.level"),
        ({"gates": {"lvl": 0.05}}, "gates.lvl"),
        ({"at_end": "explode"}, "at_end"),
        ({"strategy": "shadow", "steps": "5%"}, "steps"),
        ({"share": 0.5}, "share"),
        ({"strategy": "ab", "share": "150%"}, "steps[0].share"),
        ({"max_seconds": 1}, "max_seconds"),
        ({"note": "x" * 1001}, "note"),
        ({"colour": "red"}, "body"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_naming_the_field(
    client: TestClient, two: str, spec: dict[str, Any], field: str
) -> None:
    got = start(client, two, **spec)
    assert code(got) == (422, "invalid_input", field), got.text
    assert code(client.get(f"/v1/models/{two}/rollout"))[:2] == (404, "rollout_not_found")


def test_what_cannot_be_rolled_out_is_refused(client: TestClient, two: str) -> None:
    assert code(start(client, two, version=1))[:2] == (409, "conflict")
    assert code(start(client, two, version="nobody"))[:2] == (404, "version_not_found")
    client.post("/v1/models", json={"name": "new", "kind": "linear"})
    assert code(start(client, "new"))[:2] == (404, "version_not_found")


# --- evidence


def test_a_good_canary_reaches_everybody_and_a_forced_answer_does_not_count(
    client: TestClient, two: str, services: Services, happened: Happened
) -> None:
    services.override_keys = OverrideKeys([KEY])
    gates = {"latency": False}
    got = start(client, two, steps=[0.5], seconds=0, samples=20, gates=gates)
    assert got.status_code == 201, got.text
    chosen = {"Everloop-Version": "challenger", "Everloop-Key": KEY}
    assert {version_of(client, two, **chosen) for _ in range(60)} == {2}
    assert client.get(f"/v1/models/{two}/rollout").json()["evidence"]["step"]["samples"] == 0
    versions = [version_of(client, two) for _ in range(80)]
    assert set(versions) == {1, 2}
    happened.wait("rollout_ended")
    told = client.get(f"/v1/models/{two}/rollout").json()
    assert (told["state"], told["verdict"]) == ("promoted", "promote"), told
    # what came after its end is nobody's evidence, and the forced answers never were
    assert 20 <= told["evidence"]["challenger"]["requests"] <= versions.count(2)
    assert told["evidence"]["champion"]["failed"] == 0
    assert {g["gate"] for g in told["evidence"]["gates"]} == {"errors", "quality"}
    assert services.reconciler.wait_for(two, 2, SECONDS)
    assert {version_of(client, two) for _ in range(20)} == {2}


def test_the_split_is_told_beside_the_gates(client: TestClient, two: str) -> None:
    assert start(client, two, steps=[0.25], seconds=3600).status_code == 201
    split = client.get(f"/v1/models/{two}/rollout").json()["evidence"]["split"]
    assert (split["share"], split["broken"]) == (0.25, False)
    assert start(client, two, steps=[0.25]).status_code == 409
    assert client.post(f"/v1/models/{two}/rollout/rollback", json={}).status_code == 200
    assert client.get(f"/v1/models/{two}/rollout").json()["evidence"]["split"] is None


def test_an_immediate_rollout_is_over_at_once(client: TestClient, two: str) -> None:
    got = start(client, two, strategy="immediate", note="small fix")
    assert (got.status_code, got.json()["state"]) == (201, "promoted")
    assert version_of(client, two) == 2


# --- by hand


def test_traffic_is_split_by_hand(client: TestClient, two: str) -> None:
    at = f"/v1/models/{two}/traffic"
    assert client.get(at).json()["weights"] == {"1": 1.0}
    told = client.put(at, json={"weights": {"champion": 0.7, "2": 0.3}, "note": "to see"}).json()
    assert told == {"model": two, "weights": {"1": 0.7, "2": 0.3}, "live_version": 1, "shadow": None}
    assert client.put(at, json={"weights": {"champion": 0.7, "2": 0.3}}).status_code == 200
    assert {version_of(client, two) for _ in range(100)} == {1, 2}
    assert code(start(client, two))[:2] == (409, "conflict")
    back = client.put(at, json={"weights": {"1": 1, "2": 0}}).json()
    assert back["weights"] == {"1": 1.0}
    assert {version_of(client, two) for _ in range(30)} == {1}


@pytest.mark.parametrize(
    "body",
    [
        {"weights": {"1": 0.5}},
        {"weights": {"1": 0.6, "2": 0.6}},
        {"weights": {"1": -1, "2": 2}},
        {"weights": {"1": 0.5, "champion": 0.5}},
        {"weights": {}},
        {"weights": {"1": "all"}},
        {"weights": {"1": 0.5, "2": 0.5}, "shadow": 2},
        {},
    ],
)
def test_a_split_that_cannot_be_is_refused(client: TestClient, two: str, body: dict[str, Any]) -> None:
    got = client.put(f"/v1/models/{two}/traffic", json=body)
    assert code(got)[:2] == (422, "invalid_input"), got.text
    assert client.get(f"/v1/models/{two}/traffic").json()["weights"] == {"1": 1.0}


def test_a_split_names_versions_that_are_there(client: TestClient, two: str) -> None:
    got = client.put(f"/v1/models/{two}/traffic", json={"weights": {"1": 0.5, "9": 0.5}})
    assert code(got)[:2] == (404, "version_not_found")


def test_prometheus_tells_shares_steps_and_ends(client: TestClient, two: str) -> None:
    def metrics() -> dict[str, float]:
        text = client.get("/metrics", headers={"accept": "text/plain"}).text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    challenger = f'{{model="{two}",version="2"}}'
    start(client, two, steps="10%,50%", **SLOW)
    now = metrics()
    assert now[f"everloop_traffic_share{challenger}"] == 0.1
    assert now[f"everloop_rollout_running{challenger}"] == 1
    assert now[f"everloop_rollout_step{challenger}"] == 1
    assert now[f'everloop_rollouts_total{{model="{two}",outcome="promoted"}}'] == 0
    act(client, two, "pause")
    assert metrics()[f"everloop_rollout_running{challenger}"] == 0
    act(client, two, "promote")
    now = metrics()
    assert now[f"everloop_traffic_share{challenger}"] == 1
    assert now[f'everloop_rollouts_total{{model="{two}",outcome="promoted"}}'] == 1
    assert not any(name.startswith("everloop_rollout_running") for name in now)
