"""`PredictionCache`: a cache that a program asks itself, in Redis or in this process. (Served models have theirs: `cache`.)

A key names the ticker, the horizon, the model and every row of the features, each told apart from the others. A value is whatever JSON
can say. Redis is asked within a bounded time and left alone for a while after it failed; meanwhile this process remembers for itself, and
forgets that again when Redis is back, because others may have changed what is there.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from fnmatch import translate
from hashlib import blake2b
from random import random
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from everloop.core.errors import InvalidInput
from everloop.core.lru import Lru
from everloop.policy.breaker import CLOSED, Breaker

if TYPE_CHECKING:
    import redis.asyncio

T = TypeVar("T")

CAPACITY = 64 << 20
SECONDS = 0.25
"""What Redis may take for one answer."""
AT_ONCE = 500
_GLOB = re.compile(r"([*?\[\]\\])")


class PredictionCache:
    """`redis`: a client of redis-py for asyncio, as `everloop.stores.redis.get_redis` gives one; None keeps everything in this process.
    Used from one event loop at a time."""

    def __init__(
        self, redis: redis.asyncio.Redis | None = None, default_ttl: float = 300, key_prefix: str = "pred:"
    ) -> None:
        """`default_ttl`: seconds. Raises InvalidInput."""
        self.default_ttl = _ttl(default_ttl)
        self.key_prefix = key_prefix
        self._redis = redis
        self._failures: tuple[type[Exception], ...] = (OSError, TimeoutError)
        if redis is not None:
            from everloop.stores.redis.connecting import driver

            self._failures = (*self._failures, driver().RedisError)
        self._breaker: Breaker = CLOSED
        self._local: Lru[str] = Lru(CAPACITY)
        self._hits = self._misses = 0
        self.trouble = ""
        """Why Redis is not used at present; empty if it is, or if there is none."""

    def generate_cache_key(
        self, ticker: str, horizon: int, features: Any = None, model_id: str | int | None = None
    ) -> str:
        """No two inputs share one. `features`: a Polars or pandas frame, an array, a mapping, or lists; every row and every column counts."""
        named = [str(ticker), horizon, model_id, _told(features)]
        told = blake2b(msgspec.msgpack.encode(named, enc_hook=_plain, order="deterministic"), digest_size=32)
        return f"{self.key_prefix}{ticker}:{horizon}:{told.hexdigest()}"

    async def get_cached_prediction(self, key: str) -> Any:
        """What was kept under it; None where there is nothing (any more)."""
        packed = await self._ask(lambda redis: redis.get(key), lambda: self._local.get(key, time.monotonic()))
        try:
            found = None if packed is None else msgspec.json.decode(packed)
        except msgspec.DecodeError:  # somebody else's value
            found = None
        if found is None:
            self._misses += 1
        else:
            self._hits += 1
        return found

    async def cache_prediction(self, key: str, prediction: Any, ttl: float | None = None) -> bool:
        """Keep it for `ttl` seconds. False where there is no room for it. Raises InvalidInput (what JSON cannot say; NaN)."""
        seconds = self.default_ttl if ttl is None else _ttl(ttl)
        packed = _packed(prediction)
        kept = await self._ask(
            lambda redis: redis.set(key, packed, px=max(1, int(seconds * 1000))),
            lambda: self._local.put(key, packed, len(key) + len(packed), time.monotonic() + seconds),
        )
        return bool(kept)

    async def invalidate(self, key: str) -> bool:
        """Forget it; False if it was not there."""
        return bool(
            await self._ask(lambda redis: redis.unlink(key), lambda: self._local.forget(lambda known: known == key))
        )

    async def invalidate_pattern(self, pattern: str) -> int:
        """Forget every key that matches (`*`, `?`, `[…]`), with or without the prefix; how many those were. Of keys with the prefix only."""
        prefix = _GLOB.sub(r"\\\1", self.key_prefix)
        mine = pattern.startswith(self.key_prefix)
        rest = pattern[len(self.key_prefix) :] if mine else pattern
        return await self._forget(prefix + rest, rest)

    async def clear_all(self) -> int:
        """Forget every key with the prefix, and no other's; how many those were."""
        return await self.invalidate_pattern("*")

    def get_hit_rate(self) -> float:
        """0 to 1; 0 where nothing was asked."""
        total = self._hits + self._misses
        return self._hits / total if total else 0.0

    def get_stats(self) -> dict[str, Any]:
        return {
            "hits": self._hits,
            "misses": self._misses,
            "total_requests": self._hits + self._misses,
            "hit_rate_pct": 100.0 * self.get_hit_rate(),
            "default_ttl": self.default_ttl,
        }

    def reset_stats(self) -> None:
        self._hits = self._misses = 0

    async def _forget(self, pattern: str, rest: str) -> int:
        matches = re.compile(translate(rest)).match
        start = len(self.key_prefix)
        local = self._local.forget(lambda key: matches(key, start) is not None)

        async def scan(redis: redis.asyncio.Redis) -> int:
            removed = 0
            async for keys in _in_parts(redis.scan_iter(match=pattern, count=AT_ONCE)):
                removed += await redis.unlink(*keys)
            return removed

        return await self._ask(scan, lambda: local, seconds=None)

    async def _ask(
        self,
        remote: Callable[[redis.asyncio.Redis], Awaitable[T]],
        local: Callable[[], T],
        *,
        seconds: float | None = SECONDS,
    ) -> T:
        """Redis' answer, or this process's own where there is no Redis, or none that answers in time."""
        if self._redis is None or not self._breaker.allows(time.monotonic()):
            return local()
        try:
            async with asyncio.timeout(seconds):
                answer = await remote(self._redis)
        except self._failures as error:
            self.trouble = str(error) or "it took too long"
            self._breaker = self._breaker.failed(time.monotonic(), random())  # noqa: S311  spreads retries, guards nothing
            return local()
        if self._breaker.failures:
            self._breaker, self.trouble = CLOSED, ""
            self._local.forget(lambda _: True)
        return answer


def _told(features: Any) -> Any:
    """Names, types and values of all rows, as something whose bytes tell it apart from any other."""
    if hasattr(features, "to_dict") and hasattr(features, "columns"):  # frames
        columns = [str(name) for name in features.columns]
        return ["frame", columns, [_column(features[name]) for name in features.columns]]
    if hasattr(features, "dtype") and hasattr(features, "tobytes"):
        if features.dtype.hasobject:
            return ["array", list(features.shape), features.ravel().tolist()]
        return ["array", features.dtype.str, list(features.shape), features.tobytes()]
    return ["value", features]


def _column(series: Any) -> Any:
    """A column's values, one by one: equal frames of different libraries, or index, are equal."""
    return series.to_list() if hasattr(series, "to_list") else list(series)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise InvalidInput(f"features: {type(value).__name__} cannot be part of a key", field="features")


def _packed(prediction: Any) -> bytes:
    """As JSON. Raises InvalidInput."""
    try:
        packed = msgspec.json.encode(prediction, enc_hook=_plain)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"prediction: expected what JSON can say: {error}", field="prediction") from error
    if packed == b"null":
        raise InvalidInput("prediction: nothing cannot be told apart from nothing cached", field="prediction")
    return packed


def _ttl(seconds: Any) -> float:
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 < seconds < 1e9:
        return seconds
    raise InvalidInput(f"ttl: expected seconds above 0, got {seconds!r}", field="ttl")


async def _in_parts(keys: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    part: list[T] = []
    async for key in keys:
        part.append(key)
        if len(part) == AT_ONCE:
            yield part
            part = []
    if part:
        yield part
