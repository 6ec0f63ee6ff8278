"""Counts of two arms: cumulated, mergeable, and right however many threads count."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import ModelFailed, Overloaded
from everloop.policy.bins import latency_bin
from everloop.policy.ratio import ratio_broken
from everloop.serving import evidence
from everloop.serving.evidence import ArmSeen, Evidence, Observed, Tally
from everloop.serving.split import Arm


def seen_of(tally: Tally, step: int = 0) -> ArmSeen:
    seen = ArmSeen()
    tally.add_to(seen, step)
    return seen


def failure(how: evidence.ModelFailed | str = "raised") -> ModelFailed:
    error = ModelFailed("no")
    error.how = how  # type: ignore[assignment]
    return error


def test_no_count_is_lost_between_threads() -> None:
    tally = Tally(set())

    def count() -> None:
        for i in range(2_000):
            tally.took(1e-6 * i)
            tally.answered()
            tally.assigned()
            tally.drawn()
            tally.settled(2, 0.001)
            tally.failed(failure())
            tally.unit(f"user-{i % 100}")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    looks = [seen_of(tally).requests for _ in range(200)]
    for thread in threads:
        thread.join()
    assert looks == sorted(looks), "never falling"
    seen = seen_of(tally)
    assert (seen.requests, seen.failed, seen.kinds) == (24_000, 8_000, {"raised": 8_000})
    assert (seen.settled, seen.alone, seen.units) == ({0: 24_000}, {0: 16_000}, {0: 100})
    assert seen.latencies[latency_bin(0.001)] >= 8_000


def test_the_split_is_judged_by_what_it_drew_not_by_who_is_faster() -> None:
    """A version that takes 20 ms has answered nobody while the other one has answered hundreds."""
    fast, slow = Tally(set()), Tally(set())
    lane: Any = SimpleNamespace(own=None, compiled=True)
    for i in range(1_000):
        arm = Arm(lane, None, slow if i % 10 == 0 else fast)
        arm.assign()
        if arm.tally is fast:
            fast.settled(1, 0.0001)
    assert seen_of(slow).settled == {}
    verdict = ratio_broken(seen_of(fast).draws(0), seen_of(slow).draws(0), 0.1)
    assert (verdict.observed, verdict.broken) == (0.1, False)


def test_of_more_latencies_than_wait_the_last_ones_count(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    for _ in range(evidence.RECENT + 10):
        tally.took(0.5)
        tally.answered()
    assert seen_of(tally).latencies == {latency_bin(0.5): evidence.RECENT}
    tally.took(0.25)
    assert seen_of(tally).latencies == {latency_bin(0.5): evidence.RECENT, latency_bin(0.25): 1}


def test_units_are_bounded_and_shared_by_the_arms_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "UNITS", 10)
    counted = Evidence("m", 1, 2, lambda: None)
    champion, challenger = counted.arms(0)
    for i in range(6):
        champion.unit(f"a{i}")
        challenger.unit(f"b{i}")
        champion.unit("a0")
    seen = counted.observed()
    assert (seen.champion.units, seen.challenger.units) == ({0: 5}, {0: 5})
    counted.arms(1)[0].unit("a0")
    assert counted.observed().champion.units == {0: 5, 1: 1}, "a step begins anew"


def test_guard_hits_wake_and_other_failures_do_not() -> None:
    woken: list[int] = []
    _, challenger = Evidence("m", 1, 2, lambda: woken.append(1)).arms(0)
    challenger.decisive(failure("raised"))
    challenger.decisive(Overloaded("full"))
    assert woken == []
    for how in ("not_finite", "shape", "timeout", "crash"):
        challenger.decisive(failure(how))
    assert len(woken) == 4
    assert seen_of(challenger).decisive == {
        "raised": 1, "overloaded": 1, "not_finite": 1, "shape": 1, "timeout": 1, "crash": 1,
    }  # fmt: skip


numbers = st.dictionaries(st.integers(0, 5), st.integers(1, 100), max_size=3)
kinds = st.dictionaries(st.sampled_from(["raised", "timeout"]), st.integers(1, 9), max_size=2)
arms = st.builds(
    ArmSeen,
    requests=st.integers(0, 99),
    failed=st.integers(0, 9),
    kinds=kinds,
    decisive=kinds,
    latencies=numbers,
    assigned=numbers,
    settled=numbers,
    alone=numbers,
    units=numbers,
)
observations = st.builds(Observed, champion=arms, challenger=arms, open=st.booleans(), lost=st.sampled_from(["", "x"]))


@given(observations, observations)
def test_merging_adds_up_and_survives_the_wire(a: Observed, b: Observed) -> None:
    both = a.merged(b)
    assert both.champion.requests == a.champion.requests + b.champion.requests
    for name in ("kinds", "latencies", "settled", "alone"):
        for key, number in getattr(both.challenger, name).items():
            assert number == sum(getattr(each.challenger, name).get(key, 0) for each in (a, b))
    for step in {*both.champion.units, *both.challenger.units}:
        pairs = [(o.champion.units.get(step, 0), o.challenger.units.get(step, 0)) for o in (a, b)]
        merged = both.champion.units.get(step, 0), both.challenger.units.get(step, 0)
        assert merged in pairs, "units are not added up"
        assert sum(merged) == max(map(sum, pairs))
    assert both.open == (a.open and b.open)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(both), type=Observed) == both
