"""Factors of items and users from who did what, by alternating least squares.

Each half round solves one small system a row: the users' with the items held still, then the items' with the users. Rows are taken by
how many interactions they have, in blocks of about one size, so that NumPy multiplies and LAPACK solves a whole block at a time;
100,000 interactions take seconds. The method and its sources are those of `runtime.factors_model`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from everloop.runtime.factors_model import FactorParameters, Floats, Places, strengths

_BLOCK = 1 << 21
"""Numbers that a block may hold at once, 16 MiB."""


class Interactions(NamedTuple):
    """In order of time; (n,) each. Of one user and item there may be several: the newest counts."""

    users: Places
    items: Places
    labels: Floats


class _Side(NamedTuple):
    """Interactions as one side sees them, grouped by its rows."""

    others: Places
    strength: Floats
    liked: Floats
    starts: Places
    """(rows + 1,)"""


def factorize(
    given: Interactions,
    people: int,
    items: int,
    parameters: FactorParameters,
    *,
    typical: float,
    start: Floats | None = None,
) -> tuple[Floats, Floats]:
    """(people, k) and (items, k). `start`: factors of the first items, from which the rounds go on. The same input gives the same
    factors."""
    k = parameters.factors
    rng = np.random.default_rng(parameters.seed)
    Y = rng.normal(0.0, 1.0 / np.sqrt(k), (items, k)) / np.sqrt(k)
    if start is not None:
        Y[: len(start)] = np.where(start.any(axis=1, keepdims=True), start, Y[: len(start)])
    strength, liked = strengths(given.labels, typical, parameters.dislike_below)
    by_user = _side(given.users, given.items, (strength, liked), people)
    by_item = _side(given.items, given.users, (strength, liked), items)
    with threadpool_limits(1):  # of matrices this small several threads are many times slower
        for _ in range(parameters.iterations):
            X = _solved(by_user, Y, parameters)
            Y = _solved(by_item, X, parameters)
        return _solved(by_user, Y, parameters), Y


def left_out(given: Interactions, Y: Floats, people: int, parameters: FactorParameters, typical: float) -> Floats:
    """(n,): the score that each interaction would have had, had its user not made it, with the items as they are.

    With one row left out of a least squares its answer there is (ŷ - h·p) / (1 - h), where h is the row's leverage."""
    strength, liked = strengths(given.labels, typical, parameters.dislike_below)
    order = np.argsort(given.users, kind="stable")
    side = _side(given.users, given.items, (strength, liked), people)
    scores = np.empty(len(order))
    for _, places, mask in _blocks(side, Y.shape[1]):
        V, weight, target = _gathered(side, Y, places, mask)
        systems = _systems(V, weight, mask.sum(axis=1), Y, parameters)
        solved = np.linalg.solve(systems, np.swapaxes(V, 1, 2))
        leverage = np.einsum("rlk,rkl->rl", V, solved) * weight
        whole = np.einsum("rlk,rk->rl", V, np.einsum("rkl,rl->rk", solved, weight * target))
        out = (whole - leverage * target) / np.maximum(1.0 - leverage, 1e-9)
        scores[places[mask]] = out[mask]
    back = np.empty(len(order))
    back[order] = scores
    return back


def _side(rows: Places, others: Places, told: tuple[Floats, Floats], count: int) -> _Side:
    order = np.argsort(rows, kind="stable")
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=starts[1:])
    return _Side(others[order], told[0][order], told[1][order], starts)


def _solved(side: _Side, other: Floats, parameters: FactorParameters) -> Floats:
    """(rows, k)"""
    k = other.shape[1]
    found = np.zeros((len(side.starts) - 1, k))
    for rows, places, mask in _blocks(side, k):
        V, weight, target = _gathered(side, other, places, mask)
        systems = _systems(V, weight, mask.sum(axis=1), other, parameters)
        wanted = np.einsum("rlk,rl->rk", V, weight * target)
        found[rows] = np.linalg.solve(systems, wanted[:, :, None])[:, :, 0]
    return found


def _systems(V: Floats, weight: Floats, counts: Places, other: Floats, parameters: FactorParameters) -> Floats:
    k, alpha = other.shape[1], parameters.unobserved
    ridge = np.maximum(parameters.regularization * (counts + alpha * len(other)), 1e-9)
    moments = np.matmul(np.swapaxes(V * weight[:, :, None], 1, 2), V)
    systems: Floats = moments + alpha * (other.T @ other) + ridge[:, None, None] * np.eye(k)
    return systems


def _gathered(side: _Side, other: Floats, places: Places, mask: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Vectors (rows, longest, k), strengths and whether liked (rows, longest); nothing where a row is shorter."""
    V = other[side.others[places]] * mask[:, :, None]
    return V, side.strength[places] * mask, side.liked[places] * mask


def _blocks(side: _Side, k: int) -> Iterator[tuple[Places, Places, npt.NDArray[np.bool_]]]:
    """Rows that have any, with the places of their interactions (rows, longest) and which of these are theirs."""
    lengths = np.diff(side.starts)
    rows = np.argsort(lengths, kind="stable")
    rows = rows[lengths[rows] > 0]
    at = 0
    while at < len(rows):
        # as many as fit, none of them twice as long as the shortest
        until = at + int(np.searchsorted(lengths[rows[at:]], 2 * lengths[rows[at]], side="right"))
        longest = int(lengths[rows[until - 1]])
        until = min(until, at + max(1, _BLOCK // (longest * k + k * k)))
        some = rows[at:until]
        longest = int(lengths[some[-1]])
        steps = np.arange(longest)
        mask = steps < lengths[some][:, None]
        places = np.where(mask, side.starts[some][:, None] + steps, 0)
        yield some, places, mask
        at = until
