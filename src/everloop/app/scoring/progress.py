"""How far a run is, on stderr: a bar on a terminal, a line now and then elsewhere if it is asked for, nothing otherwise."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

LINE_SECONDS = 5.0
LATELY_SECONDS = 10.0


class Progress:
    """`update` may be called as often as one likes."""

    def __init__(self, *, bar: bool, lines: bool) -> None:
        self._bar: Any = _bar() if bar else None
        self._lines = lines
        self._task: Any = None
        self._said = time.monotonic()
        self._recent: deque[tuple[float, int, float]] = deque([(self._said, 0, 0.0)])

    @classmethod
    def chosen(cls, wanted: bool | None, *, quiet: bool) -> Progress:
        """`wanted`: None shows a bar where stderr is a terminal."""
        terminal = sys.stderr.isatty()
        if quiet or wanted is False:
            return cls(bar=False, lines=False)
        return cls(bar=terminal, lines=bool(wanted) and not terminal)

    def start(self, rows: int, fraction: float | None) -> None:
        """Begin to measure, with what an attempt before this one has done."""
        now = time.monotonic()
        self._recent = deque([(now, rows, fraction or 0.0)])
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(
                "", total=None if fraction is None else 1.0, completed=fraction or 0.0, told=""
            )

    def update(self, rows: int, fraction: float | None, errors: int) -> None:
        now = time.monotonic()
        if now - self._recent[-1][0] >= 0.1:
            self._recent.append((now, rows, fraction or 0.0))
            while now - self._recent[0][0] > LATELY_SECONDS and len(self._recent) > 2:
                self._recent.popleft()
            if self._bar is not None:
                told = self._told(now, rows, fraction, errors)
                self._bar.update(self._task, completed=fraction or 0.0, told=told)
        if self._lines and now - self._said >= LINE_SECONDS:
            self._said = now
            share = "" if fraction is None else f"{fraction:.0%}, "
            print(f"{share}{self._told(now, rows, fraction, errors)}", file=sys.stderr, flush=True)  # noqa: T201

    def stop(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.stop()

    def _told(self, now: float, rows: int, fraction: float | None, errors: int) -> str:
        began, before, share = self._recent[0]
        seconds = max(now - began, 1e-9)
        parts = [f"{rows:,} rows", f"{(rows - before) / seconds:,.0f} rows/s"]
        gone = (fraction or 0.0) - share
        if fraction is not None and gone > 0:
            parts.append(f"{span((1.0 - fraction) * seconds / gone)} left")
        if errors:
            parts.append(f"{errors:,} bad")
        return ", ".join(parts)


def span(seconds: float) -> str:
    """`5 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(bar_width=30), TaskProgressColumn(), TextColumn("{task.fields[told]}"))
    return Bar(*columns, console=Console(file=sys.stderr, highlight=False), transient=True, refresh_per_second=8)
