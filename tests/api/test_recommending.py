"""Recommendations over HTTP by the built-in shop: the route, feedback to what was recommended, the next version."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from everloop.api.files import accept
from everloop.api.services import Services
from everloop.runtime.artifact import Trust, read_model_file
from everloop.showcase.builtin import builtin_path


@pytest.fixture
def shop(services: Services, client: TestClient) -> TestClient:
    trust = Trust()
    manifest, payload = read_model_file(builtin_path("shop"), trust=trust)
    accept(services, "recommender", manifest, payload, trust=trust, live=True, by="test")
    services.reconciler.step()
    return client


def ask(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/predict/recommend", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def items(answer: dict[str, Any]) -> list[str]:
    return [each["item_id"] for each in answer["recommendations"]]


def test_the_route(shop: TestClient) -> None:
    found = ask(shop, user_id="user123", context={"category": "tech"}, limit=10)
    assert found["model"] == "recommender-v1"
    assert len(found["recommendations"]) == 10
    assert found["recommendations"][0]["reason"].startswith("because you liked")
    assert items(ask(shop, user_id=123))
    assert items(ask(shop, item_id="item45", limit=3))
    assert items(ask(shop, user_id="nobody", history=["item45"], limit=5)) != items(
        ask(shop, user_id="nobody", limit=5)
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user_id": "u", "context": {"categry": "tech"}}, "context.categry"),
        ({"user_id": "u", "context": {"category": "tehc"}}, "context.category"),
        ({"user_id": "u", "limit": 0}, "limit"),
        ({"item_id": "none"}, "item_id"),
        ({"user_id": "u", "context": {"category": "ab" * 40_000}}, "context.category"),
        ({"user_id": "u", "context": {"category": ["tech"] * 101}}, "context"),
        ({"user_id": 10**300}, "user_id"),
    ],
)
def test_what_is_wrong_is_named(shop: TestClient, body: dict[str, Any], field: str) -> None:
    answer = shop.post("/api/predict/recommend", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field


def test_by_the_open_inference_protocol(shop: TestClient) -> None:
    query = {
        "name": "query",
        "datatype": "BYTES",
        "shape": [2],
        "data": ['{"user": "user1", "limit": 2}', '{"limit": 3}'],
    }
    answer = shop.post("/v2/models/recommender/infer", json={"inputs": [query]})
    assert answer.status_code == 200, answer.text
    found = [json.loads(text) for text in answer.json()["outputs"][0]["data"]]
    assert [len(each) for each in found] == [2, 3]


def test_a_label_is_of_the_item_at_its_place(shop: TestClient, services: Services) -> None:
    found = ask(shop, user_id="user123", limit=4)
    label = {"request_id": found["request_id"], "index": 2, "label": 5}
    answer = shop.post("/v1/models/recommender/feedback", json=label)
    assert answer.status_code == 202, answer.text
    (example,) = services.journal.examples("recommender", after=0, limit=10)
    assert example.row == ["user123", items(found)[2]]
    assert (example.label, example.version) == (5.0, 1)
    beyond = shop.post("/v1/models/recommender/feedback", json={**label, "index": 4})
    assert beyond.status_code == 404, beyond.text


def test_feedback_makes_a_version_that_knows_the_newcomer(shop: TestClient) -> None:
    cold = ask(shop, user_id="newcomer")
    assert {each["reason"] for each in cold["recommendations"]} == {"popular"}
    liked = items(ask(shop, item_id="item45", limit=6))
    examples = [{"features": {"user": "newcomer", "item": item}, "label": 5} for item in liked]
    assert shop.post("/v1/models/recommender/feedback", json={"examples": examples}).status_code == 202
    trained = shop.post("/v1/models/recommender/train")
    assert trained.status_code == 200, trained.text
    warm = ask(shop, user_id="newcomer")
    assert warm["model"] == "recommender-v2"
    assert not set(items(warm)) & set(liked)
    assert np.mean([each["reason"].startswith("because") for each in warm["recommendations"]]) >= 0.5


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"features": {"user": "u", "item": "item3"}, "label": 1e308}, "label"),
        ({"features": {"user": "u", "item": "item3"}, "label": -1_000_001}, "label"),
        ({"features": {"user": "", "item": "item3"}, "label": 3}, "features.user"),
        ({"features": {"user": "u", "item": "i" * 257}, "label": 3}, "features.item"),
    ],
)
def test_what_would_teach_nothing_is_refused(shop: TestClient, body: dict[str, Any], field: str) -> None:
    answer = shop.post("/v1/models/recommender/feedback", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field


def test_a_rating_by_request_id_is_bounded_as_well(shop: TestClient) -> None:
    request_id = ask(shop, user_id="u", limit=1)["request_id"]
    answer = shop.post("/v1/models/recommender/feedback", json={"request_id": request_id, "label": 1e300})
    assert (answer.status_code, answer.json()["field"]) == (422, "label")
