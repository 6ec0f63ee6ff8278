"""Watches what is asked, without labels: the rows of recorded predictions against the rows that the champion was trained on.

For a version that was trained elsewhere the first recorded rows are the reference. Only the newest rows of every few seconds are
looked at: at ten thousand predictions a second they tell no less than all of them.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from everloop.core.clock import Clock
from everloop.core.schema import Schema
from everloop.core.types import PredictionRecord
from everloop.learning.window import Slice
from everloop.policy.drift.inputs import LEAST_REFERENCE, WINDOW, InputDriftMonitor, InputDriftReport
from everloop.stores.ports import Journal

LOOK_EVERY = 2.0
"""Seconds between two reads of the journal."""
OWN_REFERENCE = 1000
"""Recorded rows that make the reference where the training rows are not known."""
_FEW_RECORDS = 4
_MOST_RECORDS = 500


class InputWatch:
    """One model's. Owned by its trainer."""

    def __init__(self, model: str, schema: Schema, journal: Journal, clock: Clock) -> None:
        self._model = model
        self._schema = schema
        self._journal = journal
        self._clock = clock
        self._look_at = 0.0
        self._cursor = 0
        self._monitor: InputDriftMonitor | None = None
        self._collected: list[npt.NDArray[Any]] = []
        self._last: InputDriftReport | None = None

    def refer_to(self, training: Slice) -> None:
        """A new champion, trained on these rows; where they are too few, the rows to come make the reference."""
        self._monitor, self._collected, self._last = None, [], None
        if len(training) >= LEAST_REFERENCE:
            self._monitor = self._monitor_for(np.asarray(training.rows))

    def step(self) -> InputDriftReport | None:
        """Look at what was recorded since; the report if it tells of a drift that the one before did not."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_EVERY
        wanted = WINDOW if self._monitor is not None else OWN_REFERENCE
        found = self._find(wanted)
        if not found:
            return None
        self._cursor = found[-1][0]
        # What a shadow was shown is recorded once more with its answers: the same rows, which would count twice.
        rows = self._rows([record for _, record in found if not record.shadow], wanted)
        if not len(rows):
            return None
        if self._monitor is None:
            self._collect(rows)
            return None
        self._monitor.observe(rows)
        if not self._monitor.due:
            return None
        before, self._last = self._last, self._monitor.test()
        told = {f.name for f in before.features if f.drifted} if before is not None and before.drifted else set()
        news = self._last.drifted and not {f.name for f in self._last.features if f.drifted} <= told
        return self._last if news else None

    def _find(self, wanted: int) -> list[tuple[int, PredictionRecord]]:
        """Records with at least `wanted` rows, if there are so many. One record may hold one row or thousands, so a few are read
        first: under load the last seconds' records are tens of megabytes."""
        latest = self._monitor is not None  # without a reference yet, the oldest rows are wanted
        limit = _FEW_RECORDS
        while True:
            found = self._journal.predictions(self._model, after=self._cursor, limit=limit, latest=latest)
            rows = sum(record.count * record.rows for _, record in found if not record.shadow)
            if len(found) < limit or rows >= wanted or limit >= _MOST_RECORDS:
                return found
            limit = min(limit * 8, _MOST_RECORDS)

    def report(self) -> dict[str, Any]:
        """For a status page; empty before the first look."""
        if self._last is None:
            return {}
        report: dict[str, Any] = msgspec.to_builtins(self._last)
        return report

    def _rows(self, records: list[PredictionRecord], wanted: int) -> npt.NDArray[Any]:
        """The newest `wanted` rows, oldest first."""
        width = len(self._schema.fields)
        parts: list[npt.NDArray[Any]] = []
        missing = wanted
        for record in reversed(records):
            part = _matrix(record, width)
            if part is None:
                continue
            parts.append(part[-missing:])
            missing -= len(parts[-1])
            if missing <= 0:
                break
        if not parts:
            return np.empty((0, width))
        return np.concatenate(parts[::-1])

    def _collect(self, rows: npt.NDArray[Any]) -> None:
        self._collected.append(rows)
        if sum(map(len, self._collected)) >= OWN_REFERENCE:
            self._monitor = self._monitor_for(np.concatenate(self._collected))
            self._collected = []

    def _monitor_for(self, reference: npt.NDArray[Any]) -> InputDriftMonitor:
        return InputDriftMonitor(reference, self._schema.names)


def _matrix(record: PredictionRecord, width: int) -> npt.NDArray[Any] | None:
    """(n, width); None for rows of another width, from before the model was registered anew."""
    if record.encoding == "msgpack":
        listed = msgspec.msgpack.decode(record.features)
        out = np.empty((len(listed), width), dtype=object)
        for i, row in enumerate(listed):
            if len(row) != width:
                return None
            out[i, :] = [math.nan if value is None else value for value in row]
        return out
    values = np.frombuffer(record.features, dtype="<" + record.encoding)
    if len(values) != record.count * record.rows * width:
        return None
    return values.astype(np.float64).reshape(-1, width)
