"""Recorded predictions in memory: by journal id for whoever reads them in order, by lane and number for the join."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import islice

from everloop.core.types import PredictionRecord

OVERHEAD = 200
"""Bytes of Python objects around one kept record or example, by `sys.getsizeof`."""


class Records:
    """Predictions by journal id, and by lane and number."""

    def __init__(self) -> None:
        self.by_id: dict[int, PredictionRecord] = {}
        self.rows = 0
        self.bytes = 0
        self._last = 0
        self._lanes: dict[str, list[tuple[int, int]]] = {}  # lane key -> ascending (first number, journal id)

    def add(self, record: PredictionRecord) -> None:
        self._last += 1
        self.by_id[self._last] = record
        lane = self._lanes.setdefault(record.lane_key, [])
        entry = (record.first, self._last)
        if not lane or lane[-1] < entry:
            lane.append(entry)
        else:
            insort(lane, entry)
        self.rows += record.count * record.rows
        self.bytes += record_bytes(record)

    def find(self, lane_key: str, number: int) -> tuple[int, PredictionRecord] | None:
        lane = self._lanes.get(lane_key, ())
        i = bisect_right(lane, (number, self._last)) - 1
        if i < 0:
            return None
        record_id = lane[i][1]
        record = self.by_id[record_id]
        return (record_id, record) if number < record.first + record.count else None

    def drop(self, record_ids: Sequence[int]) -> int:
        touched: dict[str, set[int]] = {}
        for record_id in record_ids:
            record = self.by_id.pop(record_id)
            self.rows -= record.count * record.rows
            self.bytes -= record_bytes(record)
            touched.setdefault(record.lane_key, set()).add(record_id)
        for lane_key, gone in touched.items():
            lane = self._lanes[lane_key]
            if all(entry[1] in gone for entry in islice(lane, len(gone))):  # the oldest went, as nearly always
                del lane[: len(gone)]
            else:
                lane[:] = [entry for entry in lane if entry[1] not in gone]
            if not lane:
                del self._lanes[lane_key]
        return len(record_ids)


def record_bytes(record: PredictionRecord) -> int:
    return len(record.features) + 24 * len(record.predictions) + OVERHEAD
