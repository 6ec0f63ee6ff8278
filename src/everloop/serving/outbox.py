"""Recorded batches of the server, waiting a moment so that consecutive ones become one record.

A server with one busy client answers thousands of batches of one row a second. Written one by one, each would wake the journal's
writer and cost a row of its table; merged over some 25 ms they cost a few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from everloop.core.types import PredictionRecord

MOST_ROWS = 4096
"""Rows of one merged record: a label's look-up reads the whole record."""
MOST_BYTES = 64 << 20
"""Features that may wait; beyond it batches are dropped and counted."""


class Outbox:
    """`put` never waits and may be called from any thread; `take` by one thread at a time."""

    __slots__ = ("_bytes", "_waiting", "dropped")

    def __init__(self) -> None:
        self._waiting: deque[PredictionRecord] = deque()
        self._bytes = 0
        self.dropped = 0
        """Requests whose batch found no room."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, record: PredictionRecord) -> None:
        size = len(record.features)
        if self._bytes + size > MOST_BYTES:
            self.dropped += record.count
            return
        self._bytes += size  # threads may lose an update to each other; `take` sets it right
        self._waiting.append(record)

    def take(self) -> list[PredictionRecord]:
        """Everything that waits, merged."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        self._bytes = 0
        return merged(taken)


def merged(records: Iterable[PredictionRecord]) -> list[PredictionRecord]:
    """Records of single rows whose numbers follow each other as one; the order of a source's records is kept."""
    open_runs: dict[str, list[PredictionRecord]] = {}
    runs: list[list[PredictionRecord]] = []
    for record in records:
        run = open_runs.get(record.lane_key)
        if run is not None and _continues(run, record):
            run.append(record)
        else:
            open_runs[record.lane_key] = run = [record]
            runs.append(run)
    return [run[0] if len(run) == 1 else _join(run) for run in runs]


def _continues(run: list[PredictionRecord], record: PredictionRecord) -> bool:
    first, last = run[0], run[-1]
    return (
        record.rows == 1
        and last.rows == 1
        and record.encoding == last.encoding != "msgpack"
        and record.first == last.first + last.count
        and record.first + record.count - first.first <= MOST_ROWS
    )


def _join(run: list[PredictionRecord]) -> PredictionRecord:
    return msgspec.structs.replace(
        run[0],
        count=sum(record.count for record in run),
        features=b"".join([record.features for record in run]),
        predictions=[y for record in run for y in record.predictions],
    )
