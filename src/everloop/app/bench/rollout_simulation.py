"""Rollouts by the thousand, looked at after every sample: how often a gate acts on nothing, and how soon on something.

No server, no clock: samples fall to the arms at random, and the gates' own mathematics sees them one by one (`canaries`). Shares come with
Clopper-Pearson intervals, medians with those of the order statistics, both at 95 %. Beside the gates, on the same samples:

- a z-test of two proportions at 5 %, looked at after every sample from the 100th an arm on, as dashboards invite to;
- the mSPRT with a normal mixture of Johari, Koomen, Pekelis and Walsh, which is valid in the limit of many samples;
- one look after as many samples as 80 % power needs, for who knows the effect in advance and can wait; for latencies, one Mann-Whitney
  test after 2,000 an arm, as Kayenta does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.app.bench import canaries
from everloop.app.bench.rows import Context, Result, Row, counted
from everloop.policy.bins import FACTOR, LATENCY_BINS
from everloop.policy.gates import needed_of
from everloop.policy.rollout import Gates

SUBJECT = "rollout_simulation"
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, Bools], Floats]
"""(rng, arms) -> values of the same shape; the arms are those of the challenger."""

CHUNK = 250
SPLITS = (("1:1", 0.5, 10_000), ("95:5", 0.05, 20_000))
"""Name, the challenger's share, samples in all."""
ERROR_RATES = (0.001, 0.01, 0.05, 0.2, 0.5)
STRICT = Gates(latency_tolerance=0.0, latency_slack=0.0)
_SPREAD = 0.5
_MEDIAN = 0.010 / math.exp(_SPREAD * 2.326348)
"""Of the champion's lognormal latencies, whose p99 is 10 ms."""


def run(context: Context, folder: Path) -> Result:  # noqa: ARG001 -- a subject's signature
    simulations = context.rounds(2000, 250)
    rows: list[Row] = []
    data: dict[str, Any] = {}
    for measure in (_null_errors, _null_latency, _null_quality, _errors, _accuracy, _latency):
        context.say(f"{SUBJECT}: {measure.__name__.strip('_').replace('_', ' ')}, {simulations:,} simulations")
        rows += measure(simulations, data)
    return Result(rows, data)


# -- nothing is wrong --------------------------------------------------------------------------------------------------


def _null_errors(simulations: int, data: dict[str, Any]) -> list[Row]:
    found: dict[str, int] = {}
    others = {"z-test": 0, "mSPRT": 0}
    for split, share, samples in SPLITS:
        for rng, arms in _chunks(simulations, share, samples, seed=1):
            blocks = canaries.blocks_of(arms)
            for rate in ERROR_RATES:
                failed = rng.random(arms.shape) < rate
                when = canaries.rates(arms, failed, blocks).first(_needed("errors"))
                _count(found, f"{rate:.3g} failing, {split}", when)
                if rate == 0.05 and split == "1:1":
                    for name, test in (("z-test", z_test), ("mSPRT", msprt)):
                        others[name] += int(np.sum(test(arms, failed, one_sided=True) >= 0))
    detail = "; ".join(f"{name} at 5 % failing, 1:1: {_share(count, simulations)}" for name, count in others.items())
    data["null_errors"] = {**found, **others, "simulations": simulations}
    return [_null_row("errors", found, simulations, f"the {detail}")]


def _null_latency(simulations: int, data: dict[str, Any]) -> list[Row]:
    found: dict[str, int] = {}
    for split, share, samples in SPLITS:
        for rng, arms in _chunks(simulations, share, samples, seed=2):
            for name, draw in NULL_LATENCIES.items():
                paths = canaries.latencies(arms, _latency_bins(draw(rng, arms)), STRICT)
                _count(found, f"{name}, {split}", paths.first(_needed("latency")))
    data["null_latency"] = {**found, "simulations": simulations}
    return [_null_row("latency, no tolerance", found, simulations)]


def _null_quality(simulations: int, data: dict[str, Any]) -> list[Row]:
    found: dict[str, int] = {}
    needed = _needed("quality")
    for split, share, samples in SPLITS:
        for rng, arms in _chunks(simulations, share, samples, seed=3):
            blocks = canaries.blocks_of(arms)
            for rate in (0.05, 0.2, 0.5):
                paths = canaries.rates(arms, rng.random(arms.shape) < rate, blocks)
                _count(found, f"{rate:.3g} wrong, {split}", _either(paths, needed))
            for name, draw in NULL_LOSSES.items():
                bins = np.floor(np.log(draw(rng, arms)) / math.log(FACTOR)).astype(np.int64)
                _count(found, f"{name}, {split}", _either(canaries.losses(arms, bins), needed))
    data["null_quality"] = {**found, "simulations": simulations}
    return [_null_row("quality, both ways", found, simulations)]


def _null_row(gate: str, found: Mapping[str, int], simulations: int, also: str = "") -> Row:
    worst = max(found, key=lambda name: found[name])
    every = ", ".join(f"{name} {count / simulations:.1%}" for name, count in found.items())
    return counted(
        SUBJECT,
        f"A/A, {gate}: acted on nothing, {simulations:,} rollouts looked at after every sample",
        "at most 5 %",
        f"{_share(found[worst], simulations)} ({worst})",
        passed=found[worst] <= 0.05 * simulations,
        detail=f"{every}{'; ' if also else ''}{also}",
    )


# -- something is ------------------------------------------------------------------------------------------------------


def _errors(simulations: int, data: dict[str, Any]) -> list[Row]:
    return [_found_rates("errors", "errors 5 → 10 %", (0.05, 0.10), 500, simulations, data, samples=4_000)]


def _accuracy(simulations: int, data: dict[str, Any]) -> list[Row]:
    return [_found_rates("quality", "accuracy 80 → 75 %", (0.20, 0.25), 1200, simulations, data, samples=14_000)]


def _found_rates(
    gate: str, what: str, event: tuple[float, float], bar: int, simulations: int, data: dict[str, Any], *, samples: int
) -> Row:
    one_sided = gate == "errors"
    taken: dict[str, list[Floats]] = {"gate": [], "shared": [], "z-test": [], "mSPRT": []}
    wrong_way = 0
    for rng, arms in _chunks(simulations, 0.5, samples, seed=4):
        events = rng.random(arms.shape) < np.where(arms, event[1], event[0])
        paths = canaries.rates(arms, events)
        when, back = paths.first(_needed(gate)), paths.first(_needed(gate), "fewer")
        if not one_sided:
            wrong_way += int(np.sum((back >= 0) & ((when < 0) | (back < when))))
        taken["gate"].append(_an_arm(when))
        taken["shared"].append(_an_arm(paths.first(needed_of(Gates())[gate])))
        taken["z-test"].append(_an_arm(z_test(arms, events, one_sided=one_sided)))
        taken["mSPRT"].append(_an_arm(msprt(arms, events, one_sided=one_sided)))
    n = {name: np.concatenate(parts) for name, parts in taken.items()}
    data[gate] = {name: _percentiles(values) for name, values in n.items()}
    once = fixed_horizon(*event, one_sided=one_sided)
    detail = (
        f"9 of 10 within {np.quantile(n['gate'], 0.9, method='higher'):,.0f}; sharing the 5 % with two other gates {_median(n['shared'])}; mSPRT {_median(n['mSPRT'])}; "
        f"one look with 80 % power {once:,}; the peeked z-test {_median(n['z-test'])}, which acts on nothing as often as the row above says"
    )
    if not one_sided:
        detail += f"; {wrong_way} of {simulations:,} promoted"
    median = float(np.median(n["gate"]))
    return counted(
        SUBJECT,
        f"{what}, equal arms: median to roll back",
        f"at most {bar:,} an arm",
        f"{_median(n['gate'])} an arm",
        passed=median <= bar,
        detail=detail,
    )


def _latency(simulations: int, data: dict[str, Any]) -> list[Row]:
    rows = []
    most = 2000
    for shape, slower in (("all of it 1.5 times", slower_body), ("the slowest 5 % only", slower_tail)):
        for tolerance, gates in (("no tolerance", STRICT), ("10 % and 1 ms tolerated", Gates())):
            taken, shared, ranks = [], [], 0
            for rng, arms in _chunks(simulations, 0.5, 2 * most, seed=5):
                seconds = slower(rng, arms)
                paths = canaries.latencies(arms, _latency_bins(seconds), gates)
                when = paths.first(_needed("latency"))
                taken.append(_an_arm(when))
                shared.append(_an_arm(paths.first(needed_of(Gates())["latency"])))
                ranks += mann_whitney(arms, seconds)
            n = np.concatenate(taken)
            found = int(np.sum(n <= most))
            data[f"{shape}, {tolerance}"] = _percentiles(n)
            rows.append(
                counted(
                    SUBJECT,
                    f"p99 10 → 15 ms, {shape}, {tolerance}: found within 2,000 an arm",
                    "at least 90 %",
                    _share(found, simulations),
                    passed=found >= 0.9 * simulations,
                    detail=f"median {_median(n)} an arm, {_median(np.concatenate(shared))} sharing the 5 % with two other gates; one Mann-Whitney test after 2,000, without tolerance: {_share(ranks, simulations)}",
                )
            )
    return rows


# -- latencies and losses ----------------------------------------------------------------------------------------------


def slower_body(rng: np.random.Generator, arms: Bools) -> Floats:
    """Lognormal, p99 10 ms; the challenger takes 1.5 times as long for everything."""
    seconds = rng.lognormal(math.log(_MEDIAN), _SPREAD, arms.shape)
    return np.where(arms, 1.5 * seconds, seconds)


def slower_tail(rng: np.random.Generator, arms: Bools) -> Floats:
    """The same champion; only what would be in the champion's slowest 5 % takes the challenger 1.5 times as long."""
    seconds = rng.lognormal(math.log(_MEDIAN), _SPREAD, arms.shape)
    return np.where(arms & (seconds > _MEDIAN * math.exp(_SPREAD * 1.644854)), 1.5 * seconds, seconds)


def _two_humps(rng: np.random.Generator, arms: Bools) -> Floats:
    return rng.lognormal(-6, 0.2, arms.shape) * np.where(rng.random(arms.shape) < 0.1, 20.0, 1.0)


NULL_LATENCIES: dict[str, Draw] = {
    "lognormal": lambda rng, arms: rng.lognormal(math.log(_MEDIAN), _SPREAD, arms.shape),
    "two humps": _two_humps,
    "Pareto 1.1": lambda rng, arms: 0.001 * (1 + rng.pareto(1.1, arms.shape)),
    "a clock of 1 ms": lambda rng, arms: np.ceil(1000 * rng.lognormal(-6, 0.5, arms.shape)) / 1000,
}
NULL_LOSSES: dict[str, Draw] = {
    "normal errors": lambda rng, arms: np.abs(rng.normal(size=arms.shape)),
    "squared Cauchy errors": lambda rng, arms: rng.standard_cauchy(arms.shape) ** 2,
}


def _latency_bins(seconds: Floats) -> canaries.Ints:
    """`policy.bins.latency_bin` of many."""
    bins: canaries.Ints = (np.log(np.maximum(seconds, 1e-6) / 1e-6) / math.log(FACTOR)).astype(np.int64)
    return np.minimum(bins, LATENCY_BINS - 1)


# -- other ways --------------------------------------------------------------------------------------------------------


def _running(arms: Bools, events: Bools) -> tuple[Floats, Floats, Floats]:
    """After each sample: the difference of the rates, its variance as estimated from the pooled rate, and the smaller arm's samples."""
    total = np.arange(1, arms.shape[1] + 1, dtype=np.float64)
    n_b = np.cumsum(arms, axis=1, dtype=np.float64)
    n_a = total - n_b
    k_b, k = np.cumsum(events & arms, axis=1), np.cumsum(events, axis=1)
    pooled = k / total
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = k_b / n_b - (k - k_b) / n_a
        variance = pooled * (1 - pooled) * (1 / n_a + 1 / n_b)
    return difference, variance, np.minimum(n_a, n_b)


def z_test(arms: Bools, events: Bools, *, one_sided: bool, level: float = 0.05, least: int = 100) -> canaries.Ints:
    """The sample at which z first exceeds what is meant for one look; -1: never."""
    from scipy.stats import norm

    difference, variance, smaller = _running(arms, events)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = difference / np.sqrt(variance)
    beyond = z > norm.ppf(1 - level) if one_sided else np.abs(z) > norm.ppf(1 - level / 2)
    return _first(beyond & (smaller >= least))


def msprt(
    arms: Bools, events: Bools, *, one_sided: bool, level: float = 0.05, tau2: float = 1e-3, least: int = 100
) -> canaries.Ints:
    """The mixture sequential probability ratio test: two-sided evidence, of which one-sided only takes "more"."""
    difference, variance, smaller = _running(arms, events)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_e = 0.5 * np.log(variance / (variance + tau2)) + difference**2 * tau2 / (2 * variance * (variance + tau2))
    beyond = (log_e >= math.log(1 / level)) & (smaller >= least) & (variance > 0)
    return _first(beyond & (difference > 0) if one_sided else beyond)


def fixed_horizon(p: float, q: float, *, one_sided: bool, level: float = 0.05, power: float = 0.8) -> int:
    """Samples an arm for a z-test of two proportions that is looked at once."""
    from scipy.stats import norm

    quantiles = norm.ppf(1 - (level if one_sided else level / 2)) + norm.ppf(power)
    return math.ceil(float(quantiles) ** 2 * (p * (1 - p) + q * (1 - q)) / (q - p) ** 2)


def mann_whitney(arms: Bools, values: Floats) -> int:
    """How many of the simulations one test at the end finds slower, at 5 %."""
    from scipy.stats import mannwhitneyu

    return sum(
        bool(mannwhitneyu(row[mine], row[~mine], alternative="greater").pvalue < 0.05)
        for mine, row in zip(arms, values, strict=True)
    )


# -- figures -----------------------------------------------------------------------------------------------------------


def _chunks(simulations: int, share: float, samples: int, seed: int) -> Any:
    """(rng, arms) of at most `CHUNK` simulations at a time, `arms` of shape (simulations, samples)."""
    rng = np.random.default_rng((seed, samples))
    for start in range(0, simulations, CHUNK):
        yield rng, rng.random((min(CHUNK, simulations - start), samples)) < share


def _needed(gate: str) -> float:
    """By this gate alone, at a level of 5 %."""
    return needed_of(Gates(errors=gate == "errors", latency=gate == "latency", quality=gate == "quality"))[gate]


def _count(found: dict[str, int], name: str, when: canaries.Ints) -> None:
    found[name] = found.get(name, 0) + int(np.sum(when >= 0))


def _either(paths: canaries.Paths, needed: float) -> canaries.Ints:
    return np.maximum(paths.first(needed), paths.first(needed, "fewer"))


def _first(found: Bools) -> canaries.Ints:
    return np.where(found.any(axis=1), np.argmax(found, axis=1), -1)


def _an_arm(when: canaries.Ints) -> Floats:
    return np.where(when >= 0, (when + 1) / 2, np.inf)


def _percentiles(values: Floats) -> list[float | None]:
    """1 … 99 %; None beyond what was waited for."""
    found = np.quantile(values, np.arange(1, 100) / 100, method="higher")
    return [float(x) if math.isfinite(x) else None for x in found]


def _share(count: int, n: int) -> str:
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(0.95, method="exact")
    return f"{count / n:.1%} ({interval.low:.1%}–{interval.high:.1%})"


def _median(values: Floats) -> str:
    from scipy.stats import binom

    ordered, n = np.sort(values), len(values)
    low, high = int(binom.ppf(0.025, n, 0.5)), min(n - 1, int(binom.ppf(0.975, n, 0.5)))
    return f"{np.median(ordered):,.0f} ({ordered[low]:,.0f}–{ordered[high]:,.0f})"
