"""How much of the past a fit sees, and how much of it is kept back to judge by.

All windows are numbers of the newest rows, held-out rows included: a window of 100 with 20 held out trains on the 80
that precede the newest 20. Order of calls for one refit:

    lengths = candidate_windows(n, min_samples, cut)          # the preferred one first
    held = holdout_rows(lengths[0] if cut else n, holdout)    # the newest rows; the same for all candidates
    for length in lengths: fit a clone on rows[n - length : n - held], take its losses on rows[n - held :]
    length = choose(losses)                                   # which of them becomes the challenger
    judge(champion's losses on the same rows, losses[length], ...)

A learner whose fit is heavy may try only `lengths[0]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from everloop.policy.promotion import LEAST_ROWS, mean_interval

MOST_HELD_OUT = 2_000
"""More would make a verdict no clearer (an error rate is then known to about one point), only the fit poorer."""
LEAST_TRAINED = 5
"""Fewer rows than this are no fit worth judging."""
LEAST_AFTER_CHANGE = LEAST_ROWS + LEAST_TRAINED
"""Examples since a change point from which on a fit on them alone can be judged."""
_MOST_CANDIDATES = 5


def holdout_rows(n: int, holdout: float, *, most: int = MOST_HELD_OUT) -> int:
    """How many of the newest of `n` rows are held out: the share `holdout`, at least 5 and at most `most`, never more
    than half. 0 where there are fewer than 2 rows."""
    if n < 2:
        return 0
    wanted = max(LEAST_ROWS, round(n * holdout))
    return max(1, min(wanted, most, n // 2))


def candidate_windows(n: int, min_samples: int, cut: int | None = None) -> list[int]:
    """Lengths worth trying on a history of `n` rows, the preferred one first; empty if n is 0.

    `cut`: how many of the newest rows came after the change point, where a drift alarm told one. Then the rows since
    the change come first, and the whole history stays in the race in case that nothing of substance has changed.
    Without a cut: the whole history, then ever shorter ones by a factor of the square root of 2 down to `min_samples`,
    which find a change that no alarm told of.
    """
    if n <= 0:
        return []
    if cut is not None and LEAST_AFTER_CHANGE <= cut < n:
        return [cut, n]
    lengths = [n]
    while len(lengths) < _MOST_CANDIDATES:
        shorter = round(n * 2 ** (-len(lengths) / 2))
        if shorter < max(min_samples, LEAST_AFTER_CHANGE):
            break
        lengths.append(shorter)
    return lengths


def choose(losses: Mapping[int, npt.NDArray[np.float64] | Sequence[float]]) -> int:
    """The window whose model is to be the challenger. `losses`: window length -> one loss a held-out row, (n,), in the
    order of preference. A later one wins only on evidence against the best so far, so that noise never shortens the
    window. A candidate with a loss that is not finite wins only if all have one."""
    chosen: int | None = None
    best: npt.NDArray[np.float64] | None = None
    for length, values in losses.items():
        candidate = np.asarray(values, np.float64)
        if not np.isfinite(candidate).all():
            continue
        if best is None or (len(candidate) and mean_interval(best - candidate)[0] > 0):
            chosen, best = length, candidate
    return next(iter(losses)) if chosen is None else chosen
