"""A small server without sockets: the engine as the app builds it, in memory, whose learner is asked and not started."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest

from everloop.api.http.app import create_app
from everloop.api.http.limits import Limits
from everloop.api.services import Services
from everloop.app.build import build_engine
from everloop.app.settings import EngineSettings
from everloop.learning.config import LearningConfig

with (
    warnings.catch_warnings()
):  # Starlette would rather have httpx2, which is not more than httpx for what is done here
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

LIMITS = Limits(
    max_body=100_000, max_upload=200_000, max_rows=50, max_features=20, max_page=20, max_streams=3, stream_queue=4
)


@pytest.fixture
def services() -> Iterator[Services]:
    engine = build_engine(EngineSettings(learning=LearningConfig(min_samples=20, interval_sec=3600), limits=LIMITS))
    engine.start(learning=False)
    yield engine.services
    engine.stop()


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def teach(client: TestClient) -> Callable[..., None]:
    """Gives labels that say y = factor * x + 0.5, and trains on them."""

    def slope(name: str, factor: float, count: int = 40) -> None:
        examples = [{"features": [float(x)], "label": factor * x + 0.5} for x in range(count)]
        answer = client.post(f"/v1/models/{name}/feedback", json={"examples": examples})
        assert answer.status_code == 202, answer.text
        answer = client.post(f"/v1/models/{name}/train")
        assert answer.status_code == 200, answer.text

    return slope


@pytest.fixture
def trained(client: TestClient, teach: Callable[..., None]) -> Callable[..., str]:
    """Creates and trains a linear model; returns its name."""

    def make(name: str = "m", factor: float = 2.0) -> str:
        answer = client.post("/v1/models", json={"name": name, "kind": "linear"})
        assert answer.status_code == 201, answer.text
        teach(name, factor)
        return name

    return make
