"""Which operators stay in float: the worst, as few as will do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.optimization.sensitivity import MOST_TRIED, Choice, choose


class Losses:
    """Each operator's own share of the loss, which adds up."""

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = {f"op{i}": share for i, share in enumerate(shares)}
        self.built = 0

    def build(self, in_float: Sequence[str]) -> bytes:
        self.built += 1
        return ",".join(in_float).encode()

    def loss(self, payload: bytes) -> float:
        kept = set(payload.decode().split(","))
        return sum(share for name, share in self.shares.items() if name not in kept)

    def choose(self, budget: float) -> Choice | None:
        return choose(list(self.shares), self.build, self.loss, budget)


def test_nothing_is_left_in_float_where_all_of_it_is_within_the_budget() -> None:
    losses = Losses([0.1, 0.2])
    chosen = losses.choose(0.5)
    assert chosen is not None
    assert chosen.in_float == ()
    assert losses.built == 1


def test_the_worst_goes_first() -> None:
    chosen = Losses([0.1, 3.0, 0.1, 2.0]).choose(0.5)
    assert chosen is not None
    assert chosen.in_float == ("op1", "op3")
    assert chosen.loss == pytest.approx(0.2)
    assert chosen.all_quantised == pytest.approx(5.2)


def test_where_each_of_them_hurts_nothing_is_chosen() -> None:
    assert Losses([1.0, 2.0, 3.0]).choose(0.5) is None
    assert Losses([1.0]).choose(0.5) is None


def test_of_many_operators_neighbours_go_together() -> None:
    shares = [0.0] * (3 * MOST_TRIED)
    shares[30] = 1.0
    losses = Losses(shares)
    chosen = losses.choose(0.5)
    assert chosen is not None
    assert "op30" in chosen.in_float
    assert len(chosen.in_float) == 3
    assert losses.built <= MOST_TRIED + 2


LOSS = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
"""Losses that differ do so by more than their sums round."""


@given(st.lists(LOSS, min_size=1, max_size=8), st.floats(0, 2))
def test_what_is_chosen_is_within_the_budget_and_as_small_as_it_can_be(shares: list[float], budget: float) -> None:
    losses = Losses(shares)
    chosen = losses.choose(budget)
    if chosen is None:
        assert min(shares) > budget
        return
    assert losses.loss(chosen.payload) <= budget
    assert len(chosen.in_float) < len(shares)
    for name in chosen.in_float[-1:]:  # one less would not have done
        assert losses.loss(",".join(each for each in chosen.in_float if each != name).encode()) > budget
