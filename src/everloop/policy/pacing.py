"""DECIDE how large batches may be and when they leave, by what batches of each size have taken. Pure: time is an argument.

    a batch of n rows took t seconds ──► Pace.observe ──► Pace.estimate ─┬─► size_within(target)   how many rows
                                                                         └─► release(window …)     when

Theory of operation. A `Pace` keeps the seconds of batches of 1, 2, 4, 8 … rows, and straight lines between them. Each batch moves the two
sizes beside it by an exponentially weighted mean. Sizes that were never seen move in proportion to those nearest to them that were, so a
machine that is twice as slow as it was when the model was measured is known to be so for all sizes after a few batches.

Under load a request that comes just after a batch has left waits for that run and then for its own. So batches of n rows keep a target
if two such runs fit into it, with what runs spread on top. Waiting for more rows while the model is free makes nobody sooner: batches
leave as soon as the model is free, unless a window says otherwise, and then so early that neither target nor deadline is missed.
"""

from __future__ import annotations

from typing import Literal, get_args

from everloop.policy.batching import EWMA_WEIGHT, MEASURED_SIZES, OUTLIER, BatchRules, CostCurve

Reason = Literal["full", "target", "window", "deadline", "idle"]
"""Why a batch left: it was as large as it may be; it was as large, or its oldest request as old, as the latency target allows; the window
was over; the deadline of one of its requests was near; or the model was free and nothing asked to wait."""
REASONS: tuple[Reason, ...] = get_args(Reason)

KNOTS = 15
"""Sizes that are learned: 1 to 16,384 rows."""
MEASURED_KNOTS = tuple(size.bit_length() - 1 for size in MEASURED_SIZES)
PLANNED = 0.8
"""Of a target, or of the time until a deadline, that may be planned with: the rest is for answering, and for what nobody foresees."""
FAST_ENOUGH = 0.95
"""Of the greatest number of rows a second."""
ROUNDS = 2
"""Runs that a request may have to see through: the one under way when it comes, and its own."""
SPREADS = 2.0
"""How many mean deviations above the mean a run is expected to take."""
SPREAD_WEIGHT = 0.1


class Pace:
    """What a batch takes, learned from those that ran. Written by one thread, read by any."""

    __slots__ = ("_beside", "_known", "_prior", "_seconds", "spread")

    def __init__(self, prior: CostCurve) -> None:
        """`prior`: as measured before anybody asked."""
        self._prior = [max(prior.estimate(1 << knot), 1e-9) for knot in range(KNOTS)]
        self._seconds = list(self._prior)
        self._known: set[int] = set()
        self._beside = [(knot, knot, 0.0) for knot in range(KNOTS)]
        """Of each knot, the nearest ones below and above that batches have shown, and how near it is to the upper one; itself before the
        first batch."""
        self.spread = 0.0
        """Mean deviation of a run from what was expected, as a share of that."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those that batches have shown; before the first one, what was measured."""
        return tuple(1 << knot for knot in sorted(self._known) or (*MEASURED_KNOTS,))

    @property
    def seconds(self) -> tuple[float, ...]:
        """Of a batch of each of `sizes`."""
        return tuple(self.estimate(size) for size in self.sizes)

    def estimate(self, rows: int) -> float:
        """Seconds that a batch of so many rows should take."""
        if rows <= 1:
            return self._at(0)
        knot = min(rows.bit_length() - 1, KNOTS - 2)
        low = self._at(knot)
        return max(low + (rows / (1 << knot) - 1.0) * (self._at(knot + 1) - low), 1e-9)

    def likely(self, rows: int) -> float:
        """Seconds that hardly any batch of so many rows takes longer than."""
        return self.estimate(rows) * (1.0 + SPREADS * self.spread)

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of `rows` rows took so long. What was preempted by another process counts as `OUTLIER` times what was expected."""
        off = min(max(seconds / self.estimate(rows), 1.0 / OUTLIER), OUTLIER) - 1.0
        self.spread += SPREAD_WEIGHT * (abs(off) - self.spread)
        knot = min(max(rows, 1).bit_length() - 1, KNOTS - 2)
        right = min(rows / (1 << knot) - 1.0, 1.0)
        if right < 1.0:
            self._move(knot, (1.0 - right) * off)
        if right > 0.0:
            self._move(knot + 1, right * off)

    def _at(self, knot: int) -> float:
        low, high, share = self._beside[knot]
        if low == knot:
            return self._seconds[knot]
        seconds, prior = self._seconds, self._prior
        below = seconds[low] / prior[low]
        return prior[knot] * (below + share * (seconds[high] / prior[high] - below))

    def _move(self, knot: int, off: float) -> None:
        self._seconds[knot] = self._at(knot) * (1.0 + EWMA_WEIGHT * off)
        if knot not in self._known:
            self._known.add(knot)
            self._beside = [self._neighbours(each) for each in range(KNOTS)]

    def _neighbours(self, knot: int) -> tuple[int, int, float]:
        low = max((known for known in self._known if known <= knot), default=min(self._known))
        high = min((known for known in self._known if known >= knot), default=low)
        low = min(low, high)
        return low, high, 0.0 if low == high else (knot - low) / (high - low)


def size_within(target: float, pace: Pace, most: int) -> int:
    """The largest batch, of at most `most` rows, with which requests are answered within `target` seconds; 1 if none does."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        if ROUNDS * pace.likely(middle) <= PLANNED * target:
            low = middle
        else:
            high = middle - 1
    return low


def fastest_size(pace: Pace, most: int) -> int:
    """The smallest batch that answers about as many rows a second as any: for a queue that is late already. A larger one would make
    everybody wait longer for next to nothing."""
    sizes = [*(1 << knot for knot in range(KNOTS) if 1 << knot < most), most]
    rates = [size / pace.estimate(size) for size in sizes]
    enough = FAST_ENOUGH * max(rates)
    return next(size for size, rate in zip(sizes, rates, strict=True) if rate >= enough)


def release(since: float, run: float, deadline: float | None, rules: BatchRules) -> tuple[float, Reason]:
    """When a batch that is not full should leave, and why then. `since`: when its oldest request came; `run`: seconds that it will take;
    `deadline`: the first one of its requests. All of one clock."""
    if not rules.window_seconds:
        return since, "idle"
    at, why = since + rules.window_seconds, "window"
    if rules.target_seconds is not None and since + PLANNED * rules.target_seconds - run < at:
        at, why = since + PLANNED * rules.target_seconds - run, "target"
    if deadline is not None and since + PLANNED * (deadline - since) - run < at:
        at, why = since + PLANNED * (deadline - since) - run, "deadline"
    return at, why  # type: ignore[return-value]


def hopeless(deadline: float, now: float, pace: Pace) -> bool:
    """Whether even a run of one row would come too late."""
    return now + pace.estimate(1) > deadline
