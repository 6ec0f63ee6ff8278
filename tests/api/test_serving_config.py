"""How a model is served, said over HTTP and on the command line, and what it says of its batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from everloop.api.services import Services

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def test_a_change_is_in_force_when_it_is_answered(
    client: TestClient, trained: Callable[..., str], services: Services
) -> None:
    name = trained("line", 2.0)
    lane = services.table.current.lanes[name]
    answer = client.patch(f"/v1/models/{name}", json={"serving": {"max_batch_size": 8, "target_latency_ms": 50}})
    assert answer.status_code == 200
    told = answer.json()
    assert told["serving"] == {"max_batch_size": 8, "target_latency_ms": 50}
    assert (told["batching"]["max_rows"], told["batching"]["target_seconds"]) == (8, 0.05)
    assert services.table.current.lanes[name] is lane

    told = client.patch(f"/v1/models/{name}", json={"serving": {"max_batch_size": None, "window_ms": 1}}).json()
    assert told["serving"] == {"target_latency_ms": 50, "window_ms": 1}
    events = client.get(f"/v1/models/{name}/timeline?latest=true").json()["events"]
    assert [e["data"]["serving"] for e in events if e["kind"] == "configured"] == [
        answer.json()["serving"],
        told["serving"],
    ]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"max_batch_sise": 3}, "serving.max_batch_sise"),
        ({"max_batch_size": "many"}, "serving.max_batch_size"),
        ({"target_latency_ms": -1}, "serving.target_latency_ms"),
    ],
)
def test_nonsense_changes_nothing(
    client: TestClient, trained: Callable[..., str], said: dict[str, Any], field: str
) -> None:
    name = trained("line", 2.0)
    answer = client.patch(f"/v1/models/{name}", json={"serving": said})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert client.get(f"/v1/models/{name}").json()["serving"] == {}
    made = client.post("/v1/models", json={"name": "new", "kind": "linear", "serving": said})
    assert (made.status_code, made.json()["field"]) == (422, field)
    assert client.get("/v1/models/new").status_code == 404


def test_what_is_not_there_cannot_be_changed(client: TestClient) -> None:
    answer = client.patch("/v1/models/nobody", json={"serving": {}})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


def test_a_model_may_say_it_when_it_is_made_and_anew_when_it_is_made_again(client: TestClient) -> None:
    spec = {"name": "m", "kind": "linear"}
    assert client.post("/v1/models", json=spec | {"serving": {"max_queue": 9}}).json()["serving"] == {"max_queue": 9}
    again = client.post("/v1/models", json=spec)
    assert (again.status_code, again.json()["serving"]) == (200, {"max_queue": 9})
    assert client.post("/v1/models", json=spec | {"serving": {}}).json()["serving"] == {}


def test_batches_tell_why_they_left_and_what_they_cost(client: TestClient, trained: Callable[..., str]) -> None:
    name = trained("line", 2.0)
    for rows in (1, 5):
        answer = client.post(f"/v1/models/{name}/predict", json={"instances": [[1.0]] * rows})
        assert answer.status_code == 200
    found = client.get(f"/v1/models/{name}").json()["batching"]
    assert found["released"] == {"idle": 2}
    assert found["mean_rows"] == 3
    assert found["largest_rows"] == 5
    assert found["full_rows"] == found["max_rows"] == 256
    assert found["full_seconds"] >= found["cost_seconds"]["1"] > 0
    assert found["queued_seconds"] >= 0
    assert found["spread"] >= 0
