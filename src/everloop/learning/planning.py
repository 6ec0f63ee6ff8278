"""What a fit is to look at: which windows, which rows to judge by, and where it runs. Decides only; touches nothing.

    window    [ ................ known to the champion ................ | unseen by it ....... ]
    lengths   [ train ......................................................... | held out ]
                                                                                 the newest of the unseen

When all that is unseen were held out, the challenger would be trained on just what the champion was; so at most half of it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from everloop.learning.config import LearningConfig
from everloop.learning.learners.base import Weight
from everloop.learning.window import Slice, Window
from everloop.policy.promotion import LEAST_ROWS
from everloop.policy.windows import candidate_windows, holdout_rows

LEAST_UNSEEN = 2 * LEAST_ROWS
"""With fewer rows that the champion does not know, no verdict would be evidence."""
_TINY = 256
"""Values in a window so small that even an unknown learner is fitted on a thread."""
_THREAD_SECONDS = 0.005
_ALL_CANDIDATES_SECONDS = 5.0
"""A fit that takes longer tries the preferred window only."""


@dataclass(frozen=True)
class Plan:
    train: Slice
    held: Slice
    validation: Slice
    lengths: list[int]
    cut: int | None
    """How many of the newest rows came since the change; None if no change is known."""
    seen: bool
    """The held-out rows are known to the champion: its losses flatter it."""
    heavy: bool


def plan_fit(
    window: Window,
    validation: Window,
    *,
    trained_until: int | None,
    cut_id: int,
    config: LearningConfig,
    weight: Weight,
    rate: float | None,
    width: int,
    force: bool = False,
) -> Plan | None:
    """None where a fit could prove nothing yet. `trained_until`: the newest example that the champion knows; None without
    one. `rate`: seconds a row of the last fit."""
    n = len(window)
    cut = window.count_from(cut_id) if cut_id else None
    if cut is not None and cut >= n:
        cut = None
    lengths = candidate_windows(n, config.min_samples, cut)
    if not lengths:
        return None
    held = holdout_rows(cut if cut is not None and lengths[0] == cut else n, config.holdout)
    seen = False
    if trained_until is not None:
        unseen = window.count_from(trained_until + 1)
        if unseen >= LEAST_UNSEEN:
            held = min(held, max(LEAST_ROWS, unseen // 2))
        elif not force:
            return None
        else:
            seen = unseen < held
    seconds = rate * n if rate is not None else None
    heavy = weight == "heavy" or (
        weight == "unknown" and (n * width > _TINY if seconds is None else seconds * len(lengths) > _THREAD_SECONDS)
    )
    if heavy and (seconds is None or seconds > _ALL_CANDIDATES_SECONDS):
        lengths = lengths[:1]
    rows = window.newest(max(lengths))
    train = rows.part(0, len(rows) - held)
    first = max(cut_id, int(rows.ids[-min(lengths[0], len(rows))]))
    return Plan(
        train=train,
        held=rows.part(len(rows) - held, len(rows)),
        validation=validation.newest(validation.count_from(first)),
        lengths=lengths,
        cut=cut,
        seen=seen,
        heavy=heavy,
    )
