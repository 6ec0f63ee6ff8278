"""The URL of a Redis server, and how a client is made. What is in the URL may be secret, so no message repeats it."""

from __future__ import annotations

import re
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from everloop.core.errors import InvalidInput, MissingExtra, StoreUnavailable

if TYPE_CHECKING:
    import redis
    import redis.asyncio

DEFAULT_URL = "redis://127.0.0.1:6379/0"
SECONDS = 5.0
"""What one operation of `get_redis`'s client may take."""
_URL = re.compile(r"(rediss?://[^\s]+|unix://[^\s]+)")


def check_url(url: str, field: str = "redis_url") -> None:
    """Raises InvalidInput, which does not say what is in it."""
    try:
        parts = urlsplit(url)
        fits = bool(_URL.fullmatch(url)) and (parts.scheme == "unix" or (bool(parts.hostname) and parts.port != 0))
    except ValueError:
        fits = False
    if not fits:
        raise InvalidInput(
            f"{field}: expected redis://[[user]:password@]host[:port][/number], rediss://… with TLS, or unix:///path/to/socket; "
            "characters of a password that mean something in a URL are written as %XX",
            field=field,
        )


def name_of(url: str) -> str:
    """Where it is, without user, password and options."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or 6379}/{parts.path.strip('/') or 0}"


def connect(url: str, timeout: float) -> redis.Redis:
    """A client that gives up after `timeout` seconds and never tries twice; it connects when it is first used, and may be shared by
    threads. Raises InvalidInput, MissingExtra."""
    check_url(url)
    library = driver()
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "max_connections": 4096,
    }
    try:
        client: redis.Redis = library.Redis.from_url(url, **options)
    except (ValueError, TypeError):  # its words may hold a part of the password
        check_url("")
        raise
    return client


async def get_redis(url: str = DEFAULT_URL) -> redis.asyncio.Redis:
    """A connected client of redis-py for this event loop, as `PredictionCache` takes it; `await client.aclose()` when done. Raises
    InvalidInput, MissingExtra, StoreUnavailable."""
    check_url(url, "url")
    library = driver()
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS)
    try:
        await client.ping()
    except (library.RedisError, OSError) as error:
        await client.aclose()
        raise StoreUnavailable(
            f"Redis at {name_of(url)} does not answer: {error}; start it, say where it is as a URL, or do without one"
        ) from error
    return client


def driver() -> ModuleType:
    """redis-py. Raises MissingExtra."""
    try:
        import redis
    except ImportError as error:
        raise MissingExtra.of("redis", "a Redis server behind the cache") from error
    return redis
