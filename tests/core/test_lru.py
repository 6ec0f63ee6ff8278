"""A mapping bounded by bytes and by time, whoever reads and writes it at once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from everloop.core.lru import OVERHEAD, Lru

MOST = 5 * OVERHEAD
KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])


class AgainstAModel(RuleBasedStateMachine):
    """The slowest mapping that could be right, beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.lru: Lru[bytes] = Lru(MOST)
        self.model: OrderedDict[bytes, tuple[int, float, int]] = OrderedDict()
        self.now = 0.0
        self.next = 0

    @rule(key=KEYS, size=st.integers(0, 2 * OVERHEAD), ttl=st.integers(1, 5))
    def put(self, key: bytes, size: int, ttl: int) -> None:
        self.next += 1
        assert self.lru.put(key, self.next, size, self.now + ttl)
        self.model.pop(key, None)
        self.model[key] = (self.next, self.now + ttl, size + OVERHEAD)
        while sum(size for _, _, size in self.model.values()) > MOST:
            self.model.popitem(last=False)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        value, until, _ = self.model.get(key, (None, 0.0, 0))
        if value is not None and until <= self.now:
            del self.model[key]
            value = None
        assert self.lru.get(key, self.now) == value
        if value is not None:
            self.model.move_to_end(key)

    @rule(keys=st.sets(KEYS))
    def forget(self, keys: set[bytes]) -> None:
        assert self.lru.forget(keys.__contains__) == len(keys & self.model.keys())
        for key in keys:
            self.model.pop(key, None)

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def they_hold_the_same(self) -> None:
        assert self.lru.snapshot() == list(self.model)
        assert len(self.lru) == len(self.model)
        assert self.lru.size == sum(size for _, _, size in self.model.values()) <= MOST


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=40, stateful_step_count=40)


def test_what_alone_is_too_large_is_not_kept() -> None:
    lru: Lru[bytes] = Lru(OVERHEAD + 10)
    assert lru.put(b"a", 1, 10, 1.0)
    assert not lru.put(b"b", 1, 11, 1.0)
    assert lru.snapshot() == [b"a"]


def test_threads_that_read_write_and_remove_at_once_keep_its_count_right() -> None:
    lru: Lru[int] = Lru(20 * OVERHEAD)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(3000):
                key = (i * 7 + seed) % 40
                found = lru.get(key, float(i % 50))
                assert found is None or found == key
                lru.put(key, key, 8, float(i % 60))
                if i % 500 == 0:
                    lru.forget(lambda key: key % 3 == 0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert lru.size == len(lru) * (OVERHEAD + 8) <= lru.most
