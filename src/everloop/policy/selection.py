"""Which of several faithful forms of a model answers which sizes of requests.

Each form has a time a call at each measured size. One form is chosen for all sizes if it is nowhere more than `TOLERANCE` slower than the
best one there; among several such the original stays, else the one that is quickest over all sizes (least mean logarithm of time, weighted
by how much of the traffic each size is). Where no single form does, the sizes are cut into as few stretches as possible, each with a form
of its own: stretches are extended from the smallest size on as long as some form does for all of it, which gives the fewest.

Between two measured sizes a call's time is taken to be linear in its rows, so where the best form changes, it changes where the lines cross.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

TOLERANCE = 0.03
"""What a form may be slower than the best: less than the 5 % that are promised, as times are measured with an error."""


class Stretch(msgspec.Struct, frozen=True):
    start: int
    """From this many rows on …"""
    form: str
    """… this form answers."""


Times = Mapping[str, Sequence[float]]
"""Form -> seconds a call, for each of the sizes."""


def select(
    sizes: Sequence[int],
    times: Times,
    *,
    original: str,
    weights: Sequence[float] | None = None,
    combine: bool = True,
    tolerance: float = TOLERANCE,
) -> list[Stretch]:
    """`sizes` ascending; `times` has an entry for `original`. At least one stretch, the first from 1 row on.

    `combine=False` gives one stretch: the quickest over all sizes."""
    best = [min(each[i] for each in times.values()) for i in range(len(sizes))]
    feasible = [
        {name for name, each in times.items() if each[i] <= best[i] * (1 + tolerance)} for i in range(len(sizes))
    ]
    weights = list(weights) if weights is not None else [1.0] * len(sizes)

    def choose(names: Sequence[str], first: int, last: int) -> str:
        """The original if it may, else the quickest over `sizes[first:last]`."""
        if original in names:
            return original
        return min(names, key=lambda name: math.fsum(weights[i] * math.log(times[name][i]) for i in range(first, last)))

    if not combine:
        everywhere = set.intersection(*feasible)
        names = [name for name in times if name in everywhere] or list(times)
        if everywhere:
            return [Stretch(1, choose(names, 0, len(sizes)))]
        return [
            Stretch(
                1,
                min(
                    names,
                    key=lambda name: math.fsum(w * math.log(t) for w, t in zip(weights, times[name], strict=True)),
                ),
            )
        ]
    stretches: list[Stretch] = []
    first = 0
    while first < len(sizes):
        able, last = feasible[first], first + 1
        while last < len(sizes) and able & feasible[last]:
            able, last = able & feasible[last], last + 1
        chosen = choose([name for name in times if name in able], first, last)
        start = 1 if not stretches else _crossing(sizes, times, stretches[-1].form, chosen, first)
        stretches.append(Stretch(start, chosen))
        first = last
    return stretches


def _crossing(sizes: Sequence[int], times: Times, before: str, after: str, i: int) -> int:
    """The first size, beyond `sizes[i - 1]` and up to `sizes[i]`, at which `after` is not slower than `before`."""
    low, high = sizes[i - 1], sizes[i]
    ahead = times[after][i - 1] - times[before][i - 1]
    behind = times[before][i] - times[after][i]
    if ahead <= 0:  # within the tolerance already there
        return low + 1
    if behind <= 0:
        return high
    return min(high, max(low + 1, math.ceil(low + (high - low) * ahead / (ahead + behind))))
