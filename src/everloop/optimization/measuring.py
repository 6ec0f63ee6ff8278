"""What a call of each form costs, by number of rows: all forms in turns, on one thread.

A call is what the server makes of a batch: from checked rows to plain answers, through one array; one row by the form's own function of a
row, where it compiles one. Every block of calls takes about `BLOCK_SECONDS`; a round has a block of each form
for each size, in another order every round, so that a machine which slows down slows all of them. Time in which the thread waits for a core
is not counted. Told is the median of the rounds.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from everloop.core.types import Row
from everloop.optimization.asking import one_row, several_rows
from everloop.parallel.executors.calling import starved
from everloop.runtime.session import Session

BLOCK_SECONDS = 0.002
ROUNDS = 101
HOPELESS = 1.5
FEWEST = 5
"""Rounds, however little time there is."""
DIFFERENT = 32
"""Inputs of one size that are asked in turns: no form profits from having just seen the same."""


Call = Callable[[], Any]


def calls(session: Session, rows: Sequence[Row], size: int) -> list[Call]:
    """Different calls of `size` rows each."""
    if size == 1:
        return [_bound(one_row(session, row), list(row)) for row in rows[:DIFFERENT]]
    ask = several_rows(session)
    batches = range(min(DIFFERENT, max(1, len(rows) // size)))
    return [_bound(ask, [rows[(batch * size + i) % len(rows)] for i in range(size)]) for batch in batches]


def _bound(function: Callable[[Any], Any], value: Any) -> Call:
    return lambda: function(value)


def measure(
    sessions: Mapping[str, Session],
    rows: Sequence[Row],
    sizes: Sequence[int],
    *,
    seconds: float,
    rounds: int = ROUNDS,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[list[float]]]:
    """Form -> for each size the seconds of a call, one value a round. About `seconds` in all, where `FEWEST` rounds take no longer.

    Rows must be answerable by every form."""
    from threadpoolctl import threadpool_limits

    order = random.Random(seed)  # noqa: S311 - it only has to differ from round to round
    taken: dict[str, list[list[float]]] = {name: [[] for _ in sizes] for name in sessions}
    with threadpool_limits(1), np.errstate(all="ignore"):
        blocks = []
        one_round = 0.0
        for name, session in sessions.items():
            for i, size in enumerate(sizes):
                made = calls(session, rows, size)
                repeats, block = _calibrate(made, clock)
                one_round += block
                blocks.append((name, i, made, repeats))
        many = int(min(rounds, max(FEWEST, seconds / max(one_round, 1e-9))))
        for _ in range(many):
            for name, i, made, repeats in order.sample(blocks, len(blocks)):
                taken[name][i].append(_timed(made, repeats, clock))
    return taken


def contenders(times: Mapping[str, Sequence[float]]) -> list[str]:
    """The forms that are not out of reach of the best: at some size less than `HOPELESS` times as slow."""
    best = [min(each) for each in zip(*times.values(), strict=True)]
    return [name for name, each in times.items() if any(t < HOPELESS * b for t, b in zip(each, best, strict=True))]


def medians(taken: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    return {name: [statistics.median(each) for each in by_size] for name, by_size in taken.items()}


def _calibrate(made: Sequence[Call], clock: Callable[[], float]) -> tuple[int, float]:
    """How many calls a block has, and its seconds. The first calls warm the form up."""
    made[0]()
    seconds = min(_timed(made, 1, clock) for _ in range(3))
    repeats = max(1, min(10_000, round(BLOCK_SECONDS / max(seconds, 1e-9))))
    return repeats, repeats * seconds


def _timed(made: Sequence[Call], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds a call, without what its thread waited for a core."""
    asked = [made[i % len(made)] for i in range(repeats)]
    if repeats > 1:  # not what the form that was asked before has left in the caches
        made[-1]()
    waited, worked, begun = starved("thread-self"), time.thread_time(), clock()
    for call in asked:
        call()
    passed, worked = clock() - begun, time.thread_time() - worked
    return max(worked, passed - (starved("thread-self") - waited)) / repeats
