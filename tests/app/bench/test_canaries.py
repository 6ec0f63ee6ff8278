"""The simulations' twin gives the numbers that the gates themselves give, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest

from everloop.app.bench import canaries
from everloop.policy.bins import latency_bin, loss_bins
from everloop.policy.findings import Counts, Findings, begin, observe, quality_evidence
from everloop.policy.rollout import Gates, Plan

NONE = Counts()


def arms_of(share: float) -> tuple[np.random.Generator, np.ndarray]:
    rng = np.random.default_rng(11)
    return rng, rng.random((3, 400)) < share


def either(challenger: bool, first: object, rest: object) -> tuple:
    return (rest, first) if challenger else (first, rest)


def at_blocks(paths: canaries.Paths, simulation: int, values: list[float]) -> list[float]:
    """What the gates had after those samples with which the twin closed a block."""
    mine = paths.blocks.simulation == simulation
    return [values[t] for t in paths.blocks.last[mine]]


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_errors(share: float) -> None:
    rng, arms = arms_of(share)
    failed = rng.random(arms.shape) < np.where(arms, 0.3, 0.1)
    paths = canaries.rates(arms, failed)
    for i in range(len(arms)):
        findings, seen = begin(Plan("canary"), "classification"), []
        for mine, bad in zip(arms[i], failed[i], strict=True):
            findings = observe(findings, errors=either(mine, Counts(1, int(bad)), NONE))
            assert findings.errors is not None
            seen.append(findings.errors.odds.log_more())
        assert paths.more[paths.blocks.simulation == i] == pytest.approx(at_blocks(paths, i, seen), abs=1e-9)
        reached = np.flatnonzero(np.array(seen) >= np.log(3))
        assert paths.first(3)[i] == (reached[0] if len(reached) else -1)


def test_latency() -> None:
    rng, arms = arms_of(0.5)
    bins = np.vectorize(latency_bin)(rng.lognormal(-5, 0.5, arms.shape) * np.where(arms, 1.6, 1.0))
    paths = canaries.latencies(arms, bins, Gates())
    for i in range(len(arms)):
        findings, seen = begin(Plan("canary"), "classification"), []
        for mine, number in zip(arms[i], bins[i], strict=True):
            findings = observe(findings, latencies=either(mine, {int(number): 1}, {}))
            seen.append(findings.peaks.get("latency", 0.0))
        peaks = np.maximum.accumulate(np.maximum(paths.more[paths.blocks.simulation == i], 0.0))
        assert peaks == pytest.approx(at_blocks(paths, i, seen), abs=1e-9)
        assert seen[-1] > 1


def test_losses() -> None:
    rng, arms = arms_of(0.5)
    losses = np.abs(rng.normal(size=arms.shape)) * np.where(arms, 1.5, 1.0)
    bins = np.vectorize(lambda x: next(iter(loss_bins(np.array([x])))))(losses)
    paths = canaries.losses(arms, bins)

    def evidence(findings: Findings) -> tuple[float, float]:
        assert findings.quality is not None
        return quality_evidence(findings.quality)

    for i in range(len(arms)):
        findings, seen = begin(Plan("canary"), "regression"), []
        for mine, loss in zip(arms[i], losses[i], strict=True):
            findings = observe(findings, losses=either(mine, [loss], []))
            seen.append(evidence(findings))
        mine = paths.blocks.simulation == i
        worse, better = zip(*seen, strict=True)
        assert paths.more[mine] == pytest.approx(at_blocks(paths, i, list(worse)), abs=1e-9)
        assert paths.fewer[mine] == pytest.approx(at_blocks(paths, i, list(better)), abs=1e-9)


def test_the_challengers_samples_are_counted() -> None:
    arms = np.array([[True, False, True], [False, False, True]])
    assert canaries.counted(arms, np.array([2, -1])).tolist() == [2, np.inf]
