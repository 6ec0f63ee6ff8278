"""Memory backpressure: the gate by itself, and a run that stands still before it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.parallel.test_engine import Bench, Counted

from everloop.parallel.backpressure import CHECK_EVERY, PATIENCE, Gate
from everloop.parallel.hooks import ExecutionHooks, Progress
from everloop.parallel.plan import Plan


class Memory:
    def __init__(self, share: float = 0.0) -> None:
        self.share = share
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.share


class Falling(Memory):
    """High for some looks, then low again."""

    def rise(self, share: float, looks: int, watch: Callable[[], int]) -> None:
        self.low, self.share, self.left, self.watch = self.share, share, looks, watch
        self.watched: list[int] = []

    def __call__(self) -> float:
        if self.share > 0.5:
            self.watched.append(self.watch())
            self.left -= 1
            if self.left < 0:
                self.share = self.low
        return self.share


def test_the_gate_shuts_above_the_threshold_and_opens_below() -> None:
    memory = Memory(0.5)
    gate = Gate(0.8, memory)
    assert gate.allows(0.0, 3) is None
    memory.share = 0.9
    assert gate.allows(1.0, 3) == 0
    assert gate.shut
    memory.share = 0.7
    assert gate.allows(3.0, 3) is None
    assert gate.paused_seconds(10.0) == 2.0


def test_memory_is_not_looked_at_all_the_time() -> None:
    memory = Memory()
    gate = Gate(0.8, memory)
    for step in range(100):
        gate.allows(step * CHECK_EVERY / 50, 1)
    assert memory.asked <= 3


def test_somebody_else_s_memory_does_not_hold_us_for_ever() -> None:
    gate = Gate(0.8, Memory(0.95))
    assert gate.allows(0.0, 0) == 0
    assert gate.allows(PATIENCE - 1, 0) == 0
    with pytest.warns(RuntimeWarning, match="above 80%"):
        assert gate.allows(PATIENCE + 1, 0) == 1
    assert gate.allows(PATIENCE + 2, 1) == 0
    assert gate.allows(PATIENCE + 3, 0) == 1  # said once


def test_patience_counts_only_while_nothing_is_in_flight() -> None:
    gate = Gate(0.8, Memory(0.95))
    for second in range(100):
        assert gate.allows(float(second), 1) == 0
    assert gate.allows(100.0, 0) == 0


def test_a_run_submits_nothing_while_memory_is_short_and_goes_on_after() -> None:
    memory = Falling(0.1)
    source = Counted(range(100))
    paused: list[bool] = []

    class Hooks(ExecutionHooks):
        def on_progress(self, event: Progress) -> None:
            paused.append(event.paused)

    bench = Bench(
        lambda item: item,
        source,
        Plan("process", 2, 1, buffer_size=8),
        script={"seconds": lambda item: 0.06},
        memory_threshold=0.8,
        memory_in_use=memory,
        hooks=(Hooks(),),
    )
    stream = iter(bench.run)
    results = [next(stream) for _ in range(10)]
    memory.rise(0.9, looks=20, watch=lambda: source.read)
    results += stream
    assert results == list(range(100))
    assert len(set(memory.watched[1:])) == 1, "it read on while it was shut"
    assert 19 * CHECK_EVERY <= bench.report.paused_seconds <= 22 * CHECK_EVERY
    assert True in paused
    assert paused[-1] is False


def test_a_run_trickles_where_memory_stays_short() -> None:
    bench = Bench(lambda item: item, range(5), Plan("process", 2, 3), memory_threshold=0.5, memory_in_use=Memory(0.9))
    with pytest.warns(RuntimeWarning, match="one item at a time"):
        assert bench.run.results() == list(range(5))
    assert [len(chunk.items) for chunk in bench.executor.sent] == [1] * 5
    assert bench.report.most_in_flight == 1


def test_no_threshold_no_look() -> None:
    def never() -> float:
        raise AssertionError("asked")

    assert Bench(lambda item: item, range(5), memory_in_use=never).run.results() == list(range(5))


def test_this_machine_s_own_memory_is_looked_at() -> None:
    assert Bench(lambda item: item, range(5), memory_threshold=1.0).run.results() == list(range(5))
