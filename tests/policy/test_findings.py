"""What the gates have seen: taken in whole or in pieces, written down, gone on with."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.policy.bins import latency_bin, latency_edge
from everloop.policy.findings import (
    CALIBRATION,
    Counts,
    Findings,
    Moments,
    begin,
    decode,
    encode,
    observe,
    tolerated,
)
from everloop.policy.gates import verdicts
from everloop.policy.rollout import Gates, Plan

PLAN = Plan("canary")
NAN = float("nan")


def histogram(seconds: np.ndarray) -> dict[int, int]:
    counts: dict[int, int] = {}
    for value in seconds:
        number = latency_bin(float(value))
        counts[number] = counts.get(number, 0) + 1
    return counts


def grown(findings: Findings, rng: np.random.Generator, deltas: int = 5) -> Findings:
    for _ in range(deltas):
        n_a, n_b = int(rng.integers(0, 60)), int(rng.integers(0, 10))
        findings = observe(
            findings,
            errors=(Counts(n_a, int(rng.binomial(n_a, 0.05))), Counts(n_b, int(rng.binomial(n_b, 0.2)))),
            latencies=(histogram(rng.lognormal(-6, 0.5, n_a)), histogram(rng.lognormal(-5.5, 0.5, n_b))),
            losses=(np.abs(rng.normal(size=n_a)).round(), np.abs(rng.normal(size=n_b)).round()),
            pairs=[(float(a), float(b)) for a, b in rng.integers(0, 2, (3, 2))],
        )
    return findings


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), task=st.sampled_from(["classification", "regression"]))
def test_written_down_and_gone_on_with_is_as_never_interrupted(seed: int, task: str) -> None:
    rng = np.random.default_rng(seed)
    before = grown(begin(PLAN, task, champion=3, challenger=4), rng)
    again = decode(encode(before))
    assert again == before
    state = rng.bit_generator.state
    straight = grown(before, rng)
    rng.bit_generator.state = state
    assert again is not None
    resumed = grown(again, rng)
    assert resumed == straight
    assert verdicts(resumed) == verdicts(straight)
    assert len(encode(resumed)) < 20_000


def test_what_is_observed_does_not_change_what_was_there_before() -> None:
    rng = np.random.default_rng(0)
    for task in ("classification", "regression"):
        before = grown(begin(PLAN, task), rng)
        kept = encode(before)
        grown(before, rng)
        assert encode(before) == kept


def test_findings_of_another_format_are_not_gone_on_with() -> None:
    later = msgspec.structs.replace(begin(PLAN, "regression"), format=99)
    assert decode(encode(later)) is None


def test_a_gate_that_is_not_enabled_takes_nothing_in() -> None:
    plan = Plan("canary", gates=Gates(errors=False, latency=False, quality=False))
    findings = grown(begin(plan, "classification"), np.random.default_rng(1))
    assert verdicts(findings) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60), st.integers(1, 7))
def test_single_samples_and_deltas_see_the_same_totals(samples: list[tuple[bool, bool]], width: int) -> None:
    """And the same evidence, where the deltas do not close a block that single samples would have closed earlier."""
    one = many = begin(PLAN, "classification")
    for ours, failed in samples:
        counts = Counts(1, int(failed)), Counts()
        one = observe(one, errors=counts[::-1] if ours else counts)
    for i in range(0, len(samples), width):
        part = samples[i : i + width]
        arms = [Counts(sum(o == arm for o, _ in part), sum(f for o, f in part if o == arm)) for arm in (False, True)]
        many = observe(many, errors=(arms[0], arms[1]))
    assert one.errors is not None
    assert many.errors is not None
    assert (one.errors.n, one.errors.events) == (many.errors.n, many.errors.events)
    if width == 1:
        assert one == many


def test_where_a_delta_is_cut_inside_a_block_does_not_matter() -> None:
    whole = observe(begin(PLAN, "classification"), errors=(Counts(100, 7), Counts(9, 3)))
    cut = begin(PLAN, "classification")
    for champion in (Counts(60, 2), Counts(1, 1), Counts(39, 4)):
        cut = observe(cut, errors=(champion, Counts()))
    cut = observe(cut, errors=(Counts(), Counts(9, 3)))
    assert whole == cut


def test_thresholds_come_from_the_past_and_stay_while_a_block_is_open() -> None:
    findings = begin(PLAN, "classification")
    first = {latency_bin(0.001): CALIBRATION}
    findings = observe(findings, latencies=(first, {latency_bin(5.0): 3}))
    assert findings.latency is not None
    assert findings.latency.thresholds == [latency_bin(0.001) + 1] * 5
    assert findings.latency.odds.closed == (0, 0), "what thresholds were made of is no evidence"
    findings = observe(findings, latencies=({latency_bin(0.1): 1000}, {}))
    assert findings.latency is not None
    assert findings.latency.thresholds == [latency_bin(0.001) + 1] * 5
    findings = observe(findings, latencies=({}, {latency_bin(0.1): 5}))
    assert findings.latency is not None
    assert findings.latency.thresholds == [latency_bin(0.1) + 1] * 5
    assert findings.peaks.get("latency", 0) < math.log(2), "both were slow in the same block"


def test_tolerance_is_never_less_than_promised() -> None:
    gates = Gates(latency_tolerance=0.1, latency_slack=0.001)
    thresholds = list(range(0, 1000, 7))
    for mine, theirs in zip(thresholds, tolerated(thresholds, gates), strict=True):
        least = latency_edge(mine) * 1.1 + 0.001
        assert least * (1 - 1e-9) <= latency_edge(theirs) <= least * 1.021
    assert tolerated(thresholds, Gates(latency_tolerance=0, latency_slack=0)) == thresholds


def test_losses_that_are_no_number_are_the_worst() -> None:
    rng = np.random.default_rng(2)
    for task in ("classification", "regression"):
        findings = begin(Plan("canary", gates=Gates(errors=False, latency=False)), task)
        for _ in range(40):
            findings = observe(findings, losses=((rng.random(20) < 0.1) * 1.0, np.full(3, NAN)))
        (verdict,) = verdicts(findings)
        assert verdict.verdict == "roll_back", task
        told = "is wrong on 100 %" if task == "classification" else "120 answers were no number"
        assert told in verdict.text
        assert math.isfinite(verdict.e_value)


def test_pairs_of_losses() -> None:
    findings = begin(PLAN, "regression")
    findings = observe(findings, pairs=[(1.0, 2.0)] * 30 + [(1.0, 1.0)] * 70 + [(NAN, NAN), (NAN, 1.0), (1.0, NAN)])
    quality = findings.quality
    assert quality is not None
    assert (quality.paired, quality.agreed) == (103, 71)
    verdict = verdicts(findings)[2]
    assert verdict.verdict == "roll_back"
    assert "do equally well on 68.9 % of 103 examples" in verdict.text


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=5), max_size=6))
def test_moments_in_pieces_are_those_of_the_whole(parts: list[list[float]]) -> None:
    moments = Moments()
    for part in parts:
        moments.add(np.array(part))
    values = np.array([x for part in parts for x in part])
    assert moments.n == len(values)
    if len(values):
        assert moments.mean == pytest.approx(float(np.mean(values)), abs=1e-6)
        assert moments.squares == pytest.approx(float(np.sum((values - np.mean(values)) ** 2)), rel=1e-6, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 1e9, 1e200])
def test_the_scale_of_a_loss_does_not_matter(scale: float) -> None:
    rng = np.random.default_rng(3)
    gates = Gates(errors=False, latency=False)
    findings = begin(Plan("canary", gates=gates), "regression")
    for _ in range(30):
        losses = np.abs(rng.standard_cauchy((2, 40)))
        losses[1] *= 3
        findings = observe(findings, losses=(losses[0] * scale, losses[1] * scale))
    (verdict,) = verdicts(findings)
    assert verdict.verdict == "roll_back"
