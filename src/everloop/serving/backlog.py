"""What waits to be shown: a bounded queue that nobody ever waits for."""

from __future__ import annotations

from collections import deque

from everloop.core.types import PredictionRecord


class Backlog:
    """`put` by one thread at a time, `take` by one other. No lock: each number has one thread that writes it."""

    __slots__ = ("_bytes_in", "_bytes_out", "_most_bytes", "_most_rows", "_waiting", "refused", "rows_in", "rows_out")

    def __init__(self, rows: int, size: int) -> None:
        """At most so many rows and bytes of features; one record always fits into an empty queue."""
        self._most_rows = rows
        self._most_bytes = size
        self._waiting: deque[PredictionRecord] = deque()
        self._bytes_in = self._bytes_out = 0
        self.rows_in = self.rows_out = 0
        self.refused = 0
        """Rows that found no room."""

    def put(self, record: PredictionRecord) -> bool:
        rows, size = len(record.predictions), len(record.features)
        waiting = self.rows_in - self.rows_out
        if waiting and (waiting + rows > self._most_rows or self._bytes_in - self._bytes_out + size > self._most_bytes):
            self.refused += rows
            return False
        self.rows_in += rows  # before it can be taken
        self._bytes_in += size
        self._waiting.append(record)
        return True

    def take(self) -> PredictionRecord | None:
        """The oldest; None where nothing waits."""
        if not self._waiting:
            return None
        record = self._waiting.popleft()
        self.rows_out += len(record.predictions)
        self._bytes_out += len(record.features)
        return record

    def __len__(self) -> int:
        """Rows that wait."""
        return self.rows_in - self.rows_out
