"""Asking for a faster form over HTTP, and what is told of it there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from everloop.api.services import Services
from everloop.optimization.background import LEASE


@pytest.fixture
def forest(services: Services) -> str:
    """Live, and asked for sixty different rows. Another process has the lease: whoever asks waits for its turn."""
    X = np.random.default_rng(0).normal(size=(60, 3))
    from everloop.learning.learners.make import make_learner
    from everloop.runtime.artifact import Trust

    learner = make_learner(RandomForestClassifier(2).fit(X, X[:, 0] > 0), None, trust=Trust(pickle=True))
    manifest, payload = learner.freeze()
    services.registry.register(
        "m", "artifact", task=manifest.task, schema=manifest.schema, target=manifest.target, record=1.0
    )
    services.registry.add_version("m", manifest, payload, live=True)
    services.reconciler.step()
    assert services.reconciler.wait_for("m", 1, 30.0)
    assert services.journal.acquire_lease(LEASE, "another", now=services.clock.now(), ttl=1e6)
    for row in X.tolist():
        services.predictor.predict("m", row)
    services.recorder.drain()
    return "m"


def test_whoever_asks_is_told_where_it_stands(client: Any, forest: str, services: Services) -> None:
    answer = client.post(f"/v1/models/{forest}/optimize", json={"int8": True})
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "waiting"
    services.optimizer.step()
    told: dict[str, Any] = client.get(f"/v1/models/{forest}").json()["optimization"]
    assert (told["state"], told["version"], told["since"]) == ("waiting", 1, None)
    assert "another one" in told["reason"]
    assert client.post(f"/v1/models/{forest}/optimize").status_code == 202, "a body is not needed"


def test_what_cannot_be_made_faster_is_refused_in_words(client: Any, trained: Any) -> None:
    answer = client.post(f"/v1/models/{trained()}/optimize")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert "compiled already" in answer.json()["detail"]
    assert client.post("/v1/models/nobody/optimize").status_code == 404
    assert client.post("/v1/models/m/optimize", json={"int4": True}).status_code in (400, 422)


def test_health_and_metrics_know_the_optimiser(client: Any, services: Services, trained: Any) -> None:
    trained()
    assert client.get("/health").json()["components"]["optimizer"]["status"] == "ok"
    assert (
        'everloop_optimizations_total{model="m",outcome="optimized"} 0.0'
        in client.get("/metrics", headers={"accept": "text/plain"}).text
    )


def test_a_model_may_say_for_itself(client: Any, trained: Any) -> None:
    name = trained()
    changed = client.patch(f"/v1/models/{name}", json={"serving": {"optimize": "int8"}})
    assert changed.json()["serving"] == {"optimize": "int8"}
    wrong = client.patch(f"/v1/models/{name}", json={"serving": {"optimize": "fast"}})
    assert "'auto', 'off', 'float' or 'int8'" in wrong.json()["detail"]
