"""The arithmetic of experience."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.parallel.recorded import HERE, run

from everloop.parallel.cells import Experience
from everloop.parallel.evidence import ACROSS, OWN, Workload, raw_confidence, weigh
from everloop.parallel.samples import TrainingData


def experience(*runs: TrainingData) -> Experience:
    found = Experience("f0")
    for each in runs:
        found.add(each)
    return found


def asked(data_size: int = 1_000, item_time: float = 0.001) -> Workload:
    return Workload(math.log(data_size * item_time), None)


def test_later_runs_weigh_more_and_old_ones_are_forgotten() -> None:
    slow_then_fast = experience(*[run(speedup=1.0)] * 50, *[run(speedup=2.0)] * 50)
    best = weigh([slow_then_fast], asked(), OWN, HERE, kind=None)[0]
    assert math.exp(best.speedup) > 1.6
    assert 30 < best.weight < 50, "a hundred runs count for what they are worth now"


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
def test_a_cell_s_moments_are_those_of_its_weighted_runs(cpu_shares: list[float]) -> None:
    found = experience(*[run(cpu_share=share) for share in cpu_shares])
    (cell,) = found.cells.values()
    weights = [(1 / 0.98) ** number for number in range(1, len(cpu_shares) + 1)]
    mean = sum(w * x for w, x in zip(weights, cpu_shares, strict=True)) / sum(weights)
    squares = sum(w * (x - mean) ** 2 for w, x in zip(weights, cpu_shares, strict=True))
    assert cell.cpu.mean == pytest.approx(mean, abs=1e-9)
    assert cell.cpu.squares == pytest.approx(squares, abs=1e-9)


@given(st.lists(st.floats(1.7, 1.8), min_size=1, max_size=30))
def test_its_speed_is_the_mean_of_the_last_runs(speedups: list[float]) -> None:
    (cell,) = experience(*[run(speedup=speedup) for speedup in speedups]).cells.values()
    last = [math.log(speedup) for speedup in speedups[-10:]]
    mean = sum(last) / len(last)
    assert cell.speedup.mean == pytest.approx(mean, abs=1e-9)
    variance = sum((each - mean) ** 2 for each in last) / len(last)
    assert cell.speedup.squares / cell.speedup.weight == pytest.approx(variance, abs=1e-9)
    assert cell.speedup.outliers == 0


@pytest.mark.parametrize("at", [0, 3, 5])
def test_one_stall_does_not_hide_what_is_usual(at: int) -> None:
    """A first run that pays for imports, or a machine that was busy for once."""
    speedups = [1.8] * 6
    speedups[at] = 0.6
    best = weigh([experience(*[run(speedup=each) for each in speedups])], asked(), OWN, HERE, kind=None)[0]
    assert math.exp(best.speedup) == pytest.approx(1.8, rel=0.05)
    deviation, _ = best.deviation(OWN, of_wall=False)
    assert deviation < 0.15
    assert best.outliers() == pytest.approx(1 / 8), "and that it may happen again is not forgotten"


def test_what_has_changed_for_good_is_believed_within_some_runs() -> None:
    speedups = [0.9] * 20 + [1.8] * 7
    best = weigh([experience(*[run(speedup=each) for each in speedups])], asked(), OWN, HERE, kind=None)[0]
    assert math.exp(best.speedup) > 1.5


def test_a_process_that_never_ends_keeps_counting() -> None:
    found = Experience("f0")
    for number in range(5_000):
        found.add(run(chunksize=1 if number < 100 else 64, speedup=1.5 + (number % 3) / 10))
    best = weigh([found], asked(), OWN, HERE, kind=None)[0]
    assert 1 <= found.scale < 1e9
    assert best.weight == pytest.approx(49, abs=2)
    assert math.exp(best.speedup) == pytest.approx(1.6, abs=0.02)
    assert len(found.cells) == 1, "what was last done 4,900 runs ago is forgotten"


def test_lucky_once_does_not_win_over_good_often() -> None:
    often = [run(n_jobs=2, speedup=1.8)] * 10
    ranked = weigh([experience(*often, run(n_jobs=3, speedup=1.9))], asked(), OWN, HERE, kind=None)
    assert ranked[0].setting.n_jobs == 3, "a little better than the rest on average, tried once: worth another look"
    ranked = weigh([experience(*often, run(n_jobs=3, speedup=1.75))], asked(), OWN, HERE, kind=None)
    assert ranked[0].setting.n_jobs == 2
    noisy = experience(*often, *[run(n_jobs=3, speedup=s) for s in (2.4, 1.2, 1.1)])
    assert weigh([noisy], asked(), OWN, HERE, kind=None)[0].setting.n_jobs == 2


def test_runs_of_about_as_much_work_count_most() -> None:
    small = [run(n_jobs=1, executor="serial", data_size=100, speedup=1.0)] * 5
    small += [run(n_jobs=2, data_size=100, speedup=0.3)] * 5
    large = [run(n_jobs=1, executor="serial", data_size=100_000, speedup=1.0)] * 5
    large += [run(n_jobs=2, data_size=100_000, speedup=1.9)] * 5
    known = experience(*small, *large)
    assert weigh([known], asked(data_size=120), OWN, HERE, kind=None)[0].setting.executor == "serial"
    assert weigh([known], asked(data_size=90_000), OWN, HERE, kind=None)[0].setting.executor == "process"


def test_distance_costs_weight_and_adds_doubt() -> None:
    known = experience(*[run()] * 10)
    near = weigh([known], asked(), OWN, HERE, kind=None)[0]
    far = weigh([known], asked(data_size=10_000), OWN, HERE, kind=None)[0]
    assert far.weight < near.weight
    assert far.deviation(OWN, of_wall=False)[0] > near.deviation(OWN, of_wall=False)[0]
    assert weigh([known], asked(data_size=1_000_000), OWN, HERE, kind=None) == [], "beyond the kernel's reach"


def test_confidence_grows_with_runs_and_falls_with_their_spread() -> None:
    def confidence(*speedups: float) -> float:
        best = weigh([experience(*[run(speedup=s) for s in speedups])], asked(), OWN, HERE, kind=None)[0]
        return raw_confidence(*best.deviation(OWN, of_wall=False))

    steady = [confidence(*[1.8] * count) for count in (1, 3, 5, 20, 100)]
    assert steady == sorted(steady)
    assert steady[0] < 0.7 < steady[1], "one run is not enough to be trusted, three alike are"
    assert confidence(*[1.8, 1.0] * 10) < confidence(*[1.8, 1.6] * 10) < steady[3]


@given(st.floats(0.01, 5), st.floats(2, 100))
def test_raw_confidence_is_the_mass_of_student_s_t(deviation: float, freedom: float) -> None:
    from scipy.stats import t

    edge = math.log(1.25) / deviation
    assert raw_confidence(deviation, freedom) == pytest.approx(t.cdf(edge, freedom) - t.cdf(-edge, freedom), abs=0.01)


def test_workers_of_another_machine_become_as_many_per_core_here() -> None:
    there = replace(HERE, cores=HERE.cores * 8, physical_cores=HERE.physical_cores * 8)
    cpu = run(n_jobs=there.cores, speedup=there.cores * 0.9, fingerprint=there)
    ranked = weigh([experience(*[cpu] * 5)], asked(), OWN, HERE, kind=None)
    assert ranked[0].setting.n_jobs == HERE.cores
    assert 0.5 * HERE.cores < math.exp(ranked[0].speedup) < 1.5 * HERE.cores
    assert ranked[0].weight < 2.5, "and five runs there are worth less than five runs here"
    waiting = run(n_jobs=there.cores * 4, executor="thread", fingerprint=there)
    assert weigh([experience(waiting)], asked(), OWN, HERE, kind=None)[0].setting.n_jobs == there.cores * 4


def test_one_function_is_one_opinion_however_often_it_ran() -> None:
    often = experience(*[run(n_jobs=2, item_time=0.001)] * 100)
    workload = Workload(math.log(1.0), math.log(0.001))
    assert weigh([often], workload, ACROSS, HERE, kind=None)[0].weight <= 2.0
