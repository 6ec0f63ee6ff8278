"""What the models that come with everloop may be taught: bounded by the rules by which they are asked."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from everloop.api.files import accept
from everloop.api.services import Services
from everloop.runtime.artifact import Trust, read_model_file
from everloop.showcase.builtin import builtin_path


def serve(services: Services, name: str, builtin: str) -> None:
    trust = Trust()
    manifest, payload = read_model_file(builtin_path(builtin), trust=trust)
    accept(services, name, manifest, payload, trust=trust, live=True, by="test")
    services.reconciler.step()


@pytest.mark.parametrize(
    ("features", "label", "field"),
    [
        ({"text": "fine"}, "", "label"),
        ({"text": "fine"}, "z" * 257, "label"),
        ({"text": ""}, "positive", "features.text"),
        ({"text": "a" * 10_001}, "positive", "features.text"),
        ({"text": "fine"}, "z" * 256, None),
        ({"text": "a" * 10_000}, "positive", None),
    ],
)
def test_texts(services: Services, client: TestClient, features: Any, label: str, field: str | None) -> None:
    serve(services, "sentiment", "sentiment")
    answer = client.post("/v1/models/sentiment/feedback", json={"features": features, "label": label})
    assert (answer.status_code, answer.json().get("field")) == ((202, None) if field is None else (422, field))


@pytest.mark.parametrize(
    ("image", "label", "field"),
    [
        ("R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs=", "cat", "label"),
        ("!!!!", "3", "features.image"),
        (None, "3", "features.image"),
        ("R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs=", "3", None),
    ],
)
def test_images(services: Services, client: TestClient, image: str | None, label: str, field: str | None) -> None:
    """This one learns no classes: a label that it cannot answer is a slip."""
    serve(services, "image", "digits")
    answer = client.post("/v1/models/image/feedback", json={"features": {"image": image}, "label": label})
    assert (answer.status_code, answer.json().get("field")) == ((202, None) if field is None else (422, field))
    if label == "cat":
        assert "there are 0, 1, 2" in answer.json()["detail"]
