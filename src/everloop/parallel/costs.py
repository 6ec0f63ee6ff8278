"""What this machine's workers cost: measured once with the very executors that are then used, and kept beside the history.

Until they are measured the defaults of `MachineCosts` hold: a wrong one shifts where parallel work begins to pay by some milliseconds. A
measurement takes some 50 ms with workers that are up. It counts CPU time, so that a busy machine does not make every way look long, repeats
each step, and keeps the least.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from everloop.core.errors import WorkerDied
from everloop.parallel.cost import MachineCosts
from everloop.parallel.executors.base import Executor
from everloop.parallel.work import Chunk, ExecutorKind

Opening = Callable[[ExecutorKind, Callable[[Any], Any], int], Executor]
"""Kind, function, workers."""

REPEATS = 3
_CHUNKS = 60
_ITEMS = 1_000
_BYTES = 1 << 20
_ANSWERS = 4
_PATIENCE = 10.0
_FORMAT = 1
_STAMP = None
"""The item that a worker answers with its CPU time so far."""


def load(folder: Path, key: str) -> MachineCosts:
    """Those kept for the machine that `key` stands for; the defaults where there are none, or none that can be read."""
    try:
        kept = json.loads((folder / f"costs_{key}.json").read_text())
        if kept.pop("format") != _FORMAT:
            return MachineCosts()
        names = {each.name for each in fields(MachineCosts)}
        costs = MachineCosts(**{name: value for name, value in kept.items() if name in names})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return MachineCosts()
    numbers = [value for value in asdict(costs).values() if not isinstance(value, bool)]
    sane = all(isinstance(value, float) and 0.0 <= value < 60.0 for value in numbers)
    return costs if sane else MachineCosts()


def keep(folder: Path, key: str, costs: MachineCosts) -> bool:
    """False where the folder cannot be written: they are then measured again some time."""
    from everloop.parallel.history import write_atomically

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"costs_{key}.json", json.dumps({"format": _FORMAT, **asdict(costs)}).encode())
    except OSError:
        return False
    return True


def measure(opening: Opening, known: MachineCosts | None = None) -> MachineCosts:
    """By sending work that takes no time. What a start takes is not measured here (the workers may be up): see `learned`. Raises WorkerDied where a worker does not live to
    the end of it."""
    chunk, item, byte = _ways(opening, "process")
    thread_chunk, thread_item, _ = _ways(opening, "thread")
    return replace(
        known or MachineCosts(),
        process_chunk=chunk,
        process_item=item,
        byte_seconds=byte,
        thread_chunk=thread_chunk,
        thread_item=thread_item,
        measured=True,
    )


def learned(known: MachineCosts, spawn_seconds: float | None) -> MachineCosts:
    """With what the starts of a run took. Quicker ones are believed sooner: a busy machine only makes them slower."""
    if not spawn_seconds or not math.isfinite(spawn_seconds):
        return known
    weight = 0.5 if spawn_seconds < known.spawn_seconds else 0.1
    return replace(known, spawn_seconds=known.spawn_seconds + weight * (spawn_seconds - known.spawn_seconds))


def nothing(item: Any) -> Any:
    return time.process_time() if item is _STAMP else item


def so_many(size: int | None) -> Any:
    return time.process_time() if size is _STAMP else bytes(size)


def _ways(opening: Opening, kind: ExecutorKind) -> tuple[float, float, float]:
    """Seconds of a chunk, an item and a byte, both sides' work together."""
    executor = opening(kind, nothing, 1)
    try:
        _pass(executor, 1, [0])  # up, and the function there
        chunk = min(_pass(executor, _CHUNKS, [0]) for _ in range(REPEATS)) / _CHUNKS
        many = min(_pass(executor, 2, list(range(_ITEMS))) for _ in range(REPEATS)) / 2
    finally:
        executor.close()
    item = max(0.0, many - chunk) / _ITEMS
    if kind == "thread":
        return chunk, item, 0.0
    executor = opening(kind, so_many, 1)
    try:
        _pass(executor, 1, [0])
        large = min(_pass(executor, _ANSWERS, [_BYTES]) for _ in range(REPEATS)) / _ANSWERS
    finally:
        executor.close()
    return chunk, item, max(0.0, large - chunk) / _BYTES


def _pass(executor: Executor, count: int, items: list[Any]) -> float:
    """CPU seconds that `count` chunks of these items take, here and in the worker."""
    here = executor.kind == "thread"
    clock = time.process_time if here else time.thread_time
    elsewhere = 0.0 if here else _send(executor, 1, [_STAMP])
    began = clock()
    _send(executor, count, items)
    took = clock() - began
    return took if here else took + _send(executor, 1, [_STAMP]) - elsewhere


def _send(executor: Executor, count: int, items: list[Any]) -> Any:
    """The last value that comes back. Raises WorkerDied."""
    sent = back = 0
    last = None
    while back < count:
        while sent < count and executor.room > 0:
            executor.submit(Chunk(number=sent, first=sent * len(items), items=items))
            sent += 1
        answers = executor.collect(timeout=_PATIENCE)
        lost = "no answer" if not answers else next((each.lost for each in answers if each.lost), None)
        if lost is None and any(each.spoiled or each.failures for each in answers):
            lost = "an answer did not come back whole"
        if lost is not None:
            raise WorkerDied(f"the costs of this machine's workers could not be measured: {lost}")
        for answer in answers:
            if answer.count:
                back += 1
                last = answer.values[-1]
            else:  # handed back by a worker that was held up
                executor.submit(answer.chunk)
    return last
