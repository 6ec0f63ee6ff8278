"""Which form answers which sizes of requests."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from everloop.policy.selection import TOLERANCE, Stretch, select, slowdown

SIZES = (1, 8, 64)


def steady(**forms: tuple[float, ...]) -> dict[str, list[list[float]]]:
    return {name: [[seconds] * 5 for seconds in by_size] for name, by_size in forms.items()}


def test_the_fastest_everywhere_is_chosen_for_all_sizes() -> None:
    rounds = steady(original=(9.0, 9.0, 9.0), onnx=(2.0, 2.0, 2.0), compiled=(1.0, 1.0, 1.5))
    assert select(SIZES, rounds, original="original") == [Stretch(1, "compiled")]


def test_the_original_stays_where_nothing_is_clearly_faster() -> None:
    rounds = steady(original=(1.02, 1.0, 1.0), onnx=(1.0, 1.0, 0.99))
    assert select(SIZES, rounds, original="original") == [Stretch(1, "original")]


def test_sizes_are_cut_where_no_form_does_for_all() -> None:
    rounds = steady(original=(50.0, 50.0, 50.0), compiled=(1.0, 8.0, 64.0), onnx=(10.0, 12.0, 30.0))
    compiled, onnx = select(SIZES, rounds, original="original")
    assert (compiled, onnx.form) == (Stretch(1, "compiled"), "onnx")
    # compiled costs 1 a row, onnx 12 + 18/56 a row beyond 8: the lines cross at 8 + 56 * 4/38
    assert onnx.start == math.ceil(8 + 56 * 4 / 38)


def test_as_few_stretches_as_possible() -> None:
    rounds = steady(a=(1.0, 1.0, 9.0), b=(9.0, 1.0, 1.0), c=(9.0, 0.99, 9.0))
    assert [each.form for each in select(SIZES, rounds, original="original")] == ["a", "b"]


def test_one_form_where_several_may_not_be_put_together() -> None:
    rounds = steady(compiled=(1.0, 8.0, 64.0), onnx=(10.0, 12.0, 30.0))
    assert select(SIZES, rounds, original="original", combine=False) == [Stretch(1, "compiled")]


def test_a_single_form_is_nowhere_slower_than_the_original() -> None:
    rounds = steady(
        original=(50.0, 50.0, 12.0), compiled=(1.0, 8.0, 64.0), onnx=(10.0, 12.0, 11.0), other=(2.0, 9.0, 13.0)
    )
    assert select(SIZES, rounds, original="original", combine=False) == [Stretch(1, "onnx")]
    del rounds["onnx"]
    assert select(SIZES, rounds, original="original", combine=False) == [Stretch(1, "original")]


def test_equal_forms_are_not_told_apart_by_a_few_slow_rounds() -> None:
    rounds = {"original": [[9.0] * 8], "a": [[1.0] * 8], "b": [[1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]]}
    assert slowdown(rounds["b"][0], rounds["a"][0]) == 1.0
    assert select((1,), rounds, original="b") == [Stretch(1, "b")]


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.dictionaries(
            st.sampled_from("abcdef"), st.lists(st.floats(1e-6, 1.0), min_size=n, max_size=n), min_size=1
        )
    )
)
def test_no_size_is_answered_by_a_form_that_is_slower_than_it_may_be(times: dict[str, list[float]]) -> None:
    n = len(next(iter(times.values())))
    sizes = [4**i for i in range(n)]
    rounds = {name: [[seconds] for seconds in by_size] for name, by_size in times.items()}
    stretches = select(sizes, rounds, original="a")
    assert stretches[0].start == 1
    assert all(a.start < b.start for a, b in pairwise(stretches))
    for i, size in enumerate(sizes):
        form = next(each.form for each in reversed(stretches) if each.start <= size)
        best = min(statistics.median(by_size[i]) for by_size in rounds.values())
        assert times[form][i] <= best * (1 + TOLERANCE) * (1 + 1e-12)
