"""A Redis that is down, slow or full, or that nobody can reach: how long that takes, and what is told."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.contracts.test_answers import PATIENT, fetched, put
from tests.redis_server import Server

from everloop.core.errors import InvalidInput, StoreUnavailable
from everloop.policy.breaker import LONGEST_PAUSE
from everloop.stores.redis import RedisAnswers, get_redis
from everloop.stores.redis.connecting import check_url, name_of
from everloop.testing import ManualClock


@pytest.fixture
def store(redis_server: Server, clock: ManualClock) -> Iterator[RedisAnswers]:
    store = RedisAnswers(redis_server.url, timeout=PATIENT, clock=clock)
    yield store
    store.close()


def test_a_server_that_ends_and_comes_back(store: RedisAnswers, redis_server: Server, clock: ManualClock) -> None:
    put(store, "a", b"x")
    redis_server.stop()
    assert store.get("a") is None
    assert "does not answer" in store.trouble
    before = store.skipped
    assert fetched(store, "a") is None
    store.put("b", b"x", 60.0)
    assert store.skipped == before + 2  # neither was tried: its pause is not over
    redis_server.start()
    assert store.get("a") is None
    clock.advance(LONGEST_PAUSE)
    assert fetched(store, "a") is None  # it is there again, and empty
    assert store.trouble == ""
    put(store, "a", b"y")


def test_a_server_that_hangs_costs_one_timeout(redis_server: Server, clock: ManualClock) -> None:
    store = RedisAnswers(redis_server.url, timeout=0.05, clock=clock)
    try:
        redis_server.hang()
        assert fetched(store, "a") is None
        assert "does not answer" in store.trouble
        threads = threading.active_count()
        for _ in range(1000):
            assert store.get("a") is None
        assert threading.active_count() == threads
        redis_server.go_on()
    finally:
        store.close()


def test_a_full_server_still_answers(store: RedisAnswers, redis_server: Server, clock: ManualClock) -> None:
    put(store, "a", b"x")
    with redis_server.client() as client:
        client.config_set("maxmemory", 1)
    store.put("b", b"x", 60.0)
    pause = threading.Event()
    while not store.trouble:
        pause.wait(0.001)
    assert "takes nothing new" in store.trouble
    assert "maxmemory" in store.trouble
    assert store.get("a") == b"x"
    with redis_server.client() as client:
        client.config_set("maxmemory", 0)
    clock.advance(LONGEST_PAUSE)
    while store.trouble:  # looking at it tries again
        pause.wait(0.001)
    put(store, "b", b"x")


def test_looking_at_it_notices_a_server_that_was_never_there(clock: ManualClock) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        store = RedisAnswers(f"redis://user:secret@127.0.0.1:{taken.getsockname()[1]}/3", timeout=PATIENT, clock=clock)
        pause = threading.Event()
        while not store.trouble:
            pause.wait(0.001)
        assert "secret" not in store.trouble + store.name
        with pytest.raises(StoreUnavailable) as refused:
            store.forget("*")
        assert "secret" not in str(refused.value)
        store.close()


def test_answers_expire_by_themselves(store: RedisAnswers, redis_server: Server) -> None:
    put(store, "a", b"x", ttl=100.0)
    with redis_server.client() as client:
        assert 90_000 < client.pttl("a") <= 100_000
        client.pexpire("a", 1)
        pause = threading.Event()
        while client.exists("a"):
            pause.wait(0.001)
    assert store.get("a") is None


def test_answers_beyond_its_bound_are_left_out(
    store: RedisAnswers, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everloop.stores.redis.answers.ANSWER_BYTES", 10)
    store.put("a", b"x" * 11, 60.0)
    assert store.skipped == 1


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("rediss://u:p@cache.example:7000/2?x=1", "rediss://cache.example:7000/2"),
        ("redis://:p%40ss@[::1]:6380", "redis://[::1]:6380/0"),
        ("unix://u:p@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_its_name_is_no_secret(url: str, name: str) -> None:
    check_url(url)
    assert name_of(url) == name


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "http://secret@host", "redis://", "redis://:secret@:6379", "redis://h:99999"]
)
def test_what_is_no_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(InvalidInput, match="redis_url: expected") as refused:
        check_url(url)
    assert "secret" not in str(refused.value)


def test_a_client_of_its_own(redis_server: Server) -> None:
    async def use() -> bytes:
        client = await get_redis(redis_server.url)
        await client.set("a", b"x")
        found: bytes = await client.get("a")
        await client.aclose()
        return found

    assert asyncio.run(use()) == b"x"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(StoreUnavailable, match="does not answer"):
            asyncio.run(get_redis(f"redis://127.0.0.1:{taken.getsockname()[1]}"))
