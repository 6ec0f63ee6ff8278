"""What was used last stays: a mapping bounded by bytes, whose entries also expire.

Safe from any thread. Theory of operation: reading takes no lock, because an `OrderedDict` finds and moves a key in one step of the
interpreter each, as long as comparing keys runs no Python code (bytes, text, tuples of them). An entry that was pushed out between the
two steps has been read all the same. Whatever adds or removes holds the lock.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)

OVERHEAD = 240
"""Bytes that an entry takes besides its key's and its value's own content: the struct, both objects' heads, the place in the mapping."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """The collector does not look at it: a hundred thousand of them would cost every full collection milliseconds."""

    value: Any
    until: float
    size: int


class Lru(Generic[K]):
    __slots__ = ("_entries", "_lock", "evicted", "expired", "most", "size")

    def __init__(self, most: int) -> None:
        """`most`: bytes of all entries together, by what `put` is told of each, and `OVERHEAD`."""
        self.most = most
        self.size = 0
        self.evicted = 0
        """Entries that went because there was no room."""
        self.expired = 0
        """Entries that were found too old."""
        self._entries: OrderedDict[K, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, now: float) -> Any:
        """The value; None where there is none, or it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= now:
            self._expire(key, entry)
            return None
        try:
            self._entries.move_to_end(key)
        except KeyError:  # another thread has pushed it out
            return entry.value
        return entry.value

    def put(self, key: K, value: Any, size: int, until: float) -> bool:
        """Keep it until then, in place of what was there. `size`: bytes of key and value. False where it alone is too large."""
        size += OVERHEAD
        if size > self.most:
            return False
        entries = self._entries
        with self._lock:
            before = entries.pop(key, None)
            if before is not None:
                self.size -= before.size
            entries[key] = Entry(value, until, size)
            self.size += size
            while self.size > self.most:
                _, oldest = entries.popitem(last=False)
                self.size -= oldest.size
                self.evicted += 1
        return True

    def forget(self, which: Callable[[K], bool]) -> int:
        """Remove the entries whose key `which` accepts; how many those were."""
        with self._lock:
            gone = [key for key in list(self._entries) if which(key)]
            for key in gone:
                self.size -= self._entries.pop(key).size
        return len(gone)

    def snapshot(self) -> list[K]:
        with self._lock:
            return list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _expire(self, key: K, entry: Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]
                self.size -= entry.size
                self.expired += 1
