"""Healthy means that all parts are, the learner included."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from everloop.api.services import Services
from everloop.core.errors import ArtifactCorrupt, StoreUnavailable
from everloop.learning.loop import LearningLoop

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def states(client: TestClient) -> tuple[int, int, str]:
    health = client.get("/health")
    return health.status_code, client.get("/v2/health/ready").status_code, health.json()["status"]


def test_the_seeds_form(client: TestClient, trained: Callable[..., str]) -> None:
    trained("sentiment")
    client.post("/v1/models", json={"name": "new", "kind": "linear"})
    found = client.get("/health").json()
    assert found["status"] == "healthy"
    assert found["models"] == {"sentiment": "ready", "new": "untrained"}
    assert 0 <= found["uptime"] < 60_000
    assert found["memory"]["heapUsed"].endswith(" MB")
    assert int(found["memory"]["heapTotal"].split()[0]) >= int(found["memory"]["heapUsed"].split()[0]) > 0
    assert states(client) == (200, 200, "healthy")
    assert client.get("/v2/health/ready").json() == {"ready": True, "live": True}


def test_a_server_with_a_dead_learner_is_not_healthy(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.learning = True
    services.loop.start()
    assert states(client) == (200, 200, "healthy")
    monkeypatch.setattr(LearningLoop, "alive", property(lambda _: False))
    assert states(client) == (503, 503, "unhealthy")
    assert "died" in client.get("/health").json()["components"]["learner"]["detail"]
    assert client.get("/v2/health/live").status_code == 200


def test_a_learner_that_was_never_started_is_not_healthy(client: TestClient, services: Services) -> None:
    services.learning = True
    assert states(client) == (503, 503, "unhealthy")
    services.learning = False
    assert client.get("/health").json()["components"]["learner"]["status"] == "off"


def test_a_reconciler_that_has_ended_is_not_healthy(client: TestClient, services: Services) -> None:
    services.reconciler.stop()
    assert states(client) == (503, 503, "unhealthy")


def test_a_journal_that_cannot_be_read_is_not_healthy(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(services.journal, "stats", broken)
    assert states(client) == (503, 503, "unhealthy")
    assert "disk is full" in client.get("/health").json()["components"]["journal"]["detail"]
    assert client.get("/metrics", headers={"accept": "text/plain"}).status_code == 200


def test_a_journal_that_cannot_commit_is_not_healthy_until_it_can(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = {"full": True}
    stats = services.journal.stats
    failure = {"failure": "the disk is full"}
    monkeypatch.setattr(
        services.journal, "stats", lambda: msgspec.structs.replace(stats(), **(failure if full["full"] else {}))
    )
    assert states(client) == (503, 503, "unhealthy")
    assert "the disk is full" in client.get("/health").json()["components"]["journal"]["detail"]
    full["full"] = False
    assert states(client) == (200, 200, "healthy")


def test_the_durable_journal_says_that_it_cannot_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from everloop.core.clock import SystemClock
    from everloop.core.events import Event
    from everloop.stores.sqlite.group import SqliteBackend
    from everloop.stores.sqlite.journal import SqliteJournal

    journal = SqliteJournal(tmp_path / "everloop.db", clock=SystemClock())

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteBackend, "commit", full)
        journal.log(Event("m", "fitted", 1.0))
        with pytest.raises(StoreUnavailable):
            journal.flush()
        assert "full" in journal.stats().failure
    journal.flush()
    assert journal.stats().failure == ""
    journal.close()


def test_starting_is_not_ready(client: TestClient, services: Services) -> None:
    services.starting = True
    assert states(client) == (200, 503, "starting")
    services.starting, services.preparing = False, True
    assert states(client) == (200, 503, "starting")
    services.preparing = False
    assert states(client) == (200, 200, "healthy")


def test_a_model_that_cannot_be_opened_has_failed_and_the_others_go_on(
    client: TestClient, trained: Callable[..., str], services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("well")

    def corrupt(_: object) -> None:
        raise ArtifactCorrupt("its bytes are damaged")

    monkeypatch.setattr(services.registry, "open_session", corrupt)
    client.post("/v1/models", json={"name": "ill", "kind": "linear"})
    examples = [{"features": [float(x)], "label": 2.0 * x} for x in range(40)]
    client.post("/v1/models/ill/feedback", json={"examples": examples})
    services.loop.settle()
    services.reconciler.step()
    found = client.get("/health").json()
    assert found["models"] == {"ill": "failed", "well": "ready"}
    assert found["components"]["reconciler"] == {
        "status": "degraded",
        "detail": "version 1 of model 'ill' cannot be opened: its bytes are damaged",
    }
    assert states(client) == (200, 200, "degraded")
    refused = client.post("/v1/models/ill/predict", json={"features": [1.0]})
    assert (refused.status_code, refused.json()["code"]) == (500, "artifact_corrupt")
    assert refused.json()["detail"] == "version 1 of model 'ill' cannot be opened: its bytes are damaged"
    assert client.post("/v1/models/well/predict", json={"features": [1.0]}).status_code == 200
