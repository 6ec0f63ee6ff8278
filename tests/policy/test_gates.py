"""Verdicts: when, and in which words."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.policy.bins import latency_bin
from everloop.policy.gates import Counts, Findings, GateVerdict, begin, needed_of, observe, verdicts
from everloop.policy.rollout import Gates, Plan


def only(gate: str, **more: float) -> Plan:
    return Plan(
        "canary", gates=Gates(errors=gate == "errors", latency=gate == "latency", quality=gate == "quality", **more)
    )


def only_verdict(findings: Findings) -> GateVerdict:
    (verdict,) = verdicts(findings)
    return verdict


def test_the_level_is_shared() -> None:
    assert needed_of(Gates()) == {"errors": 60, "latency": 60, "quality": 120}
    assert needed_of(Gates(quality=False, level=0.01)) == {"errors": 200, "latency": 200}
    assert needed_of(Gates(errors=False, latency=False)) == {"quality": 40}


def test_words_about_errors() -> None:
    findings = begin(
        Plan("canary", gates=Gates(latency=False, quality=False)), "classification", champion=6, challenger=7
    )
    assert only_verdict(findings).text == "errors: nothing to compare yet"
    findings = observe(findings, errors=(Counts(7830, 399), Counts(412, 45)))
    verdict = only_verdict(findings)
    assert verdict.verdict == "roll_back"
    assert verdict.text == (
        "errors: version 7 fails 10.9 % of 412 requests, version 6 5.1 % of 7,830; evidence 5,966 of 20 needed: worse"
    )
    assert verdict.difference == pytest.approx(45 / 412 - 399 / 7830)
    assert verdict.interval is not None
    assert 0 < verdict.interval[0] < verdict.difference < verdict.interval[1] < 0.2


def test_fewer_errors_are_no_reason_to_promote() -> None:
    findings = observe(begin(only("errors"), "classification"), errors=(Counts(1000, 500), Counts(1000, 0)))
    assert only_verdict(findings).verdict == "continue"


def test_the_first_errors_of_a_champion_that_never_failed() -> None:
    findings = observe(begin(only("errors"), "classification"), errors=(Counts(10_000, 0), Counts(1, 0)))
    findings = observe(findings, errors=(Counts(10_000, 0), Counts(200, 5)))
    assert only_verdict(findings).verdict == "roll_back"


def test_no_failures_are_no_evidence_and_leave_an_interval() -> None:
    verdict = only_verdict(observe(begin(only("errors"), "classification"), errors=(Counts(9500, 0), Counts(500, 0))))
    assert verdict.e_value == 1
    assert verdict.interval is not None
    assert -0.01 < verdict.interval[0] < 0 < verdict.interval[1] < 0.05


def test_rates_near_one() -> None:
    findings = begin(only("errors"), "classification")
    assert only_verdict(observe(findings, errors=(Counts(500, 500), Counts(500, 500)))).verdict == "continue"
    assert only_verdict(observe(findings, errors=(Counts(500, 450), Counts(500, 500)))).verdict == "roll_back"


def test_evidence_that_was_there_once_counts() -> None:
    findings = observe(begin(only("errors"), "classification"), errors=(Counts(300, 5), Counts(300, 30)))
    assert only_verdict(findings).verdict == "roll_back"
    later = observe(findings, errors=(Counts(3000, 600), Counts(3000, 300)))
    assert only_verdict(later).verdict == "roll_back"


def test_words_about_latency() -> None:
    findings = begin(only("latency"), "classification")
    rng = np.random.default_rng(0)
    for _ in range(20):
        arms = [np.unique([latency_bin(x) for x in rng.lognormal(m, 0.3, 100)], return_counts=True) for m in (-6, -5)]
        champion, challenger = (dict(zip(map(int, bins), map(int, counts), strict=True)) for bins, counts in arms)
        findings = observe(findings, latencies=(champion, challenger))
    verdict = only_verdict(findings)
    assert verdict.verdict == "roll_back"
    assert verdict.text.startswith("latency: the challenger takes 6.65 ms (p50) and 13 ms (p99) over 2,000 answers, ")
    assert verdict.text.endswith("over 2,000; evidence over a million of 20 needed: slower")
    assert verdict.champion == pytest.approx(math.exp(-6 + 0.3 * 2.326), rel=0.1)
    assert verdict.challenger == pytest.approx(math.exp(-5 + 0.3 * 2.326), rel=0.1)
    assert verdict.interval is not None
    assert 0 < verdict.interval[0] < verdict.interval[1]


def test_a_little_slower_is_tolerated() -> None:
    findings, strict = (
        begin(only("latency"), "classification"),
        begin(only("latency", latency_tolerance=0.0, latency_slack=0.0), "classification"),
    )
    delta = ({latency_bin(0.010): 100}, {latency_bin(0.0118): 100})
    for _ in range(20):
        findings, strict = observe(findings, latencies=delta), observe(strict, latencies=delta)
    assert only_verdict(findings).verdict == "continue"
    assert only_verdict(strict).verdict == "roll_back"


def labelled(rates: tuple[float, float], n: int, seed: int = 0) -> GateVerdict:
    rng = np.random.default_rng(seed)
    findings = begin(only("quality"), "classification", champion=1, challenger=2)
    for _ in range(n // 10):
        findings = observe(findings, losses=tuple((rng.random(10) < rate) * 1.0 for rate in rates))
    return only_verdict(findings)


def test_quality_goes_both_ways() -> None:
    worse, better, same = labelled((0.2, 0.35), 2000), labelled((0.35, 0.2), 2000), labelled((0.2, 0.2), 500)
    assert (worse.verdict, better.verdict, same.verdict) == ("roll_back", "promote", "continue")
    assert worse.text.startswith("quality: version 2 is wrong on 3")
    assert worse.text.endswith("needed: worse")
    assert better.text.endswith("needed: better")
    assert same.text.endswith("needed: not decided")
    assert worse.interval is not None
    assert worse.interval[0] > 0


def test_better_needs_a_lower_mean_where_losses_are_numbers() -> None:
    """Nearly always a little better, and now and then very much worse: thresholds alone would promote it."""
    rng = np.random.default_rng(1)
    findings = begin(only("quality"), "regression")
    for _ in range(40):
        rare = np.where(rng.random(50) < 0.02, 1000.0, 0.0)
        findings = observe(findings, losses=(1 + rng.random(50), 0.5 + rng.random(50) + rare))
    assert findings.peaks["better"] > math.log(40)
    assert only_verdict(findings).verdict != "promote"


def test_a_shadow_is_judged_on_pairs() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=400)
    findings = begin(only("quality"), "regression", champion=1, challenger=2)
    pairs = [(abs(0.5 * e), abs(0.5 * e + 0.3)) for e in truth]
    verdict = only_verdict(observe(findings, pairs=pairs))
    assert verdict.verdict == "roll_back"
    assert verdict.interval is not None
    assert verdict.interval[0] > 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 2000)] * 2, *[st.floats(0, 1)] * 2), max_size=8),
    st.lists(st.tuples(st.lists(st.floats(), max_size=20), st.lists(st.floats(), max_size=20)), max_size=4),
    st.lists(st.tuples(st.floats(), st.floats()), max_size=20),
    st.sampled_from(["classification", "regression"]),
)
def test_whatever_comes_a_verdict_can_be_told_as_json(
    errors: list[tuple[int, int, float, float]],
    losses: list[tuple[list[float], list[float]]],
    pairs: list[tuple[float, float]],
    task: str,
) -> None:
    findings = begin(Plan("ab"), task)
    for n_a, n_b, a, b in errors:
        findings = observe(findings, errors=(Counts(n_a, int(a * n_a)), Counts(n_b, int(b * n_b))))
    for arms in losses:
        findings = observe(findings, losses=arms)
    findings = observe(findings, pairs=pairs)
    told = verdicts(findings)
    assert [verdict.gate for verdict in told] == ["errors", "latency", "quality"]
    for verdict in told:
        assert msgspec.json.decode(msgspec.json.encode(verdict), type=GateVerdict) == verdict
        assert "nan" not in verdict.text
        assert "inf" not in verdict.text
