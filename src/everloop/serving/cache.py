"""The cache of one process: what a version has answered, for whoever asks it the same again.

    get ──► Lru: (version's prefix + the input's bytes) ──► the answer
             │ not there, where processes share a second level
             └─► AnswerStore: everloop:answers:MODEL:VERSION:PREFIX:HASH OF THE INPUT ──► the answer, kept here as well

Rules.

1. A key names the version, the digest of its artifact and all of the input, so a swap can never bring back another version's answer, and
   no two inputs share one. Only what a version answered itself is kept: no error, no answer that the champion gave in its place.
2. What is cleared stays cleared: the model's record counts how often it was, and the count is a part of the prefix. So every process
   that shares the record forgets, and an answer that was on its way when it was cleared is kept under the old prefix, where nobody looks.
3. A hit is a prediction like any other: it has a number and is recorded, so a label can name it.

Single flight is in `flights` (over the network) and `lane_cache` (in process).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any

import msgspec

from everloop.core.clock import Clock
from everloop.core.lru import Lru
from everloop.registry.clearing import clearings
from everloop.serving.answers import Answers, freeze, pack_answers, size_of, unpack_answers
from everloop.serving.cache_config import CacheConfig
from everloop.serving.counters import value_of
from everloop.stores.ports import AnswerStore, ModelRecord, VersionRecord

KEY = "everloop:answers"
PREFIX_BYTES = 16
MOST_VERSIONS = 4096
"""Of how many versions it is known which entries are theirs: those that were opened last. The others' age like any."""


class Counts:
    """Of one model in this process; raised from any thread without a lock."""

    __slots__ = ("hits", "joined", "misses", "shared")

    def __init__(self) -> None:
        self.hits = itertools.count()
        """Answered from this process's memory."""
        self.shared = itertools.count()
        """Answered from the second level."""
        self.joined = itertools.count()
        """Answered by what another request was already waiting for."""
        self.misses = itertools.count()
        """The model was asked."""

    def told(self) -> dict[str, int]:
        return {name: value_of(getattr(self, name)) for name in self.__slots__}


class VersionCache:
    """One version's part of the cache, until it is cleared. From any thread."""

    __slots__ = ("_entries", "_name", "_second", "counts", "find", "now", "prefix", "ttl")

    def __init__(self, cache: AnswerCache, record: VersionRecord, prefix: bytes, ttl: float) -> None:
        self._entries = cache.entries
        self._second = cache.second
        self.find: Callable[[bytes, float], Any] = cache.entries.get
        """`get` in pieces, for the hot path: by the prefix and the key, and what `now` says."""
        self.now = cache.clock.monotonic
        self._name = f"{KEY}:{record.model}:{record.version}:{prefix.hex()}:"
        self.prefix = prefix
        self.ttl = ttl
        """Seconds for which an answer may be repeated."""
        self.counts = cache.counts_of(record.model)

    @property
    def shares(self) -> bool:
        """Whether there is a second level."""
        return self._second is not None

    def get(self, key: bytes) -> Answers | None:
        """What is remembered here."""
        return self.find(self.prefix + key, self.now())  # type: ignore[no-any-return]

    def put(self, key: bytes, answers: Answers) -> None:
        """Keep what the version answered, here and where it is shared."""
        kept = freeze(answers)
        self._keep(key, kept)
        if self._second is not None:
            packed = pack_answers(kept)
            if packed is not None:
                self._second.put(self._shared(key), packed, self.ttl)

    def get_shared(self, key: bytes, rows: int | None) -> Answers | None:
        """What the second level has; waits for it, for a bounded time. `rows`: how many predictions it must be; None: tensors."""
        return None if self._second is None else self._found(key, rows, self._second.get(self._shared(key)))

    def fetch_shared(self, key: bytes, rows: int | None, done: Callable[[Answers | None], None]) -> None:
        """`get_shared` without waiting: `done` is called once, from whatever thread."""
        assert self._second is not None
        self._second.fetch(self._shared(key), lambda packed: done(self._found(key, rows, packed)))

    def _found(self, key: bytes, rows: int | None, packed: bytes | None) -> Answers | None:
        answers = None if packed is None else unpack_answers(packed)
        if answers is None or (len(answers) if isinstance(answers, tuple) else None) != rows:
            return None
        self._keep(key, answers)
        return answers

    def _keep(self, key: bytes, answers: Answers) -> None:
        self._entries.put(self.prefix + key, answers, PREFIX_BYTES + len(key) + size_of(answers), self.now() + self.ttl)

    def _shared(self, key: bytes) -> str:
        return self._name + blake2b(key, digest_size=32).hexdigest()


class AnswerCache:
    """Of one process. `versions` of models have their parts in it."""

    def __init__(self, config: CacheConfig, clock: Clock, second: AnswerStore | None = None) -> None:
        self.config = config
        self.clock = clock
        self.entries: Lru[bytes] = Lru(config.bytes)
        self.second = second
        self._lock = threading.Lock()
        """Guards the two below."""
        self._counts: dict[str, Counts] = {}
        self._prefixes: dict[bytes, tuple[str, int]] = {}
        """Whose entries have this prefix."""

    def version(self, record: VersionRecord, model: ModelRecord, ttl: float) -> VersionCache:
        """The part of one version, as often as it was cleared by now: equal for equal bytes, whoever opened them."""
        manifest = record.manifest
        told = [
            record.model,
            record.version,
            record.digest,
            manifest.runtime,
            manifest.task,
            manifest.schema,
            manifest.target,
            manifest.classes,
            clearings(model, record.version),
        ]
        prefix = blake2b(msgspec.msgpack.encode(told, enc_hook=str), digest_size=PREFIX_BYTES).digest()
        with self._lock:
            self._prefixes.pop(prefix, None)
            self._prefixes[prefix] = (record.model, record.version)
            if len(self._prefixes) > MOST_VERSIONS:
                del self._prefixes[next(iter(self._prefixes))]
        return VersionCache(self, record, prefix, ttl)

    def counts_of(self, model: str) -> Counts:
        with self._lock:
            return self._counts.setdefault(model, Counts())

    def counts(self) -> dict[str, dict[str, int]]:
        """model -> its counts, of all that were ever cached in this process."""
        with self._lock:
            known = dict(self._counts)
        return {model: counts.told() for model, counts in sorted(known.items())}

    def keep(self, models: Collection[str]) -> None:
        """All others are gone: forget what was theirs."""
        with self._lock:
            others = {*self._counts, *(model for model, _ in self._prefixes.values())}.difference(models)
            if not others:
                return
            gone = {prefix for prefix, (model, _) in self._prefixes.items() if model in others}
            for prefix in gone:
                del self._prefixes[prefix]
            for model in others:
                self._counts.pop(model, None)
        self.entries.forget(lambda key: key[:PREFIX_BYTES] in gone)

    def held(self) -> dict[tuple[str, int], int]:
        """(model, version) -> entries in this process's memory."""
        found: dict[tuple[str, int], int] = {}
        with self._lock:
            owners = dict(self._prefixes)
        for key in self.entries.snapshot():
            owner = owners.get(key[:PREFIX_BYTES])
            if owner is not None:
                found[owner] = found.get(owner, 0) + 1
        return found

    def forget(self, pattern: str, version: int | None = None) -> int:
        """Give the memory back that answers of these models, or of one version of theirs, take here; how many went."""
        with self._lock:
            gone = {
                prefix
                for prefix, (model, number) in self._prefixes.items()
                if fnmatchcase(model, pattern) and version in (None, number)
            }
        return self.entries.forget(lambda key: key[:PREFIX_BYTES] in gone)

    def forget_shared(self, pattern: str, version: int | None = None) -> int:
        """The same in the second level. Waits. Raises StoreUnavailable."""
        if self.second is None:
            return 0
        return self.second.forget(f"{KEY}:{pattern}:{'*' if version is None else version}:*")

    @property
    def trouble(self) -> str:
        return "" if self.second is None else self.second.trouble

    def close(self) -> None:
        if self.second is not None:
            self.second.close()


def open_cache(config: CacheConfig, clock: Clock) -> AnswerCache:
    """Raises MissingExtra."""
    if config.redis_url is None:
        return AnswerCache(config, clock)
    from everloop.stores.redis import RedisAnswers

    return AnswerCache(
        config, clock, RedisAnswers(config.redis_url, timeout=config.redis_timeout_ms / 1000, clock=clock)
    )
