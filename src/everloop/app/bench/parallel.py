"""`execute` on twelve workloads: cold and warm against the best settings that a search finds, warm against other people's pools."""

from __future__ import annotations

import statistics
import warnings
from pathlib import Path

from everloop.app.bench.parallel_race import Raced, race
from everloop.app.bench.parallel_workloads import turns_per_second, workloads
from everloop.app.bench.peers.pools import pools
from everloop.app.bench.rows import Context, Result, Row, against, counted, spread

SUBJECT = "parallel"
COLD_BAR, COLD_START, WARM_BAR, PEER_BAR = 1.25, 0.1, 1.08, 1.05


def run(context: Context, folder: Path) -> Result:
    """Every workload in turn. In full about eight minutes, quick about one and a half."""
    from everloop.parallel.machine import here

    cores = here().cores
    rate = turns_per_second()
    seconds, rounds = context.seconds(1.0, 0.3), context.rounds(5, 3)
    raced: list[Raced] = []
    failed: list[Row] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="mpire")  # that a generator has no length
        with pools(cores) as peers:
            for i, work in enumerate(workloads(seconds, rate)):
                try:
                    raced.append(race(work, folder / str(i), rounds, cores, peers, context.say))
                except Exception as error:  # the others can be measured all the same
                    why = f"{type(error).__name__}: {error}"[:2000]
                    failed.append(Row(SUBJECT, work.name, "", "failed", None, False, why))
    return Result([*failed, *judged(raced)], {"workloads": [each.raw() for each in raced]})


def judged(raced: list[Raced]) -> list[Row]:
    rows: list[Row] = []
    for each in raced:
        rows += _alone(each)
        if each.peers:
            rows.append(_beside(each))
    for name in dict.fromkeys(peer for each in raced for peer in each.peers):
        rows.append(_mostly(name, [each for each in raced if name in each.peers]))
    return rows


def _alone(raced: Raced) -> list[Row]:
    setting, best = raced.best
    return [
        against(
            SUBJECT,
            f"{raced.name}: {side} against the best of the grid" + (", 0.1 s of start apart" if allowance else ""),
            raced.against_best(times, allowance),
            "at most",
            bar,
            detail=f"{raced.name}: {side} {spread(times, ' s')} chose {raced.chosen.get(side)}; "
            f"best {spread(best, ' s')} is {setting}; serial {raced.serial:.3g} s",
        )
        for side, times, bar, allowance in (
            ("cold", raced.cold, COLD_BAR, COLD_START),
            ("warm", raced.warm, WARM_BAR, 0.0),
        )
    ]


def _beside(raced: Raced) -> Row:
    name, _ = raced.best_peer
    told = ", ".join(f"{peer} {spread(times, ' s')}" for peer, times in raced.peers.items())
    return against(
        SUBJECT,
        f"{raced.name}: warm against the best peer",
        raced.against_peer(name),
        "at most",
        PEER_BAR,
        detail=f"{raced.name}: warm {spread(raced.warm, ' s')}; {told}",
    )


def _mostly(name: str, raced: list[Raced]) -> Row:
    ratios = {each.name: each.against_peer(name) for each in raced}
    faster = sum(ratio < 1 for ratio in ratios.values())
    told = ", ".join(f"{workload} {ratio:.2f}" for workload, ratio in ratios.items())
    return counted(
        SUBJECT,
        f"warm faster than {name}",
        f"on most of {len(raced)} workloads",
        f"on {faster}, {1 / statistics.geometric_mean(ratios.values()):.2f} times as fast on average",
        passed=2 * faster > len(raced),
        detail=f"time against {name}: {told}",
    )
