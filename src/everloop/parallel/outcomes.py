"""The outcomes of predictions on disk: one line of JSON each, appended in one write, so that processes can share the file.

A line that cannot be read (torn by a crash) is passed over. Only the newest count; the file is rewritten when it has become long, and
what another process appends in that moment is lost: some outcomes more or less change nothing.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import deque
from pathlib import Path

from everloop.parallel.calibration import Basis, Calibrator, Outcome, moved_threshold

NEWEST = 500
_LONGEST = 256 << 10


class Outcomes:
    """Shared by threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read_to = (0, 0)
        """Inode and offset."""
        self._rows: deque[Outcome] = deque(maxlen=NEWEST)
        self._calibrators: dict[Basis, Calibrator] = {}
        self._thresholds: dict[float, float] = {}
        self._asked_bases: set[Basis] = set()
        self._asked_thresholds: set[float] = set()

    def add(self, outcome: Outcome) -> None:
        line = json.dumps(
            [
                round(outcome.raw, 4),
                round(outcome.confidence, 4),
                int(outcome.hit),
                round(outcome.error, 4),
                outcome.basis,
            ]
        )
        with self._lock:
            self._refresh()
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                try:
                    os.write(file, f"\n{line}\n".encode())  # begins a new line: the one before may be torn
                finally:
                    os.close(file)
                self._refresh()
                self._shorten()
            except OSError:  # a folder that cannot be written: `History` has said so; this process remembers
                self._take([outcome])
            # Here, after a run, rather than in the prediction that comes next.
            for basis in self._asked_bases:
                self._calibrator(basis)
            for asked in self._asked_thresholds:
                self._threshold(asked)

    def load(self) -> list[Outcome]:
        """The newest, the oldest of them first."""
        with self._lock:
            self._refresh()
            return list(self._rows)

    def calibrated(self, raw: float, basis: Basis) -> float:
        with self._lock:
            self._refresh()
            self._asked_bases.add(basis)
            return self._calibrator(basis)(raw)

    def threshold(self, asked: float) -> float:
        """Where the caller's threshold stands by what has come true."""
        with self._lock:
            self._refresh()
            self._asked_thresholds.add(asked)
            return self._threshold(asked)

    def _calibrator(self, basis: Basis) -> Calibrator:
        calibrator = self._calibrators.get(basis)
        if calibrator is None:
            calibrator = Calibrator((row.raw, row.hit) for row in self._rows if row.basis == basis)
            self._calibrators[basis] = calibrator
        return calibrator

    def _threshold(self, asked: float) -> float:
        moved = self._thresholds.get(asked)
        if moved is None:
            moved = self._thresholds[asked] = moved_threshold(asked, self._rows)
        return moved

    def _refresh(self) -> None:
        try:
            now = os.stat(self.path)  # noqa: PTH116 - a Path costs as much as the call
        except OSError:
            return
        inode, offset = self._read_to
        if now.st_ino == inode and now.st_size == offset:
            return
        anew = now.st_ino != inode or now.st_size < offset  # rewritten by another process
        if anew:
            offset = 0
        offset = max(offset, now.st_size - 4 * _LONGEST)  # of what is longer than it ever should be, the end
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                text = file.read(4 * _LONGEST)
        except OSError:
            return
        if anew:
            self._rows.clear()
        self._read_to = (now.st_ino, offset + len(text))
        self._take([row for row in map(_parsed, text.splitlines()) if row is not None])

    def _take(self, rows: list[Outcome]) -> None:
        self._rows.extend(rows)
        self._calibrators.clear()
        self._thresholds.clear()

    def _shorten(self) -> None:
        if self._read_to[1] > _LONGEST:
            from everloop.parallel.history import write_atomically

            with self.path.open("rb") as file:
                file.seek(max(0, self._read_to[1] - 4 * _LONGEST))
                lines = file.read().splitlines()[-2 * NEWEST :]
            write_atomically(self.path, b"\n".join(lines) + b"\n")


def _parsed(line: bytes) -> Outcome | None:
    try:
        raw, confidence, hit, error, basis = json.loads(line)
        row = Outcome(float(raw), float(confidence), bool(hit), float(error), basis)
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None
    known = basis in ("function", "across") and math.isfinite(row.error)
    return row if known and 0 <= row.raw <= 1 and 0 <= row.confidence <= 1 else None
