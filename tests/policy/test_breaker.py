"""When something that failed is asked again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everloop.policy.breaker import CLOSED, FIRST_PAUSE, LONGEST_PAUSE, SPREAD, Breaker


def test_closed_it_lets_everybody_ask() -> None:
    assert CLOSED.allows(-1e9)
    assert CLOSED.allows(1e9)


@given(now=st.floats(0, 1e9), draws=st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_pauses_grow_up_to_a_bound(now: float, draws: list[float]) -> None:
    breaker, longest = CLOSED, 0.0
    for i, draw in enumerate(draws):
        breaker = breaker.failed(now, draw)
        pause = breaker.until - now
        assert not breaker.allows(now)
        assert breaker.allows(breaker.until)
        full = min(FIRST_PAUSE * 2**i, LONGEST_PAUSE)
        assert full * (1 - SPREAD) - 1e-6 <= pause <= full + 1e-6
        longest = max(longest, pause)
    assert longest <= LONGEST_PAUSE + 1e-6
    assert breaker == Breaker(len(draws), breaker.until)
