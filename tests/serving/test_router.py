"""`ModelRouter`: the registry's split by unit, and what came of the requests that were counted."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from everloop.core.errors import (
    Conflict,
    InvalidInput,
    ModelNotFound,
    ModelUntrained,
    StoreUnavailable,
    VersionNotFound,
)
from everloop.policy.rollout import Plan, Step
from everloop.policy.routing import bucket_of
from everloop.registry import ModelRegistry
from everloop.registry.rollouts import Rollouts
from everloop.serving import ModelRouter
from everloop.serving.router import LOOK_AGAIN
from everloop.testing import ManualClock

X = np.random.default_rng(1).normal(size=(10, 2))
UNITS = [f"user-{i}" for i in range(4000)]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ModelRegistry]:
    with ModelRegistry(tmp_path / "models") as made:
        for slope in (1.0, 2.0, 3.0):
            made.register(LinearRegression().fit(X, slope * X[:, 0]), name="m", version=f"v{slope}")
        yield made


async def routed(router: ModelRouter, units: list[str] = UNITS) -> dict[str, str]:
    return {unit: (await router.route_request("m", unit)).version for unit in units}


def test_a_split_is_kept_and_grows_by_as_few_as_it_must(registry: ModelRegistry, tmp_path: Path) -> None:
    async def story() -> None:
        router = ModelRouter(registry)
        await router.set_traffic_split("m", {"v1.0": 0.8, "v2.0": 0.2, "v3.0": 0})
        first = await routed(router)
        share = Counter(first.values())
        assert share["v2.0"] == pytest.approx(800, abs=3 * (4000 * 0.2 * 0.8) ** 0.5)
        assert set(share) == {"v1.0", "v2.0"}, "weight 0 gets nothing"
        assert await routed(router) == first
        await router.set_traffic_split("m", {"m@1": 0.5, 2: 0.5}, shadow_version="v3.0")
        second = await routed(router)
        assert all(second[unit] == "v2.0" for unit in UNITS if first[unit] == "v2.0"), "growing moves nobody out"
        with ModelRegistry(tmp_path / "models") as other:
            assert await routed(ModelRouter(other.registry)) == second, "durable, and the same everywhere"
            assert other.get("m@3").shadow
        model = await router.route_request("m", "user-1")
        slope = float(model.version[1:])
        assert model.predict(X).tolist() == pytest.approx((slope * X[:, 0]).tolist())

    asyncio.run(story())


@pytest.mark.parametrize(
    ("weights", "shadow", "error", "told"),
    [
        ({"v1.0": 0.8, "v2.0": 0.1}, None, InvalidInput, "sum to 1"),
        ({"v1.0": 1.5, "v2.0": -0.5}, None, InvalidInput, "shares from 0 to 1"),
        ({}, None, InvalidInput, "sum to 1"),
        ({"v1.0": 0.5, "m@1": 0.5}, None, InvalidInput, "twice"),
        ({"v1.0": 0.5, "v9": 0.5}, None, VersionNotFound, "v9"),
        ({"v1.0": 0.5, "v2.0": 0.5}, "v2.0", InvalidInput, "shadow"),
    ],
)
def test_what_is_no_split_changes_nothing(
    registry: ModelRegistry, weights: dict[Any, float], shadow: str | None, error: type[Exception], told: str
) -> None:
    registry.promote_to_production("m@1")
    router = ModelRouter(registry)
    with pytest.raises(error, match=told):
        asyncio.run(router.set_traffic_split("m", weights, shadow))
    assert set(asyncio.run(routed(router, UNITS[:50])).values()) == {"v1.0"}


def test_models_that_cannot_be_routed(registry: ModelRegistry) -> None:
    router = ModelRouter(registry)
    with pytest.raises(ModelUntrained):
        asyncio.run(router.route_request("m", "r1"))
    with pytest.raises(ModelNotFound):
        asyncio.run(router.route_request("nobody", "r1"))


def test_a_rollout_decides_alone(registry: ModelRegistry) -> None:
    registry.promote_to_production("m@1")
    Rollouts(registry.registry).start("m", "v2.0", Plan("canary", (Step(0.25),)), by="test")
    router = ModelRouter(registry)
    assert set(asyncio.run(routed(router, UNITS[:100])).values()) == {"v1.0", "v2.0"}
    with pytest.raises(Conflict, match="rollout"):
        asyncio.run(router.set_traffic_split("m", {"v1.0": 1.0}))


def test_changes_of_others_are_noticed(registry: ModelRegistry) -> None:
    clock = ManualClock()
    router = ModelRouter(registry, clock=clock)
    registry.promote_to_production("m@1")

    def answering() -> str:
        return asyncio.run(router.route_request("m", "r1")).version

    assert answering() == "v1.0"
    registry.promote_to_production("m@2")
    assert answering() == "v1.0", "what was read lately is not read again for each request"
    clock.advance(LOOK_AGAIN)
    assert answering() == "v2.0"


def test_a_storage_that_is_away_stops_nobody(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, looks = ManualClock(), []

    def away() -> int:
        looks.append(1)
        raise StoreUnavailable("the server is gone")

    async def story() -> None:
        router = ModelRouter(registry, clock=clock)
        await router.set_traffic_split("m", {1: 0.5, 2: 0.5})
        before = await routed(router)
        monkeypatch.setattr(registry.registry, "revision", away)
        for _ in range(3):
            clock.advance(LOOK_AGAIN)
            assert await routed(router) == before
        assert len(looks) == 3, "not with every request"
        assert "stays as it was last seen" in caplog.text
        with pytest.raises(StoreUnavailable):
            await ModelRouter(registry).route_request("m", "user-1")
        monkeypatch.undo()
        await asyncio.to_thread(registry.registry.promote, "m", 3)
        clock.advance(LOOK_AGAIN)
        assert set((await routed(router)).values()) == {"v3.0"}

    asyncio.run(story())


def test_the_bucket_is_the_servers(registry: ModelRegistry) -> None:
    router = ModelRouter(registry)
    asyncio.run(router.set_traffic_split("m", {"v1.0": 0.5, "v2.0": 0.5}))
    allocation = registry.registry.get("m").allocation
    assert allocation is not None
    for unit, version in asyncio.run(routed(router, UNITS[:200])).items():
        assert registry.get(f"m@{allocation.version_of(bucket_of(allocation.salt, unit))}").version == version


def test_stats(registry: ModelRegistry) -> None:
    clock = ManualClock()
    router = ModelRouter(registry, clock=clock)
    nothing = {
        "request_count": 0,
        "avg_latency_ms": 0.0,
        "error_rate_pct": 0.0,
        "error_count": 0,
        "last_error": None,
        "uptime_seconds": 0.0,
    }
    assert router.get_version_stats("m", "v1.0") == nothing
    assert router.get_all_stats() == {}
    asyncio.run(router.set_traffic_split("m", {"v1.0": 1.0}))
    for latency in (10, 20.0, 60.0):
        router.record_request("m", "v1.0", latency)
    clock.advance(30)
    router.record_request("m", "m@1", 30.0, error=ValueError("bad row"))
    expected = {
        "request_count": 4,
        "avg_latency_ms": 30.0,
        "error_rate_pct": 25.0,
        "error_count": 1,
        "last_error": "ValueError: bad row",
        "uptime_seconds": 30.0,
    }
    assert router.get_version_stats("m", 1) == router.get_version_stats("m", "1") == expected
    router.record_request("m", "v2.0", 1.0, error="timeout")
    assert router.get_all_stats()["m"]["v1.0"] == expected
    assert router.get_all_stats()["m"]["v2.0"]["last_error"] == "timeout"
    router.reset_stats("m", "v1.0")
    assert router.get_version_stats("m", "v1.0") == nothing
    assert set(router.get_all_stats()["m"]) == {"v2.0"}
    router.reset_stats("m")
    assert router.get_all_stats() == {}
    router.record_request("m", "v2.0", 1.0)
    router.reset_stats()
    assert router.get_all_stats() == {}


def test_what_cannot_be_counted(registry: ModelRegistry) -> None:
    router = ModelRouter(registry)
    with pytest.raises(VersionNotFound):
        router.record_request("m", "v9", 1.0)
    with pytest.raises(ModelNotFound):
        router.get_version_stats("nobody", "v1.0")
    for latency in (-1.0, float("nan"), "fast", True):
        with pytest.raises(InvalidInput, match="latency_ms"):
            router.record_request("m", "v1.0", latency)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="name"):
        router.reset_stats(version="v1.0")
    assert router.get_all_stats() == {}


def test_when_to_roll_back(registry: ModelRegistry) -> None:
    router = ModelRouter(registry)
    for i in range(99):
        router.record_request("m", "v1.0", 1.0, error="no" if i < 50 else None)
    assert not router.should_rollback("m", "v1.0"), "too few requests"
    router.record_request("m", "v1.0", 1.0)
    assert router.should_rollback("m", "v1.0")
    assert not router.should_rollback("m", "v1.0", error_rate_threshold=50.0), "exactly at the threshold is not over it"
    assert not router.should_rollback("m", "v1.0", min_requests=101)
    assert not router.should_rollback("m", "v2.0")


def test_counting_from_many_threads_loses_nothing(registry: ModelRegistry) -> None:
    router = ModelRouter(registry)
    threads = [
        threading.Thread(target=lambda: [router.record_request("m", "v1.0", 1.0, error="x") for _ in range(300)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = router.get_version_stats("m", "v1.0")
    assert (stats["request_count"], stats["error_count"]) == (2400, 2400)
