"""A buffer that the caller has fixed is strict; one of our own follows the chunks, as far as memory allows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from everloop.parallel.buffer import GROWN, GROWN_BYTES, Buffer
from everloop.parallel.ordering import InOrder
from everloop.parallel.plan import ChunkBounds, Plan
from everloop.parallel.report import RunReport
from everloop.parallel.streaming import optimize_streaming, stream

OURS = Plan("process", 2, 1, buffer_size=6, buffer_grows=True, adaptive=ChunkBounds())


def buffer(plan: Plan) -> Buffer:
    return Buffer(plan, RunReport(plan), InOrder())


def test_a_fixed_buffer_stays_whatever_the_chunks_become() -> None:
    fixed = buffer(replace(OURS, buffer_grows=False))
    assert fixed.free(500, 0) == 1
    fixed.took(6)
    assert fixed.free(500, 6) == 0


@pytest.mark.parametrize("size", [1, 50, 500, GROWN])
def test_our_own_follows_the_chunks(size: int) -> None:
    ours = buffer(OURS)
    taken = 0
    while (free := ours.free(size, taken)) > 0:
        assert free <= size
        ours.took(free)
        taken += 1
    assert 3 * OURS.n_jobs * size - size < ours.outstanding <= 3 * OURS.n_jobs * size


def test_it_grows_no_further_than_pays() -> None:
    ours = buffer(OURS)
    assert ours.free(100 * GROWN, 0) <= 2 * GROWN


def test_large_results_do_not_make_it_grow() -> None:
    ours = buffer(OURS)
    ours.measured(1, GROWN_BYTES)
    assert ours.free(500, 0) == 1
    ours.took(6)
    assert ours.free(500, 6) == 0


def test_who_says_a_number_gets_it() -> None:
    def plan_of(buffer_size: int | None, adaptive: bool = True) -> Plan:
        data = iter(range(1000))
        return optimize_streaming(
            abs, data, n_jobs=2, executor="process", enable_adaptive_chunking=adaptive, buffer_size=buffer_size
        ).plan

    assert plan_of(None).buffer_grows
    assert not plan_of(None, adaptive=False).buffer_grows
    said = plan_of(8)
    assert (said.buffer_size, said.buffer_grows) == (8, False)


def test_a_stream_of_tiny_items_is_not_sent_one_by_one() -> None:
    results = stream(abs, iter(range(20_000)), n_jobs=2, executor="process")
    assert list(results) == list(range(20_000))
    assert results.report.chunks < 2_000
