"""When to fit, and how long to wait after a fit that failed.

The learning loop keeps one `Progress` a model and asks `decide` at every step:

1. A drift alarm (`policy.drift.errors`): `since_change` = the alarm's offset, `fitted_since_change` = 0. As further
   examples come, `since_change` grows by one each.
2. `decide` says `drift`: fit on the rows since the change. When a fit has *started*, whether it succeeds or not: `new`
   = 0, `last_fit` = now, `fitted_since_change` = since_change. When it failed: `failures` + 1 and `retry_at` = now +
   backoff(failures, rng); when it succeeded: `failures` = 0. A verdict that says no is not a failure.
3. `decide` says `recovery` each time the rows since the change have grown by half: the first fit after an alarm sees few
   rows, and would serve until the next scheduled one. All of them together see at most three times the rows of the last.
4. When `since_change` reaches the length of the window the change is out of sight: set it to None.

Hand `Decision.recovering` to `policy.promotion.judge`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from everloop.policy.windows import LEAST_AFTER_CHANGE

Reason = Literal["first", "drift", "recovery", "schedule", "retry"]

_GROWTH = 1.5
"""With 2, decision trees stay more than a point below their best 1,000 examples after a drift (`benchmarks/drift.py`)."""
_BACKOFF_FIRST = 1.0
_BACKOFF_MOST = 300.0


@dataclass
class Progress:
    """What the decision depends on. Times in seconds of any one clock."""

    examples: int = 0
    """Labelled examples at hand to train on, in the window."""
    new: int = 0
    """Those that came since the last fit started."""
    champion: bool = False
    """Whether any version exists."""
    last_fit: float | None = None
    """When the last fit started."""
    since_change: int | None = None
    """Examples since the change point of the last drift alarm; None if there is none within the window."""
    fitted_since_change: int = 0
    """`since_change` when the last fit after that alarm started; 0 if none has."""
    failures: int = 0
    """Fits in a row that failed."""
    retry_at: float | None = None
    """Not before this time, after failures."""


@dataclass(frozen=True)
class Decision:
    reason: Reason | None
    """Why to fit now; None: do not."""
    wait: float | None = None
    """Seconds until time alone can change the answer; None: only new examples can."""
    recovering: bool = False
    """Whether to judge this fit with `recovering=True`: it answers an alarm, or follows one up."""

    @property
    def fit(self) -> bool:
        return self.reason is not None


def decide(progress: Progress, *, min_samples: int, interval_sec: float, now: float) -> Decision:
    """Fit now, and why: the first as soon as there are `min_samples`; after an alarm at once; else `interval_sec` after
    the last and with `min_samples` new ones; after failures no sooner than their backoff allows."""
    p = progress
    wanted: Reason | None = None
    if not p.champion and p.last_fit is None:
        wanted = "first" if p.examples >= min_samples else None
    elif p.since_change is not None and p.since_change >= max(LEAST_AFTER_CHANGE, _GROWTH * p.fitted_since_change):
        wanted = "recovery" if p.fitted_since_change else "drift"
    elif p.failures:
        wanted = "retry" if p.examples >= 1 else None
    if wanted is None:
        if p.last_fit is None and not p.champion:
            return Decision(None)
        if p.new < min_samples or p.examples < min_samples:
            return Decision(None)
        due = (p.last_fit if p.last_fit is not None else now - interval_sec) + interval_sec
        if now < due:
            return Decision(None, due - now)
        wanted = "schedule"
    if p.failures and p.retry_at is not None and now < p.retry_at:
        return Decision(None, p.retry_at - now)
    return Decision(wanted, recovering=p.since_change is not None and wanted != "schedule")


def backoff(failures: int, rng: random.Random) -> float:
    """Seconds to wait after so many failures in a row: 1, 2, 4 … at most 300, each times a random factor in [0.5, 1) so
    that models which failed together do not retry together."""
    full = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2.0 ** min(max(failures - 1, 0), 60))
    return full * (0.5 + 0.5 * rng.random())
