"""How far a run is: the events that hooks get, and what a person sees of them."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, TextIO

from everloop.parallel.hooks import Ended, ExecutionHooks, Progress

EVERY = 0.1
"""Seconds between two events, at least."""
SMOOTHING = 0.15
"""Weight of the newest interval in the rate."""
PATIENCE = 1.0
"""Seconds that a run is watched before a bar appears, and that it must still take: a bar for a moment is noise."""
LINE_EVERY = 5.0
"""Seconds between two lines, where nobody watches a terminal."""


class Ticker:
    """Makes `Progress` events, at most one in `every` seconds."""

    def __init__(self, label: str, total: int | None, now: float, every: float = EVERY) -> None:
        self.every = every
        self._label = label
        self._total = total
        self._began = self._last = now
        self._done = 0
        self._rate = 0.0

    def tick(self, done: int, now: float, *, paused: bool = False, last: bool = False) -> Progress | None:
        """`done` items are finished by now. `last`: it is over, the event comes whatever the time."""
        since = now - self._last
        if since < self.every and not last:
            return None
        elapsed = now - self._began
        if since > 0:
            newest = (done - self._done) / since
            self._rate = newest if not self._rate else self._rate + SMOOTHING * (newest - self._rate)
        self._last, self._done = now, done
        rate = (done / elapsed if elapsed > 0 else 0.0) if last else self._rate
        remaining = None
        if self._total is not None:
            left = max(0, self._total - done)
            remaining = left / rate if rate > 0 else (None if left else 0.0)
        return Progress(self._label, done, self._total, elapsed, rate, remaining, paused)


class View(Protocol):
    """Something that shows progress until it is closed."""

    def show(self, event: Progress) -> None: ...

    def close(self) -> None: ...


class Bar(ExecutionHooks):
    """Shows progress on a terminal or in a notebook; as lines where it was asked for and there is neither."""

    def __init__(self, stream: TextIO, *, asked: bool = False) -> None:
        self._stream = stream
        self._asked = asked
        self._view: View | None = None

    def on_progress(self, event: Progress) -> None:
        if self._view is None:
            lasts = event.remaining is None or event.remaining > PATIENCE
            if not self._asked and (event.elapsed < PATIENCE or not lasts):
                return
            self._view = self._open(event)
        self._view.show(event)

    def on_end(self, event: Ended) -> None:  # noqa: ARG002 - however it ended
        if self._view is not None:
            self._view.close()

    def _open(self, event: Progress) -> View:
        if in_notebook() and find_spec("tqdm") and find_spec("ipywidgets"):
            return _Notebook(event)
        if self._stream.isatty() or in_notebook():
            return _Terminal(event, self._stream)
        return _Lines(self._stream)


def in_notebook() -> bool:
    return "ipykernel" in sys.modules


def bar_for(progress: bool | None, stream: TextIO | None = None) -> Bar | None:
    """By the option `progress`: None shows a bar only where somebody can see it. `stream`: standard error by default."""
    stream = sys.stderr if stream is None else stream
    if progress is False or stream is None or (progress is None and not (stream.isatty() or in_notebook())):
        return None
    return Bar(stream, asked=progress is True)


class _Terminal:
    def __init__(self, event: Progress, stream: TextIO) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[left]}"),
            console=Console(file=stream),
            auto_refresh=False,  # the run refreshes it: no thread for this
            transient=False,
        )
        self._bar.start()
        self._task = self._bar.add_task(event.label, total=event.total, rate="", left="")

    def show(self, event: Progress) -> None:
        self._bar.update(self._task, completed=event.done, rate=_rate(event), left=_left(event), refresh=True)

    def close(self) -> None:
        self._bar.stop()


class _Notebook:
    def __init__(self, event: Progress) -> None:
        tqdm: Any = import_module("tqdm.notebook").tqdm
        self._bar = tqdm(total=event.total, desc=event.label)

    def show(self, event: Progress) -> None:
        self._bar.update(event.done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._written: Progress | None = None
        self._newest: Progress | None = None

    def show(self, event: Progress) -> None:
        self._newest = event
        if self._written is None or event.elapsed - self._written.elapsed >= LINE_EVERY:
            self._write(event)

    def close(self) -> None:
        if self._newest is not None and self._newest is not self._written:
            self._write(self._newest)

    def _write(self, event: Progress) -> None:
        self._written = event
        of = "" if event.total is None else f" of {event.total:,}"
        self._stream.write(f"{event.label}: {event.done:,}{of} items, {_rate(event)}, {_left(event)}\n")
        self._stream.flush()


def _rate(event: Progress) -> str:
    return f"{event.rate:,.0f}/s" if event.rate >= 10 else f"{event.rate:.2g}/s"


def _left(event: Progress) -> str:
    if event.paused:
        return "waiting for memory"
    if event.remaining is None:
        return f"{event.elapsed:,.0f} s"
    minutes, seconds = divmod(round(event.remaining), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"
