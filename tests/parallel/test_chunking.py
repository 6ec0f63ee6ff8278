"""Sizes and slices of chunks, as a function of what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.parallel.chunking import FIRST_SLICE, FIXED_SLICE, GROWTH, Chunking, ItemTime
from everloop.parallel.plan import ChunkBounds, Plan


def adaptive(chunksize: int = 1, workers: int = 4, item_seconds: float | None = None, **bounds: float) -> Chunking:
    return Chunking(Plan("process", workers, chunksize, adaptive=ChunkBounds(**bounds)), item_seconds)  # type: ignore[arg-type]


def steadily(chunking: Chunking, item_seconds: float, times: int = 20) -> None:
    for _ in range(times):
        count = chunking.size(remaining=10**9)
        chunking.observe(count, count * item_seconds)


def test_fixed_chunks_never_change() -> None:
    chunking = Chunking(Plan("process", 4, 100))
    steadily(chunking, 0.5)
    assert (chunking.size(), chunking.size(remaining=3), chunking.slice) == (100, 100, FIXED_SLICE)


@pytest.mark.parametrize("item_seconds", [1e-5, 1e-3, 0.05])
def test_chunks_come_to_take_the_target_duration(item_seconds: float) -> None:
    chunking = adaptive(target_duration=0.2)
    steadily(chunking, item_seconds)
    assert chunking.size(10**9) * item_seconds == pytest.approx(0.2, rel=0.05)


def test_an_item_longer_than_the_target_is_alone() -> None:
    chunking = adaptive(1000)
    steadily(chunking, 3.0)
    assert chunking.size() == 1


def test_the_first_slice_is_short_and_the_next_are_not() -> None:
    chunking = adaptive(100)
    assert chunking.slice == FIRST_SLICE
    chunking.observe(3, 0.02)
    assert chunking.slice > 0.2


def test_a_loop_is_interrupted_often_enough_to_notice_that_it_should_be_spread() -> None:
    chunking = Chunking(Plan("serial", 1, 8_000, adaptive=ChunkBounds()), 20e-6)
    for _ in range(5):
        chunking.observe(1_000, 0.02)
        assert chunking.slice <= 0.05


def test_growth_is_bounded_since_one_lucky_item_tells_little() -> None:
    chunking = adaptive(1)
    chunking.observe(1, 1e-9)
    assert chunking.size(10**9) == GROWTH


def test_slow_items_after_fast_ones_count_at_once() -> None:
    chunking = adaptive()
    steadily(chunking, 1e-5)
    chunking.observe(12, 0.6)
    assert chunking.size(10**9) == 4


def test_fast_items_after_slow_ones_are_caught_up_with() -> None:
    chunking = adaptive()
    steadily(chunking, 0.05)
    steadily(chunking, 1e-5, times=8)
    assert chunking.size(10**9) > 10_000


def test_the_end_is_cut_finer_but_not_to_dust() -> None:
    chunking = adaptive()
    steadily(chunking, 1e-3)
    assert chunking.size(remaining=100_000) == 200
    assert chunking.size(remaining=400) == 50
    assert chunking.size(remaining=3) == 2  # two milliseconds are short enough


def test_bounds_hold() -> None:
    chunking = adaptive(smallest=5, largest=50)
    assert chunking.size() == 5
    steadily(chunking, 1e-6)
    assert chunking.size() == 50


def test_where_the_end_is_not_known_chunks_are_a_share_of_the_work_so_far() -> None:
    chunking = adaptive(workers=2)
    steadily(chunking, 1e-3, times=4)
    assert chunking.size() * 1e-3 == pytest.approx(0.01, rel=0.1)
    steadily(chunking, 1e-3, times=100)
    assert chunking.size() == chunking.size(remaining=10**9)


def test_little_is_queued_at_a_worker_and_nothing_at_the_end() -> None:
    chunking = adaptive()
    assert chunking.depth(None) == 1
    steadily(chunking, 1e-5)
    assert chunking.depth(None) == 1  # chunks of 0.2 s
    chunking = Chunking(Plan("process", 4, 1))
    chunking.observe(1, 1e-5)
    assert chunking.depth(None) > 100
    assert chunking.depth(remaining=8) == 1


def test_noise_is_averaged_and_weighs_by_its_time() -> None:
    time = ItemTime(rate=0.5, full=1.0, seconds=0.1)
    time.observe(10, 2.0)
    assert time.seconds == pytest.approx(0.15)
    time = ItemTime(rate=0.5, full=1.0, seconds=0.1)
    time.observe(1, 0.2)
    assert time.seconds == pytest.approx(0.11)


@given(
    seen=st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 100)), max_size=30),
    remaining=st.none() | st.integers(0, 10**9),
    chunksize=st.integers(1, 10**6),
    largest=st.none() | st.integers(1, 100),
)
def test_sizes_are_always_usable(
    seen: list[tuple[int, float]], remaining: int | None, chunksize: int, largest: int | None
) -> None:
    chunking = Chunking(Plan("process", 3, chunksize, adaptive=ChunkBounds(largest=largest)))
    for count, seconds in seen:
        chunking.observe(count, seconds)
        assert 1 <= chunking.size(remaining) <= (largest or float("inf"))
        assert chunking.depth(remaining) >= 1
        assert chunking.slice > 0
