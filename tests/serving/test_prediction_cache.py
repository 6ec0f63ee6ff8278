"""`PredictionCache`, in process and over a real Redis: the seed's calls, keys that no two inputs share, a server that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.redis_server import Server

from everloop.core.errors import InvalidInput
from everloop.serving import PredictionCache
from everloop.stores.redis import get_redis

Use = Callable[[PredictionCache], Awaitable[None]]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=["process", "redis"])
def run(request: pytest.FixtureRequest) -> Callable[[Use], None]:
    """Run a coroutine with a cache."""
    server: Server | None = request.getfixturevalue("redis_server") if request.param == "redis" else None

    async def with_one(use: Use) -> None:
        if server is None:
            await use(PredictionCache())
            return
        redis = await get_redis(server.url)
        try:
            await use(PredictionCache(redis))
        finally:
            await redis.aclose()

    return lambda use: asyncio.run(with_one(use))


def test_the_seeds_calls(run: Callable[[Use], None]) -> None:
    async def use(cache: PredictionCache) -> None:
        key = cache.generate_cache_key(ticker="AAPL", horizon=5, features=[[65.0, 0.5]], model_id="v1")
        assert await cache.get_cached_prediction(key) is None
        await cache.cache_prediction(key, {"prediction": 150.5, "confidence": 0.85}, ttl=600)
        assert await cache.get_cached_prediction(key) == {"prediction": 150.5, "confidence": 0.85}
        assert cache.get_hit_rate() == 0.5
        assert cache.get_stats() == {
            "hits": 1,
            "misses": 1,
            "total_requests": 2,
            "hit_rate_pct": 50.0,
            "default_ttl": 300,
        }
        cache.reset_stats()
        assert cache.get_stats()["total_requests"] == 0
        assert cache.get_hit_rate() == 0.0
        assert await cache.invalidate(key)
        assert not await cache.invalidate(key)
        assert await cache.get_cached_prediction(key) is None

    run(use)


def test_patterns_name_keys_with_or_without_the_prefix(run: Callable[[Use], None]) -> None:
    async def use(cache: PredictionCache) -> None:
        for ticker in ("AAPL", "AAPB", "MSFT"):
            for horizon in (1, 5):
                await cache.cache_prediction(cache.generate_cache_key(ticker, horizon), 1.0)
        assert await cache.invalidate_pattern("AAPL:*") == 2
        assert await cache.invalidate_pattern("pred:AAP?:5:*") == 1
        assert await cache.clear_all() == 3
        assert await cache.clear_all() == 0

    run(use)


def test_what_is_not_its_own_is_left_alone(redis_server: Server) -> None:
    async def use() -> None:
        redis = await get_redis(redis_server.url)
        try:
            cache, other = PredictionCache(redis, key_prefix="a[1]*:"), PredictionCache(redis, key_prefix="a1x:")
            for one in (cache, other):
                await one.cache_prediction(one.generate_cache_key("T", 1), 1)
            assert await cache.clear_all() == 1
            assert await other.get_cached_prediction(other.generate_cache_key("T", 1)) == 1
            await redis.set("a1x:T", b"\xff not json")
            assert await other.get_cached_prediction("a1x:T") is None
            await other.cache_prediction("a1x:short", 1, ttl=0.5)
            assert 0 < await redis.pttl("a1x:short") <= 500
        finally:
            await redis.aclose()

    asyncio.run(use())


def test_a_server_that_goes_away_and_comes_back(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("everloop.serving.prediction_cache.time.monotonic", lambda: now)

    async def use() -> None:
        nonlocal now
        redis = await get_redis(redis_server.url)
        try:
            cache = PredictionCache(redis)
            await cache.cache_prediction("pred:a", 1)
            redis_server.stop()
            assert await cache.get_cached_prediction("pred:a") is None
            assert cache.trouble
            assert await cache.cache_prediction("pred:a", 2)
            assert await cache.get_cached_prediction("pred:a") == 2  # this process remembers for itself
            redis_server.start()
            now = 100.0
            assert await cache.get_cached_prediction("pred:a") is None  # the server is back, and empty
            assert cache.trouble == ""
            await cache.cache_prediction("pred:a", 3)
            redis_server.stop()
            assert await cache.get_cached_prediction("pred:a") is None  # not what was true before
        finally:
            await redis.aclose()

    asyncio.run(use())


@given(one=VALUES, other=VALUES)
def test_two_inputs_share_a_key_only_if_they_are_equal(one: Any, other: Any) -> None:
    cache = PredictionCache()
    same = repr(one) == repr(other)
    keys = cache.generate_cache_key("T", 1, one), cache.generate_cache_key("T", 1, other)
    if same:
        assert keys[0] == keys[1]
    elif keys[0] == keys[1]:
        assert one == other, "only the order of a mapping's names does not count"


def test_every_row_counts() -> None:
    cache = PredictionCache()
    base = np.zeros((100, 3))
    last = base.copy()
    last[99, 2] = 1.0
    signed = base.copy()
    signed[50, 1] = -0.0
    frames = [pd.DataFrame(a, columns=list("abc")) for a in (base, last, signed, base[:99])]
    frames.append(pd.DataFrame(base, columns=list("abd")))
    keys = {
        cache.generate_cache_key("T", 1, each)
        for each in (base, last, signed, base[:99], base.reshape(3, 100), *frames)
    }
    assert len(keys) == 10
    assert cache.generate_cache_key("T", 1, frames[0]) == cache.generate_cache_key(
        "T", 1, frames[0].set_index("a", drop=False)
    )
    assert (
        len({cache.generate_cache_key(t, h, None, m) for t in ("A", "A:1") for h in (1, 11) for m in (None, "1", 1)})
        == 12
    )


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "long", True])
def test_a_time_to_live_is_some_seconds(ttl: Any) -> None:
    with pytest.raises(InvalidInput, match="ttl"):
        PredictionCache(default_ttl=ttl)


@pytest.mark.parametrize("value", [None, object()])
def test_what_cannot_be_told_from_nothing_is_not_kept(value: Any) -> None:
    with pytest.raises(InvalidInput, match="prediction"):
        asyncio.run(PredictionCache().cache_prediction("pred:a", value))
