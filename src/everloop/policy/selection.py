"""Which of several faithful forms of a model answers which sizes of requests.

Each form has been timed at each size, in rounds that had all of them. One form is chosen for all sizes if it is nowhere clearly slower than
the best one there: if the 90 % interval of the median of the rounds' ratios reaches down to `TOLERANCE`. Among several such the original stays, else the
one that is quickest over all sizes (least mean logarithm of its medians). Where no single form does, the sizes are cut into as few
stretches as possible, each with a form of its own: a stretch is extended from its smallest size on as long as some form does for all of it,
which gives the fewest.

Between two measured sizes a call's time is taken to be linear in its rows, so where the form changes, it changes where the lines cross.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec

TOLERANCE = 0.03
"""What a form may be slower than the best: less than the 5 % that are promised, as times are measured with an error."""
_DOUBT = 1.645
"""Standard deviations: equal forms, one of which had bad luck, are not told apart by that."""

Rounds = Mapping[str, Sequence[Sequence[float]]]
"""Form -> for each size, the seconds of a call in each round."""


class Stretch(msgspec.Struct, frozen=True):
    start: int
    """From this many rows on …"""
    form: str
    """… this form answers."""


def select(
    sizes: Sequence[int], rounds: Rounds, *, original: str, combine: bool = True, tolerance: float = TOLERANCE
) -> list[Stretch]:
    """`sizes` ascend. At least one stretch, the first from one row on; `combine=False` gives one."""
    times = {name: [statistics.median(each) for each in by_size] for name, by_size in rounds.items()}
    able = [_able(i, rounds, times, tolerance) for i in range(len(sizes))]
    if not combine:
        return [Stretch(1, _single(set.intersection(*able), rounds, times, original, tolerance))]
    stretches: list[Stretch] = []
    first = 0
    while first < len(sizes):
        names, last = able[first], first + 1
        while last < len(sizes) and names & able[last]:
            names, last = names & able[last], last + 1
        chosen = _preferred(names, times, original, slice(first, last))
        start = _crossing(sizes, times[stretches[-1].form], times[chosen], first) if stretches else 1
        stretches.append(Stretch(start, chosen))
        first = last
    return stretches


def _able(i: int, rounds: Rounds, times: Mapping[str, Sequence[float]], tolerance: float) -> set[str]:
    """The forms that are not clearly slower than the best, at one size."""
    best = rounds[min(times, key=lambda name: times[name][i])][i]
    return {name for name, by_size in rounds.items() if slowdown(by_size[i], best) <= 1 + tolerance}


def slowdown(ours: Sequence[float], best: Sequence[float]) -> float:
    """By which factor at least: the lower end of the median's interval, which is an order statistic (the binomial sign test, turned round)."""
    ratios = sorted(a / b for a, b in zip(ours, best, strict=True))
    return ratios[max(0, int((len(ratios) - _DOUBT * math.sqrt(len(ratios))) / 2))]


def _single(
    able: set[str], rounds: Rounds, times: Mapping[str, Sequence[float]], original: str, tolerance: float
) -> str:
    """Of those that are best at all sizes; where none is, the quickest of those that are nowhere clearly slower than the original."""
    if able:
        return _preferred(able, times, original, slice(None))
    base = rounds.get(original)
    fair = set(times)
    if base is not None:
        fair = {
            name
            for name, by_size in rounds.items()
            if all(slowdown(ours, theirs) <= 1 + tolerance for ours, theirs in zip(by_size, base, strict=True))
        }
    return _quickest(fair, times, slice(None))


def _preferred(names: set[str], times: Mapping[str, Sequence[float]], original: str, where: slice) -> str:
    return original if original in names else _quickest(names, times, where)


def _quickest(names: set[str], times: Mapping[str, Sequence[float]], where: slice) -> str:
    return min(sorted(names), key=lambda name: math.fsum(map(math.log, times[name][where])))


def _crossing(sizes: Sequence[int], before: Sequence[float], after: Sequence[float], i: int) -> int:
    """The first size beyond `sizes[i - 1]`, at most `sizes[i]`, at which the second form is not slower than the first."""
    low, high = sizes[i - 1], sizes[i]
    ahead, behind = after[i - 1] - before[i - 1], before[i] - after[i]
    if ahead <= 0 or behind <= 0:
        return low + 1 if ahead <= 0 else high
    return min(high, max(low + 1, math.ceil(low + (high - low) * ahead / (ahead + behind))))
