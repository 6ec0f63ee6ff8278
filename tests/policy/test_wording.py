from __future__ import annotations

import math

from everloop.policy.wording import evidence, percent, seconds


def test_evidence_is_rounded_down() -> None:
    told = {0.01: "under 0.1", 0.25: "0.2", 1.0: "1", 3.98: "3.9", 19.99: "19", 4567.8: "4,567", 1e7: "over a million"}
    assert {value: evidence(math.log(value)) for value in told} == told


def test_shares() -> None:
    told = {0.0: "0 %", 0.098: "9.8 %", 0.9: "90 %", 0.99951: "99.951 %", 1.0: "100 %", 1.5e-05: "0.0015 %"}
    assert {share: percent(share) for share in told} == told
    assert percent(None) == "an unknown share"


def test_durations() -> None:
    assert [seconds(x) for x in (5e-6, 0.0123, 2.0)] == ["5 µs", "12.3 ms", "2 s"]
