"""The cache as a server has it: hits over HTTP are predictions like any other, it is seen, cleared and told of; a Redis that is gone
costs nobody an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.api.test_fastlane import Server
from tests.app.test_cli_serve import onnx_model
from tests.redis_server import Server as Redis

from everloop.api import caching
from everloop.api.health import health
from everloop.api.services import Services
from everloop.app.build import Engine, build_engine
from everloop.app.settings import EngineSettings
from everloop.core.errors import InvalidInput
from everloop.registry.clearing import clear_answers
from everloop.serving.cache_config import CacheConfig

if TYPE_CHECKING:
    from starlette.testclient import TestClient

ROW = {"features": [3.0]}


@pytest.fixture
def cached(client: TestClient, trained: Callable[..., str]) -> str:
    name = trained("line", 2.0)
    assert client.patch(f"/v1/models/{name}", json={"serving": {"cache": True, "cache_ttl_sec": 60}}).status_code == 200
    return name


def predict(client: TestClient, name: str = "line") -> dict[str, Any]:
    answer = client.post(f"/v1/models/{name}/predict", json=ROW)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counts(client: TestClient, name: str = "line") -> tuple[int, ...]:
    (model,) = (each for each in client.get("/v1/cache").json()["models"] if each["model"] == name)
    return tuple(model[each] for each in ("hits", "shared", "joined", "misses"))


def test_a_label_names_an_answer_that_was_remembered(client: TestClient, cached: str, services: Services) -> None:
    answers = [predict(client) for _ in range(3)]
    assert len({answer["prediction"] for answer in answers}) == 1
    assert counts(client) == (2, 0, 0, 1)
    for answer in answers:
        label = {"request_id": answer["request_id"], "label": 7.0}
        assert client.post("/v1/models/line/feedback", json=label).status_code == 202
    examples = services.journal.examples("line", latest=True, limit=3)
    assert [(example.row, example.prediction, example.label) for example in examples] == [
        ([3.0], answers[0]["prediction"], 7.0)
    ] * 3


def test_the_fast_lane_and_tensors_hit_as_well(client: TestClient, cached: str, services: Services) -> None:
    body = {"inputs": [{"name": "features", "datatype": "FP64", "shape": [2, 1], "data": [1.0, 2.0]}]}
    with Server(services) as server, server.connect() as connection:
        path = "/v1/models/line/predict"
        ids = {connection.ask(ROW, path)[2] for _ in range(4)}
        assert len(ids) == 4
        before = counts(client)
        assert before == (3, 0, 0, 1)
        infer = "/v2/models/line/infer"
        first = connection.ask(body, infer)
        again = connection.ask(body, infer)
        assert first[0] == again[0] == 200, first
        assert first[2].partition(b'"outputs"')[2] == again[2].partition(b'"outputs"')[2]
        assert counts(client) == (4, 0, 0, 2)
        refused = [connection.ask({"features": ["x"]}, path)[0] for _ in range(2)]
        assert refused == [422, 422]
    assert counts(client) == (4, 0, 0, 2)


def test_it_is_shown_and_measured(client: TestClient, cached: str, trained: Callable[..., str]) -> None:
    trained("other")
    predict(client)
    predict(client)
    found = client.get("/v1/cache").json()
    assert [model["model"] for model in found["models"]] == ["line"]
    assert (
        found["models"][0] | {"on": True, "ttl_sec": 60.0, "versions": [{"version": 1, "entries": 1}]}
        == found["models"][0]
    )
    assert (found["entries"], found["capacity"], found["shared"]) == (1, 64 << 20, None)
    assert 0 < found["bytes"] < 1000
    text = client.get("/metrics", headers={"accept": "text/plain"}).text
    assert 'everloop_cache_requests_total{model="line",result="hit"} 1.0' in text
    assert 'everloop_cache_requests_total{model="line",result="miss"} 1.0' in text
    assert "everloop_cache_entries 1.0" in text
    assert 'model="other",result=' not in text
    assert client.get("/health").json()["components"]["cache"] == {"status": "ok", "detail": "in this process only"}
    model = client.get("/v1/models/line").json()
    assert model["serving"] == {"cache": True, "cache_ttl_sec": 60.0}


def test_it_is_cleared_by_model_version_and_pattern(client: TestClient, cached: str, services: Services) -> None:
    def clear(**asked: Any) -> tuple[int, Any]:
        answer = client.post("/v1/cache/clear", json=asked)
        return answer.status_code, answer.json()

    for asked in ({"model": "line"}, {"model": "line", "version": 1}, {"model": "l?n*"}, {"model": "*", "version": 1}):
        before = counts(client)[3]
        predict(client)
        predict(client)
        assert clear(**asked) == (200, {"models": ["line"], "entries": 1, "shared": 0})
        assert counts(client)[3] == before + 1
    before = counts(client)[3]
    predict(client)
    assert clear(model="line", version=1)[1]["entries"] == 1
    assert clear(model="z*") == (200, {"models": [], "entries": 0, "shared": 0})
    assert clear(model="lime")[0] == 404
    assert clear(model="line", version=7)[0] == 404
    assert clear(model="line", version=0)[0] == 422
    assert clear(mdel="line")[0] == 422
    told = [
        event
        for event in client.get("/v1/models/line/timeline?latest=true").json()["events"]
        if event["kind"] == "cleared"
    ]
    assert [event["version"] for event in told] == [None, 1, None, 1, 1]
    # Another process that serves the same model sees it in the registry.
    predict(client)
    clear_answers(services.registry, "line")
    services.reconciler.step()
    before = counts(client)[3]
    predict(client)
    assert counts(client)[3] == before + 1


@pytest.fixture
def start(redis_server: Redis, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Each is a process of its own, as far as it knows."""
    engines: list[Engine] = []
    onnx_model(tmp_path / "line.onnx", 2.0)

    def one() -> Engine:
        engine = build_engine(EngineSettings(cache=CacheConfig(redis_url=redis_server.url, redis_timeout_ms=20_000)))
        engines.append(engine)
        engine.start(learning=False)
        engine.register("line", tmp_path / "line.onnx", serving={"cache": True})
        return engine

    yield one
    for engine in engines:
        engine.stop()


def soon(what: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(4000):
        if what():
            return
        pause.wait(0.005)
    raise AssertionError("it did not come about")


def test_processes_share_answers_until_their_redis_is_gone(start: Callable[[], Engine], redis_server: Redis) -> None:
    one, two = start(), start()

    def ask(engine: Engine, value: float) -> float:
        return float(engine.services.predictor.predict("line", [value, 0.0]).prediction)

    def told(engine: Engine) -> dict[str, int]:
        return engine.services.cache.counts()["line"]

    assert ask(one, 3.0) == pytest.approx(6.0, rel=1e-4)
    with redis_server.client() as client:
        soon(lambda: bool(client.keys("everloop:answers:line:1:*")))
    assert ask(two, 3.0) == ask(one, 3.0)
    assert told(two) == {"hits": 0, "shared": 1, "joined": 0, "misses": 0}
    assert health(two.services).components["cache"].status == "ok"

    cleared = caching.clear(one.services, caching.ClearCache("line"), by="test")
    assert (cleared.entries, cleared.shared) == (1, 1)

    redis_server.stop()
    assert ask(two, 4.0) == pytest.approx(8.0, rel=1e-4)
    assert ask(two, 4.0) == ask(two, 4.0)
    found = health(two.services)
    assert found.status == "degraded"
    assert "in this process only, not in unix://" in (found.components["cache"].detail or "")
    assert caching.show(two.services).shared.trouble  # type: ignore[union-attr]
    assert caching.clear(two.services, caching.ClearCache("line"), by="test").shared is None
    redis_server.start()
    soon(lambda: health(two.services).components["cache"].status == "ok")
    assert ask(two, 5.0) == pytest.approx(10.0, rel=1e-4)


def test_its_url_is_a_secret(tmp_path: Path) -> None:
    from everloop.app.settings import load_settings

    with pytest.raises(InvalidInput, match="redis_url") as refused:
        load_settings(environ={"EVERLOOP_CACHE_REDIS_URL": "http://:hush@host"}, cwd=tmp_path)
    assert "hush" not in str(refused.value)
    settings = load_settings(environ={"EVERLOOP_CACHE_REDIS_URL": "redis://:hush@host"}, cwd=tmp_path)
    assert "hush" not in repr(settings)
    assert settings.engine.cache.redis_url == "redis://:hush@host"
