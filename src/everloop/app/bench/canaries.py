"""Many rollouts at once, looked at after every sample: the gates of `policy.gates` over arrays of simulations.

A twin, for speed alone: blocks are closed by the same rule, a block's evidence is `policy.sequential.log_e` itself (taken once for
each block that looks the same), mixtures are `log_more` and `log_fewer`, thresholds are taken when and from what
`policy.findings.Excesses` takes them. Tests hold it to the same numbers as `observe`, sample by sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.policy.bins import quantile_bins
from everloop.policy.findings import (
    CALIBRATION,
    GROWTH,
    LATENCY_QUANTILES,
    LATENCY_WEIGHTS,
    LOSS_QUANTILES,
    tolerated,
)
from everloop.policy.rollout import Gates
from everloop.policy.sequential import DELTAS, log_e, log_fewer, log_more, log_sum

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """Closed blocks of all simulations, by simulation and time; shape (blocks,) each."""

    simulation: Ints
    sizes: Ints
    """(blocks, 2): outcomes of champion and challenger."""
    first: Ints
    last: Ints
    """The samples that it began and closed with."""


@dataclass(frozen=True)
class Paths:
    """What is known after each block."""

    blocks: Blocks
    more: Floats
    fewer: Floats
    """Log e-values, shape (blocks,)."""
    simulations: int

    def first(self, needed: float, way: str = "more") -> Ints:
        """For each simulation the sample at which the evidence was there, -1 where it never was."""
        found = np.flatnonzero((self.more if way == "more" else self.fewer) >= math.log(needed))
        when = np.full(self.simulations, -1)
        simulation, place = np.unique(self.blocks.simulation[found], return_index=True)
        when[simulation] = self.blocks.last[found[place]]
        return when


def blocks_of(arms: npt.NDArray[np.bool_], begin: Ints | None = None) -> Blocks:
    """`arms`, shape (simulations, samples): whether each sample was the challenger's. `begin`: the first sample that counts."""
    simulations, samples = arms.shape
    open_ = np.zeros((simulations, 2), np.int64)
    seen = np.zeros((simulations, 2), np.int64)
    start = np.zeros(simulations, np.int64) if begin is None else begin.copy()
    opened, every = start.copy(), np.arange(simulations)
    parts: list[tuple[Ints, Ints, Ints, Ints]] = []
    for t in range(samples):
        open_[every, arms[:, t].astype(np.int64)] += t >= start
        closes = np.flatnonzero(open_.min(axis=1) > np.sqrt(seen.min(axis=1)).astype(np.int64) // 2)
        if len(closes):
            parts.append((closes, open_[closes], opened[closes], np.full(len(closes), t)))
            seen[closes] += open_[closes]
            open_[closes] = 0
            opened[closes] = t + 1
    simulation, sizes, first, last = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((last, simulation))
    return Blocks(simulation[order], sizes[order], first[order], last[order])


def rates(arms: npt.NDArray[np.bool_], events: npt.NDArray[np.bool_], blocks: Blocks | None = None) -> Paths:
    """One event, as errors and wrong answers are; both of shape (simulations, samples). `blocks`: those of `arms`, if they are known."""
    blocks = blocks_of(arms) if blocks is None else blocks
    evidence = _evidence(blocks, _in_blocks(blocks, events), _in_blocks(blocks, events & arms))
    return Paths(blocks, log_more(evidence), log_fewer(evidence), len(arms))


def latencies(arms: npt.NDArray[np.bool_], bins: Ints, gates: Gates) -> Paths:
    """Latencies by `policy.bins.latency_bin`; both of shape (simulations, samples)."""
    return _excesses(arms, bins, LATENCY_QUANTILES, LATENCY_WEIGHTS, gates)


def losses(arms: npt.NDArray[np.bool_], bins: Ints) -> Paths:
    """Losses of regressions by `policy.bins.loss_bins`."""
    _, ranks = np.unique(bins, return_inverse=True)
    return _excesses(
        arms, ranks.reshape(bins.shape), LOSS_QUANTILES, np.full(len(LOSS_QUANTILES), 1 / len(LOSS_QUANTILES)), None
    )


def _excesses(
    arms: npt.NDArray[np.bool_], bins: Ints, quantiles: Sequence[float], weights: Floats, gates: Gates | None
) -> Paths:
    champions = np.cumsum(~arms, axis=1)
    blocks = blocks_of(arms, np.argmax(champions >= CALIBRATION, axis=1) + 1)
    above = [np.zeros(arms.shape, np.bool_) for _ in quantiles]
    ends = np.searchsorted(blocks.simulation, np.arange(len(arms) + 1))
    for i in range(len(arms)):
        last = blocks.last[ends[i] : ends[i + 1]]
        now, made_of = int(np.argmax(champions[i] >= CALIBRATION)), CALIBRATION
        while True:
            counts = np.bincount(bins[i, : now + 1][~arms[i, : now + 1]])
            values = np.flatnonzero(counts)
            histogram = dict(zip(values.tolist(), counts[values].tolist(), strict=True))
            first = [number + 1 for number in quantile_bins(histogram, quantiles)]
            theirs = first if gates is None else tolerated(first, gates)
            later = last[(last > now) & (champions[i, last] >= made_of * GROWTH)]
            then = int(later[0]) if len(later) else arms.shape[1] - 1
            mine, taken = arms[i, now + 1 : then + 1], bins[i, now + 1 : then + 1]
            for kind, (low, high) in enumerate(zip(first, theirs, strict=True)):
                above[kind][i, now + 1 : then + 1] = taken >= np.where(mine, high, low)
            if not len(later):
                break
            now, made_of = then, int(champions[i, then])
    kinds = [
        _evidence(blocks, _in_blocks(blocks, above[k]), _in_blocks(blocks, above[k] & arms))
        for k in range(len(quantiles))
    ]
    more, fewer = (
        log_sum(np.stack([mixed(e) for e in kinds], -1) + np.log(weights)) for mixed in (log_more, log_fewer)
    )
    return Paths(blocks, more, fewer, len(arms))


def _in_blocks(blocks: Blocks, events: npt.NDArray[np.bool_]) -> Ints:
    """How many events there are in each block."""
    sums = np.zeros((len(events), events.shape[1] + 1), np.int64)
    np.cumsum(events, axis=1, out=sums[:, 1:])
    counts: Ints = sums[blocks.simulation, blocks.last + 1] - sums[blocks.simulation, blocks.first]
    return counts


def _evidence(blocks: Blocks, events: Ints, challengers: Ints) -> Floats:
    """Each block's `log_e`, summed up to it within its simulation; shape (blocks, 29)."""
    different, which = np.unique(np.column_stack([blocks.sizes, events, challengers]), axis=0, return_inverse=True)
    table = np.empty((len(different), len(DELTAS)))
    # Blocks of about as many outcomes together: all are as costly as the widest.
    order = np.argsort(np.minimum(different[:, 2], different[:, 1]))
    for part in np.array_split(order, max(1, len(order) // 500)):
        table[part] = log_e(*different[part].T)
    summed: Floats = np.cumsum(table[which.ravel()], axis=0)
    begins = np.flatnonzero(np.diff(blocks.simulation, prepend=-1))
    before = np.vstack([np.zeros((1, len(DELTAS))), summed])[begins]
    summed -= np.repeat(before, np.diff(begins, append=len(events)), axis=0)
    return summed


def counted(arms: npt.NDArray[np.bool_], when: Ints) -> Floats:
    """The challenger's samples up to and with sample `when` of each simulation; infinite where it is -1."""
    sums: Any = np.cumsum(arms, axis=1)
    taken: Floats = np.where(when >= 0, sums[np.arange(len(arms)), np.maximum(when, 0)], np.inf)
    return taken
