"""What a user can say about the cache of a process: the section `[cache]`."""

from __future__ import annotations

from dataclasses import dataclass, field

from everloop.core.errors import InvalidInput


@dataclass(frozen=True)
class CacheConfig:
    """How much a process remembers of its answers, and with whom it shares them. Which models are cached is said in `ServingConfig`.
    Raises InvalidInput naming the field."""

    bytes: int = 64 << 20
    """Most memory that cached answers take in one process."""
    redis_url: str | None = field(default=None, repr=False, metadata={"secret": True})
    """The Redis server that processes share their answers in; may hold a password."""
    redis_timeout_ms: float = 50.0
    """Milliseconds after which an answer from there is not waited for any longer."""

    def __post_init__(self) -> None:
        if self.bytes < 0:
            raise InvalidInput(f"bytes: expected 0 or more bytes, got {self.bytes!r}", field="bytes")
        if not 1 <= self.redis_timeout_ms <= 60_000:
            raise InvalidInput(
                f"redis_timeout_ms: expected 1 to 60000 milliseconds, got {self.redis_timeout_ms!r}",
                field="redis_timeout_ms",
            )
        if self.redis_url is not None:
            from everloop.stores.redis.connecting import check_url

            check_url(self.redis_url)
