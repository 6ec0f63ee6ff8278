"""From a function to a plan, without running anything large: where plans come from, and when another one is made on the way."""

from __future__ import annotations

import functools
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.parallel.workloads import same

from everloop.core.errors import InvalidInput
from everloop.parallel import cache, foreseeing, machine
from everloop.parallel.cost import MachineCosts
from everloop.parallel.decision import Surroundings, Wishes
from everloop.parallel.history import get_history
from everloop.parallel.inputs import opened, rest
from everloop.parallel.observing import observed
from everloop.parallel.options import RunOptions
from everloop.parallel.plan import ChunkBounds, Plan
from everloop.parallel.planning import Foresight, Planner
from everloop.parallel.probe import DryRun, Probe
from everloop.parallel.recording import update_model_from_execution
from everloop.parallel.report import RunReport
from everloop.parallel.source import Source

MS = Probe(items=5, item_seconds=0.001, item_bytes=8, result_bytes=8)
AROUND = Surroundings(cores=4, available_memory=8 << 30, costs=MachineCosts())
SERIAL = Plan("serial", 1, 100, item_seconds=1e-5)


def planner(probe: Probe = MS, **given: Any) -> Planner:
    """One that has already looked at the work and around."""
    made = Planner(given.pop("func", same), given.pop("wishes", Wishes()), **given)
    made.run = DryRun(probe)
    made._around = AROUND
    return made


def report(plan: Plan, items: int, item_seconds: float, cpu_share: float = 1.0) -> RunReport:
    seconds = items * item_seconds
    return RunReport(plan, items=items, item_seconds=seconds, cpu_seconds=seconds * cpu_share)


class TestReplanning:
    def test_fast_items_that_turn_slow_are_spread(self) -> None:
        plan = planner(replace(MS, item_seconds=1e-5)).replan(report(SERIAL, 1_000, 0.002), 5_000)
        assert plan is not None
        assert (plan.executor, plan.n_jobs) == ("process", 4)
        assert "2 ms, not 10 µs as expected" in plan.notes[-1]

    def test_nothing_changes_where_nothing_is_gained(self) -> None:
        assert planner().replan(report(SERIAL, 1_000, 1e-5), 50) is None
        assert planner().replan(report(SERIAL, 1_000, 1e-5), 0) is None

    def test_a_busy_machine_is_no_reason(self) -> None:
        """Workers see items of five times their length, and CPU time says that they are not."""
        plan = Plan("process", 3, 10, item_seconds=0.001)
        assert planner().replan(report(plan, 1_000, 0.005, cpu_share=0.2), 10_000) is None

    def test_the_callers_word_stands_on_the_way_too(self) -> None:
        settled = planner(wishes=Wishes(executor="thread", n_jobs=2))
        assert settled.replan(report(SERIAL, 1_000, 0.002), 5_000) is None

    def test_what_cannot_travel_stays(self) -> None:
        lock = threading.Lock()

        def locked(item: int) -> int:
            with lock:
                return item

        tried = planner(func=locked)
        plan = tried.replan(report(SERIAL, 1_000, 0.002), 5_000)
        assert plan is None or plan.executor == "thread"
        assert any("lock" in warning for warning in tried.warnings)

    def test_an_input_of_unknown_length_that_goes_on_is_spread(self) -> None:
        plan = planner().replan(report(SERIAL, 3_000, 0.001), None)
        assert plan is not None
        assert plan.executor == "process"


def test_who_gets_threads_because_of_a_lock_is_told_so() -> None:
    tried = planner(func=functools.partial(_with, threading.Lock()))
    decision = tried._verified(MS, 10_000, elapsed=0.0)
    assert decision.plan.executor in ("serial", "thread")
    assert any("lock" in warning for warning in tried.warnings)
    assert any("no processes" in note for note in decision.plan.notes)


class TestWhatARunShows:
    def test_cpu_time_is_what_an_item_costs_that_computes(self) -> None:
        plan = Plan("thread", 4, 1)
        assert observed(MS, report(plan, 100, 0.004, cpu_share=0.25)).item_seconds == pytest.approx(0.001)

    def test_wall_time_where_it_waits(self) -> None:
        plan = Plan("thread", 4, 1)
        waits = replace(MS, cpu_share=0.01)
        assert observed(waits, report(plan, 100, 0.004, cpu_share=0.01)).item_seconds == pytest.approx(0.004)

    def test_where_nothing_was_known_only_hardly_any_cpu_time_is_waiting(self) -> None:
        unknown = Probe(items=0, item_seconds=0.0)
        assert observed(unknown, report(SERIAL, 10, 0.01, cpu_share=0.05)).cpu_share == pytest.approx(0.05)
        assert observed(unknown, report(SERIAL, 10, 0.01, cpu_share=0.4)).cpu_share == 1.0

    def test_nothing_teaches_nothing(self) -> None:
        assert observed(MS, RunReport(SERIAL)) is MS


class TestWhereNothingMayBeRunHere:
    def test_with_a_timeout(self) -> None:
        tried = Planner(pytest.fail, Wishes(), RunOptions(timeout=1.0))
        plan = tried.plan(Source([1, 2, 3]), 3, extend=True)
        assert (plan.executor, plan.item_seconds) == ("serial", None)
        executor = tried.open(plan)
        assert executor.kind == "thread", "nobody can interrupt the caller's own thread"
        executor.close()

    def test_with_a_checkpoint_to_resume(self, tmp_path: Path) -> None:
        (tmp_path / "ckpt").write_bytes(b"")
        tried = Planner(pytest.fail, Wishes(), RunOptions(checkpoint=tmp_path / "ckpt"))
        assert tried.plan(Source([1, 2, 3]), 3, extend=True).executor == "serial"

    def test_with_processes_asked_for(self) -> None:
        tried = Planner(same, Wishes(executor="process"))
        source = Source([1, 2, 3])
        assert tried.plan(source, 3, extend=True).executor == "process"
        assert source.take(1) == [1]


class TestExperience:
    def teach(self, runs: int = 10, n_jobs: int = 2) -> None:
        for _ in range(runs):
            update_model_from_execution(same, 1_000, 0.01, n_jobs, 25, 1.9)

    def foresee(self, **wishes: Any) -> tuple[Planner, Plan | None]:
        tried = Planner(same, Wishes(**wishes), foresight=Foresight(predict=True, threshold=0.1))
        return tried, foreseeing.predicted_plan(tried, get_history(), 1_000, None)

    def test_is_asked_before_anything_is_run(self) -> None:
        self.teach()
        tried = Planner(same, Wishes(), foresight=Foresight(predict=True, threshold=0.1))
        source = Source(range(1_000))
        plan = tried.plan(source, 1_000, extend=True)
        assert (plan.source, plan.executor, plan.n_jobs) == ("history", "process", 2)
        assert plan.confidence is not None
        assert tried.done == []
        assert source.take(1) == [0]

    def test_gives_way_to_the_caller(self) -> None:
        self.teach()
        _, plan = self.foresee(n_jobs=2, chunksize=20)
        assert plan is not None
        assert (plan.n_jobs, plan.chunksize, plan.adaptive) == (2, 20, None)
        _, plan = self.foresee(executor="thread")
        assert plan is None, "no run of threads is known"

    def test_is_nothing_without_runs(self) -> None:
        assert self.foresee()[1] is None

    def test_now_and_then_a_neighbour_is_tried(self) -> None:
        for _ in range(60):
            update_model_from_execution(same, 1_000, 0.01, 2, 25, 1.9)
        sources = set()
        for seed in range(60):
            tried = Planner(
                same,
                Wishes(),
                foresight=Foresight(predict=True, threshold=0.1, explore=True, learn=True),
                rng=random.Random(seed),
            )
            plan = foreseeing.predicted_plan(tried, get_history(), 1_000, None)
            assert plan is not None
            sources.add(plan.source)
        assert sources == {"history", "exploration"}

    def test_what_cannot_travel_is_not_tried_in_processes(self) -> None:
        lock = threading.Lock()

        def locked(item: int) -> int:
            with lock:
                return item

        for _ in range(60):
            update_model_from_execution(locked, 1_000, 0.01, 2, 25, 1.9, executor_type="thread")
        kinds = set()
        for seed in range(150):
            foresight = Foresight(predict=True, threshold=0.1, explore=True, learn=True)
            tried = Planner(locked, Wishes(chunksize=25, n_jobs=2), foresight=foresight, rng=random.Random(seed))
            plan = foreseeing.predicted_plan(tried, get_history(), 1_000, None)
            assert plan is not None
            kinds.add(plan.executor)
        assert kinds == {"thread"}

    def test_who_does_not_learn_does_not_explore(self) -> None:
        self.teach(60)
        for seed in range(60):
            foresight = Foresight(predict=True, threshold=0.1, explore=True)
            tried = Planner(same, Wishes(), foresight=foresight, rng=random.Random(seed))
            plan = foreseeing.predicted_plan(tried, get_history(), 1_000, None)
            assert plan is not None
            assert plan.source == "history"

    @pytest.mark.parametrize("taught", [None, ChunkBounds(0.8, 0.9)])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_chunks_of_the_duration_that_the_caller_wants(self, taught: ChunkBounds | None, streaming: bool) -> None:
        for _ in range(60):
            update_model_from_execution(same, 1_000, 0.01, 2, 25, 1.9, adaptive=taught)
        for seed in range(60):
            tried = Planner(
                same,
                Wishes(target_chunk_duration=0.05, streaming=streaming),
                foresight=Foresight(predict=True, threshold=0.1, explore=True, learn=True),
                rng=random.Random(seed),
            )
            plan = foreseeing.predicted_plan(tried, get_history(), 1_000, None)
            assert plan is not None
            assert plan.adaptive is not None
            assert plan.adaptive.target_duration == 0.05
            assert plan.chunksize <= 5

    def test_is_asked_only_what_can_be(self) -> None:
        for wrong in ({"threshold": 1.1}, {"threshold": "high"}, {"item_seconds": 0}, {"item_seconds": "long"}):
            with pytest.raises(InvalidInput):
                Foresight(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("explored", [False, True])
@pytest.mark.parametrize(
    "wanted",
    [
        {"n_jobs": 3}, {"chunksize": 7}, {"executor": "thread"}, {"executor": "process", "n_jobs": 3}, {"n_jobs": 2, "chunksize": 3},
        {"executor": "thread", "chunksize": 9}, {"n_jobs": -1},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    "streamed", [{}, {"streaming": True, "buffer_size": 40, "ordered": False}], ids=["batch", "stream"]
)
def test_what_the_caller_says_stands_wherever_the_plan_comes_from(
    wanted: dict[str, Any], streamed: dict[str, Any], explored: bool
) -> None:
    for executor in ("process", "thread"):
        for n_jobs in (2, 3):
            for _ in range(8):
                update_model_from_execution(same, 1_000, 0.01, n_jobs, 9, 1.5, executor_type=executor)
    sources = set()
    for seed in range(30):
        tried = Planner(
            same,
            Wishes(**wanted, **streamed),
            foresight=Foresight(predict=True, threshold=0.0, explore=explored, learn=True),
            rng=random.Random(seed),
        )
        source = Source(range(1_000))
        plan = tried.plan(source, 1_000, extend=True)
        later = tried.replan(report(replace(plan, item_seconds=1e-6), 100, 0.1), 900)
        for each in (plan, later):
            if each is None:
                continue
            sources.add(each.source)
            assert each.executor == wanted.get("executor", each.executor)
            if "n_jobs" in wanted:
                assert each.n_jobs == (wanted["n_jobs"] if wanted["n_jobs"] > 0 else machine.here().cores)
            if "chunksize" in wanted:
                assert each.chunksize == wanted["chunksize"]
            if streamed:
                assert (each.buffer_size, each.ordered) == (40, False)
    assert sources, "a plan there was"


class TestInputs:
    def test_lists_have_a_length_and_a_first_item(self) -> None:
        given = opened([7, 8])
        assert (given.total, given.first, given.repeatable) == (2, 7, True)

    def test_a_short_iterator_is_looked_through(self) -> None:
        given = opened(iter([7, 8]), look_ahead=True)
        assert (given.total, given.first) == (2, 7)
        assert opened(iter([7, 8])).total is None, "not where it may be read no further than is needed"

    def test_what_was_looked_at_is_not_lost(self) -> None:
        given = opened(iter(range(10_000)), look_ahead=True)
        assert given.total is None
        assert list(given.data) == list(range(10_000))

    def test_an_iterator_that_breaks_breaks_in_its_place(self) -> None:
        def broken() -> Any:
            yield 1
            raise OSError("gone")

        given = opened(broken(), look_ahead=True)
        assert given.source.take(1) == [1]
        assert given.source.take(1) == []
        assert isinstance(given.source.error, OSError)

    def test_the_rest_after_a_sample(self) -> None:
        source = Source(iter(range(5)))
        assert list(rest(source.take(2), source)) == [0, 1, 2, 3, 4]


def _with(lock: Any, item: int) -> int:
    with lock:
        return item


def test_this_process_remembers_by_function_and_kind_of_item() -> None:
    cache.remember(same, MS, 1)
    assert cache.recall(same, 2) is MS
    assert cache.recall(same, "text") is None
    assert cache.recall(same, [0] * 1_000) is None
    assert cache.recall(len, 1) is None
    cache.forget()
    assert cache.recall(same, 1) is None


def test_it_does_not_remember_for_ever() -> None:
    for size in range(cache.MOST + 10):
        cache.remember(same, MS, type(f"Kind{size}", (), {})())
    assert len(cache._memory.probes) == cache.MOST
