"""Who may join a queue: what is promised is kept, nothing that could be answered is lost, and nobody lives at another's cost."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.policy import admission
from everloop.policy.admission import Limits, refuse
from everloop.policy.batching import CostCurve
from everloop.policy.pacing import Pace

FLAT = Pace(CostCurve((1, 32), (0.005, 0.008)))
"""A batch of 32 costs hardly more than one row."""
LINEAR = Pace(CostCurve((1, 64), (0.002, 0.128)))


class Simulated:
    """One lane in virtual time: Poisson callers, a run that takes what the curve says (give or take), FIFO batches of `size`."""

    def __init__(self, curve: Pace, limits: Limits, size: int, *, noise: float = 0.1, seed: int = 1) -> None:
        self.curve, self.limits, self.size = curve, limits, size
        self.noise, self.rng = noise, Random(seed)
        self.latencies: dict[str, list[float]] = {}
        self.refused: Counter[str] = Counter()
        self.longest_queue = 0
        self.busy_until = 0.0

    def run(self, rates: dict[str, float], seconds: float) -> None:
        rng, curve, size = self.rng, self.curve, self.size
        arrivals = [(rng.expovariate(rate), caller) for caller, rate in rates.items()]
        heapq.heapify(arrivals)
        queue: deque[tuple[float, str]] = deque()
        held: Counter[str] = Counter()
        running: list[tuple[float, str]] = []
        began = estimate = 0.0
        ends = float("inf")
        while arrivals:
            at, caller = arrivals[0]
            if ends <= at:
                now = ends
                for came, who in running:
                    self.latencies.setdefault(who, []).append(now - came)
                running, ends = [], float("inf")
            else:
                now = at
                after = now + rng.expovariate(rates[caller])
                if after < seconds:
                    heapq.heapreplace(arrivals, (after, caller))
                else:
                    heapq.heappop(arrivals)
                left = admission.remaining(estimate, now - began) if running else 0.0
                refused = refuse(
                    self.limits, curve, size=size, left=left, waiting=len(queue), rows=1, held=held[caller]
                )
                if refused is None:
                    queue.append((now, caller))
                    held[caller] += 1
                    self.longest_queue = max(self.longest_queue, len(queue))
                else:
                    assert refused.retry_after > 0
                    self.refused[caller] += 1
            if not running and queue:
                running = [queue.popleft() for _ in range(min(size, len(queue)))]
                held.subtract(who for _, who in running)
                began, estimate = now, curve.estimate(len(running))
                ends = now + estimate * rng.uniform(1 - self.noise, 1 + self.noise)
                self.busy_until = ends

    def rate(self, caller: str, seconds: float) -> float:
        return len(self.latencies.get(caller, ())) / seconds

    def p99(self, caller: str) -> float:
        found = sorted(self.latencies[caller])
        return found[int(len(found) * 0.99)]


@pytest.mark.parametrize(("curve", "size", "target"), [(FLAT, 32, 0.05), (LINEAR, 8, 0.1), (FLAT, 32, None)])
def test_at_three_times_the_capacity_the_capacity_is_answered_within_the_target(
    curve: Pace, size: int, target: float | None
) -> None:
    capacity = size / curve.estimate(size)
    lane = Simulated(curve, Limits(target=target), size)
    lane.run({"a": 1.5 * capacity, "b": 1.5 * capacity}, 2.0)
    answered = lane.rate("a", 2.0) + lane.rate("b", 2.0)
    assert answered > 0.93 * capacity
    longest = target or admission.LEAST_PATIENCE + 3 * curve.estimate(size)
    assert max(lane.p99("a"), lane.p99("b")) <= longest
    assert lane.busy_until < 2.0 + longest, "recovered as soon as what waited is answered"


def test_a_load_below_the_capacity_is_not_refused() -> None:
    lane = Simulated(FLAT, Limits(target=0.05), 32)
    lane.run({"a": 0.7 * 32 / 0.008}, 2.0)
    assert lane.refused["a"] == 0


@pytest.mark.parametrize("curve", [FLAT, LINEAR])
def test_a_greedy_caller_costs_a_modest_one_nothing(curve: Pace) -> None:
    capacity = 32 / curve.estimate(32)
    lane = Simulated(curve, Limits(max_wait=0.5), 32)
    lane.run({"greedy": 10 * capacity, "modest": 0.1 * capacity}, 2.0)
    assert lane.refused["modest"] == 0
    assert lane.rate("greedy", 2.0) > 0.8 * capacity


def test_two_greedy_callers_get_the_same_whatever_they_ask_for() -> None:
    capacity = 32 / FLAT.estimate(32)
    lane = Simulated(FLAT, Limits(max_wait=0.2), 32)
    lane.run({"a": 2 * capacity, "b": 6 * capacity}, 2.0)
    assert lane.rate("a", 2.0) == pytest.approx(lane.rate("b", 2.0), rel=0.15)


curves = st.builds(
    lambda one, slope: Pace(CostCurve((1, 64), (one, one + 63 * slope))), st.floats(1e-5, 1.0), st.floats(0.0, 0.1)
)
limits = st.builds(
    Limits,
    max_wait=st.none() | st.floats(0.0, 10.0),
    target=st.none() | st.floats(0.001, 10.0),
)


@given(curves, limits, st.integers(1, 256), st.integers(1, 1000))
def test_whoever_finds_nobody_is_taken(curve: Pace, asked: Limits, size: int, rows: int) -> None:
    assert refuse(asked, curve, size=size, left=0.0, waiting=0, rows=rows) is None


@given(
    curves,
    limits,
    st.integers(1, 256),
    st.floats(0.0, 5.0),
    st.integers(0, 5000),
    st.integers(1, 300),
    st.integers(0, 5000),
    st.none() | st.floats(0.0, 10.0),
)
def test_more_ahead_and_more_held_never_helps(
    curve: Pace,
    asked: Limits,
    size: int,
    left: float,
    waiting: int,
    rows: int,
    held: int,
    time_left: float | None,
) -> None:
    held = min(held, waiting)

    def refused(left: float = left, waiting: int = waiting, held: int = held) -> bool:
        return (
            refuse(asked, curve, size=size, left=left, waiting=waiting, rows=rows, held=held, time_left=time_left)
            is not None
        )

    if refused():
        assert refused(waiting=waiting + size)
        assert refused(held=held + 1)
        if waiting:
            assert refused(left=left + 0.1)
    else:
        assert not refused(held=0), "who holds nothing is never refused for what others hold"


@given(curves, st.integers(1, 64), st.integers(1, 200), st.floats(0.0, 20.0), st.integers(0, 500), st.floats(0.0, 5.0))
def test_a_deadline_is_kept_or_refused_for_what_is_to_blame(
    curve: Pace, size: int, rows: int, time_left: float, waiting: int, left: float
) -> None:
    refused = refuse(Limits(), curve, size=size, left=left, waiting=waiting, rows=rows, time_left=time_left)
    run = admission.run_seconds(rows, size, curve)
    wait = admission.predicted_wait(left, waiting, size, curve)
    if refused is None:
        assert wait + run <= time_left * 1.0001 + 1e-9
    elif refused.ground == "deadline":
        assert run > time_left
    else:
        assert run <= time_left, "an empty queue would have let it through"


def test_a_run_that_hangs_is_expected_to_go_on_hanging() -> None:
    assert admission.remaining(0.008, 0.003) == pytest.approx(0.005)
    assert admission.remaining(0.008, 0.008) == pytest.approx(0.0)
    assert admission.remaining(0.008, 5.0) == pytest.approx(4.992)
    hanging = refuse(Limits(), FLAT, size=32, left=admission.remaining(0.008, 5.0), waiting=1, rows=1)
    assert hanging is not None
    assert hanging.ground == "queue"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=400))
def test_shares_leave_room_for_whoever_holds_nothing(order: list[int]) -> None:
    """Units of a common memory, taken by whoever may; some never give back."""
    total, held = 1000.0, dict.fromkeys(range(4), 0.0)
    for who in order:
        free = total - sum(held.values())
        if admission.within_share(held[who], free):
            held[who] += min(10.0, free)
    assert total - sum(held.values()) > 0


@pytest.mark.parametrize(("row", "longest"), [(0.001, 1.0), (0.5, 5.0), (3.0, 10.0), (60.0, 120.0)])
def test_how_long_somebody_waits_where_nobody_said_so(row: float, longest: float) -> None:
    curve = Pace(CostCurve((1,), (row,)))
    assert admission.longest_delay(Limits(), row, curve) == pytest.approx(longest)
    assert admission.longest_delay(Limits(max_wait=30.0), row, curve) == 30.0
