"""What every second level of the cache does: in memory, and in a real Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from tests.redis_server import Server

from everloop.stores.memory import MemoryAnswers
from everloop.stores.ports import AnswerStore
from everloop.stores.redis import RedisAnswers

PATIENT = 20.0
"""A timeout that no slow machine meets."""


@pytest.fixture(params=["memory", "redis"])
def open_store(request: pytest.FixtureRequest) -> Iterator[Callable[[], AnswerStore]]:
    """Each call is another process's view of one store."""
    opened: list[AnswerStore] = []
    if request.param == "memory":
        opened.append(MemoryAnswers())
        yield lambda: opened[0]
    else:
        server: Server = request.getfixturevalue("redis_server")

        def open_one() -> AnswerStore:
            opened.append(RedisAnswers(server.url, timeout=PATIENT))
            return opened[-1]

        yield open_one
    for store in opened:
        store.close()


def fetched(store: AnswerStore, key: str) -> bytes | None:
    answered, found = threading.Event(), []

    def done(value: bytes | None) -> None:
        found.append(value)
        answered.set()

    store.fetch(key, done)
    assert answered.wait(60)
    assert len(found) == 1
    return found[0]


def put(store: AnswerStore, key: str, value: bytes, ttl: float = 60.0) -> None:
    """And wait until it is there: what is put is written later."""
    store.put(key, value, ttl)
    pause = threading.Event()
    while store.get(key) != value:
        pause.wait(0.001)


def test_what_one_process_keeps_another_finds(open_store: Callable[[], AnswerStore]) -> None:
    one, other = open_store(), open_store()
    assert one.get("a") is None
    assert fetched(one, "a") is None
    put(one, "a", b"\x00\xff")
    assert other.get("a") == b"\x00\xff"
    assert fetched(other, "a") == b"\x00\xff"
    assert other.get("b") is None
    assert one.trouble == ""
    assert one.skipped == 0
    assert one.name


def test_a_later_answer_takes_the_place_of_an_earlier_one(open_store: Callable[[], AnswerStore]) -> None:
    store = open_store()
    put(store, "a", b"1")
    put(store, "a", b"2")
    assert store.get("a") == b"2"


def test_it_forgets_what_a_pattern_names_and_nothing_else(open_store: Callable[[], AnswerStore]) -> None:
    store = open_store()
    for key in ("m:1:a", "m:1:b", "m:2:a", "n:1:a"):
        put(store, key, b"x")
    assert store.forget("m:1:*") == 2
    assert store.forget("m:1:*") == 0
    assert [store.get(key) for key in ("m:1:a", "m:1:b", "m:2:a", "n:1:a")] == [None, None, b"x", b"x"]
    assert store.forget("?:[12]:*") == 2


def test_many_lookups_are_each_answered_once(open_store: Callable[[], AnswerStore]) -> None:
    store = open_store()
    for i in range(0, 300, 3):
        store.put(f"k{i}", str(i).encode(), 60.0)
    put(store, "last", b"x")
    counts: dict[int, list[bytes | None]] = {i: [] for i in range(300)}
    all_there = threading.Semaphore(0)

    def ask(i: int) -> None:
        def done(value: bytes | None) -> None:
            counts[i].append(value)
            all_there.release()

        store.fetch(f"k{i}", done)

    for i in range(300):
        ask(i)
    for _ in range(300):
        assert all_there.acquire(timeout=60)
    assert counts == {i: [str(i).encode() if i % 3 == 0 else None] for i in range(300)}


def test_after_its_end_nothing_is_found_and_nothing_waits(open_store: Callable[[], AnswerStore]) -> None:
    store = open_store()
    put(store, "a", b"x")
    store.close()
    store.close()
    assert fetched(store, "a") is None
