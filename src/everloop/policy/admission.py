"""DECIDE whether a request may join a queue: by how long it would be held up, not by how many are there. Pure: the batcher tells what is.

    wait    = what is left of the run under way + the full batches that are ahead
    run     = of the batch that it would join
    held up = wait + run - the run that it would have alone

Rules.

1. Whoever finds nobody waiting and nothing running is taken, unless the run itself is longer than its deadline.
2. A queue is as long as its wait: nobody is held up for longer than `max_wait`, and where a latency is promised, wait and run keep it.
   Nothing said: ten times what the model takes for one row, at least a second, and at most ten or two such rows; who waits longer has
   mostly gone. So what one slow input teaches of a row does not become what everybody behind it waits.
3. A request that cannot be answered before its deadline is refused now: as `deadline` if the run alone is too long, as `queue` if
   an empty queue would have let it through.
4. Shares are dynamic thresholds (Choudhury and Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches, IEEE/ACM
   ToN 6(2), 1998): whoever shares something may hold at most `SHARE` times what is still free of it. One alone gets SHARE/(1+SHARE) of
   it; with each that joins in, all hold less and as much as each other; and whoever holds nothing always finds room. There is nothing
   to be configured, and nobody to be counted who holds nothing.

The same rule keeps callers apart in the queue of one lane (in seconds), and lanes apart in the memory of one process (in bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Ground = Literal["queue", "share", "deadline", "memory"]
"""Why somebody is turned away: the queue is too long, the caller has its share of it, the run takes longer than the deadline leaves,
or all queues together hold as much as the process may."""

SHARE = 4.0
"""Of what is free; one caller alone may fill four fifths, so a fifth is there for who comes next."""
PROMISED = 0.8
"""Of a promised latency that may be planned with: the rest is for answering, and for what the estimate did not know."""
PATIENCE = 10.0
"""How often the cost of one row a request waits where nobody said how long."""
LEAST_PATIENCE = 1.0
"""Seconds that it waits at least."""
MOST_PATIENCE, MOST_ROWS = 10.0, 2.0
"""Seconds that it waits at most; and rows, of a model that takes longer than that for them: the one under way, and one that was before it."""
LEAST_RETRY = 0.05


class Curve(Protocol):
    """What batches take (`policy.pacing.Pace`)."""

    def likely(self, rows: int) -> float:
        """Seconds that hardly any batch of so many rows takes longer than."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a lane's settings say of waiting, in seconds."""

    max_wait: float | None = None
    """For how long others may hold up a request; None: as rule 2 says."""
    target: float | None = None
    """The latency that is promised for an answer; None: none is."""


@dataclass(frozen=True, slots=True)
class Refused:
    ground: Ground
    wait: float
    """Seconds by which others would have held it up: before its run, and by what runs with it."""
    retry_after: float
    """Seconds after which it should find room."""


def remaining(estimate: float, elapsed: float) -> float:
    """Seconds that are left of a run. One that is overdue is taken to need as long again as it is late: the longer it hangs, the less
    is accepted behind it."""
    return abs(estimate - elapsed)


def run_seconds(rows: int, size: int, curve: Curve) -> float:
    """What `rows` rows take, in batches of at most `size`."""
    if rows <= size:
        return curve.likely(rows)
    full, rest = divmod(rows, size)
    return full * curve.likely(size) + (curve.likely(rest) if rest else 0.0)


def predicted_wait(left: float, waiting: int, size: int, curve: Curve) -> float:
    """Seconds until the run of a request that comes now begins, behind `waiting` rows and `left` seconds of a run under way."""
    ahead = waiting // size
    return left + (ahead * curve.likely(size) if ahead else 0.0)


def longest_delay(limits: Limits, alone: float, curve: Curve) -> float:
    """Seconds for which a request may be held up that would take `alone` without others."""
    longest = limits.max_wait
    if limits.target is not None:
        promised = max(0.0, PROMISED * limits.target - alone)
        longest = promised if longest is None else min(longest, promised)
    if longest is not None:
        return longest
    row = curve.likely(1)
    return max(LEAST_PATIENCE, min(PATIENCE * row, max(MOST_PATIENCE, MOST_ROWS * row)))


def refuse(
    limits: Limits,
    curve: Curve,
    *,
    size: int,
    left: float,
    waiting: int,
    rows: int,
    held: int = 0,
    time_left: float | None = None,
) -> Refused | None:
    """None: it may join. `size`: rows of the batches that are made now; `left`: of the run under way; `waiting`, `rows`, `held`: rows
    in the queue, of the request, and of the queue's those of the same caller; `time_left`: until the request's deadline."""
    alone = run_seconds(rows, size, curve)
    behind = waiting % size
    run = max(alone, curve.likely(behind + rows)) if behind + rows <= size else alone + curve.likely(behind)
    wait = predicted_wait(left, waiting, size, curve)
    delay = wait + run - alone
    if time_left is not None and wait + run > time_left:
        if alone > time_left:
            return Refused("deadline", delay, max(LEAST_RETRY, wait))
        return Refused("queue", delay, max(LEAST_RETRY, wait + run - time_left))
    if not waiting and left <= 0.0:
        return None
    longest = longest_delay(limits, alone, curve)
    if delay > longest:
        return Refused("queue", delay, max(LEAST_RETRY, delay - longest))
    if held and not within_share(held * curve.likely(size) / size, longest - delay):
        return Refused("share", delay, max(LEAST_RETRY, wait))
    return None


def within_share(held: float, free: float) -> bool:
    """Whether one that holds so much may take more, where so much is free."""
    return held <= SHARE * free
