"""The workloads are what they say, wrong results are noticed, and the rows say what was measured."""

from __future__ import annotations

import statistics

import pytest

from everloop.app.bench.parallel import judged
from everloop.app.bench.parallel_grid import Setting, chunk_sizes, teams
from everloop.app.bench.parallel_race import Raced
from everloop.app.bench.parallel_workloads import Workload, lognormal, spin, workloads

TWELVE = [
    "10 µs",
    "100 µs",
    "1 ms",
    "50 ms",
    "lognormal",
    "1 MB results",
    "generator",
    "5 ms sleeps",
    "NumPy",
    "fast then slow",
    "slow then fast",
    "20 items",
]


def test_all_twelve_run_and_agree_with_themselves() -> None:
    made = workloads(0.05, rate=20_000.0)  # turns so few that a test can wait for them
    assert [work.name for work in made] == TWELVE
    for work in made:
        work.serial()
        work.check((work.func(item) for item in work.data()), "again")
    assert len({work.func for work in made}) == len(made)


def test_only_the_generator_has_no_length() -> None:
    assert [work.name for work in workloads(0.05, 20_000.0) if not hasattr(work.data(), "__len__")] == ["generator"]


def test_a_name_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="there are 10 µs"):
        workloads(0.1, 20_000.0, ["2 µs"])


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([spin(i) for i in range(9)], "9 results for 10 items; item 9"),
        ([spin(i) for i in reversed(range(10))], "item 0 is the first wrong one"),
        ([spin(i) for i in range(9)] + [None], "item 9 is the first wrong one"),
    ],
)
def test_results_that_are_missing_or_out_of_order_are_noticed(results: list[int | None], message: str) -> None:
    work = Workload("spins", spin, list(range(10)))
    work.serial()
    with pytest.raises(ValueError, match=message):
        work.check(results, "somebody")


def test_durations_are_lognormal_with_that_variation_and_that_sum() -> None:
    durations = lognormal(2e-3, 1.5, 20.0)
    assert sum(durations) == pytest.approx(20.0)
    assert statistics.fmean(durations) == pytest.approx(2e-3, rel=0.1)
    assert statistics.pstdev(durations) / statistics.fmean(durations) == pytest.approx(1.5, rel=0.2)
    assert durations == lognormal(2e-3, 1.5, 20.0)


@pytest.mark.parametrize("items", [1, 20, 5000, 100_000])
def test_the_grid_goes_from_small_chunks_to_one_for_each_worker(items: int) -> None:
    sizes = chunk_sizes(items, 2)
    assert sizes == sorted(set(sizes))
    assert sizes[0] >= 1
    assert sizes[-1] == max(1, items // 2)
    assert (sizes[0] == 1) == (items <= 5000)
    assert {executor for executor, _ in teams(2)} == {"serial", "thread", "process"}


def raced(name: str = "10 µs", factor: float = 1.0) -> Raced:
    return Raced(
        name,
        serial=1.0,
        cold=[0.6 * factor, 0.7 * factor, 0.65 * factor],
        warm=[0.50 * factor, 0.52 * factor, 0.51 * factor],
        grid={Setting("process", 2, 64): [0.5, 0.5, 0.5], Setting("thread", 2, 64): [0.9, 0.4, 0.9]},
        peers={"joblib": [0.5, 0.5, 0.5], "mpire": [2.4, 2.4]},
        chosen={"cold": "process 2 × 60", "warm": "process 2 × 64"},
    )


def test_a_race_is_judged_by_the_rounds_own_ratios() -> None:
    one = raced()
    assert str(one.best[0]) == "process 2 × 64"
    assert one.against_best(one.warm) == pytest.approx(1.02)
    assert one.against_best(one.cold, 0.1) == pytest.approx(1.1)
    assert one.best_peer[0] == "joblib"
    assert one.against_peer("mpire") == pytest.approx((0.5 / 2.4 + 0.52 / 2.4) / 2)


def test_every_bar_has_its_row() -> None:
    rows = judged([raced(), raced("1 ms", 3.0)])
    assert [row.passed for row in rows] == [True, True, True, False, False, False, False, True]
    assert rows[-2].what == "warm faster than joblib"
    assert rows[-2].measured.startswith("on 0")
    assert rows[-1].measured.startswith("on 2")
    assert "chose process 2 × 60" in rows[0].detail
