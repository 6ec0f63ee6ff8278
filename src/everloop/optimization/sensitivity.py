"""Which operators of a quantised graph have to stay in float, so that it loses no more than a budget allows.

Everything is quantised first. If that loses too much, each operator is left in float alone, which tells how much of the loss is its
doing; then the worst stay in float, one after the other, until the rest is within the budget. Neighbours are taken together where there are
more operators than `MOST_TRIED`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_TRIED = 24


@dataclass(frozen=True)
class Choice:
    in_float: tuple[str, ...]
    loss: float
    payload: bytes
    all_quantised: float
    """What it would lose with nothing left in float."""


def choose(
    operators: Sequence[str], build: Callable[[Sequence[str]], bytes], loss: Callable[[bytes], float], budget: float
) -> Choice | None:
    """`build(in_float)` makes the graph; `loss(payload)` is its loss, 0 for none. None where not even one operator can be quantised."""
    payload = build(())
    lost = whole = loss(payload)
    if lost <= budget:
        return Choice((), lost, payload, whole)
    groups = _groups(operators)
    if len(groups) < 2:
        return None
    alone = {group: loss(build(group)) for group in groups}
    in_float: tuple[str, ...] = ()
    for group in sorted(groups, key=alone.__getitem__)[:-1]:
        in_float += group
        payload = build(in_float)
        lost = loss(payload)
        if lost <= budget:
            return Choice(in_float, lost, payload, whole)
    return None


def _groups(operators: Sequence[str]) -> list[tuple[str, ...]]:
    size = -(-len(operators) // MOST_TRIED)
    return [tuple(operators[i : i + size]) for i in range(0, len(operators), size)]
