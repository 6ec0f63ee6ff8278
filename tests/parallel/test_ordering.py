"""Where results wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everloop.parallel.ordering import AsTheyCome, InOrder, Segment


def popped(waiting: InOrder | AsTheyCome) -> list[int]:
    values: list[int] = []
    while (segment := waiting.pop()) is not None:
        values += segment.values
    return values


@given(spans=st.lists(st.integers(1, 9), max_size=30), shuffled=st.randoms(use_true_random=False))
def test_any_order_of_arrival_leaves_in_order(spans: list[int], shuffled: object) -> None:
    segments, first = [], 0
    for span in spans:
        segments.append((first, Segment(span, list(range(first, first + span)), 8 * span)))
        first += span
    shuffled.shuffle(segments)  # type: ignore[attr-defined]
    waiting, out = InOrder(), list[int]()
    for start, segment in segments:
        waiting.add(start, segment)
        out += popped(waiting)
        assert waiting.reached(len(out))
        assert not waiting.reached(len(out) + 1)
    assert out == list(range(first))
    assert (waiting.held, waiting.held_bytes) == (0, 0)


def test_a_segment_may_have_fewer_values_than_items() -> None:
    waiting = InOrder()
    waiting.add(2, Segment(1, [20], 0))
    waiting.add(0, Segment(2, [], 0))
    assert popped(waiting) == [20]
    assert waiting.reached(3)


def test_what_waits_is_counted() -> None:
    for waiting in (InOrder(), AsTheyCome()):
        waiting.add(0, Segment(3, [1, 2, 3], 24))
        waiting.add(3, Segment(2, [4], 16))
        assert (waiting.held, waiting.held_bytes) == (5, 40)
        waiting.pop()
        assert (waiting.held, waiting.held_bytes) == (2, 16)


def test_first_come_first_served() -> None:
    waiting = AsTheyCome()
    waiting.add(5, Segment(1, [5], 0))
    assert not waiting.reached(0)
    waiting.add(0, Segment(1, [0], 0))
    assert popped(waiting) == [5, 0]
    assert waiting.reached(9)
