"""From a function and its input to a plan, and to another one where reality differs: the way that `optimize`, `execute` and their
streaming twins go together.

Where the settings come from, the first that answers:

1. the caller, where executor and number of workers are given, or processes asked for: nothing is measured;
2. the history, if `use_ml_prediction`: by the function's own runs without running anything, else by those of others after a sample;
3. this process's memory of an earlier dry run of the same function (`use_cache`);
4. a dry run.

With a `timeout`, or a checkpoint to resume, nothing may be run here and now: the work then starts small and finds its settings on the way
(`replan`). A plan for processes is made only for a function that can travel to one; where it cannot, the caller is warned and gets
threads, unless processes were asked for: then NotPicklable says which part is to blame.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from everloop.core.errors import InvalidInput, NotPicklable, WorkerDied
from everloop.parallel import cache, machine, nesting
from everloop.parallel.cost import Estimate, MachineCosts
from everloop.parallel.decision import Decision, Surroundings, Wishes, as_stream, bounds, decide
from everloop.parallel.executors.base import Executor
from everloop.parallel.executors.opening import open_executor
from everloop.parallel.observing import observed
from everloop.parallel.options import RunOptions
from everloop.parallel.plan import Plan
from everloop.parallel.pool import PoolManager, get_global_pool_manager
from everloop.parallel.probe import TINY, DryRun, Probe, examine, measure_travel, sample
from everloop.parallel.report import RunReport
from everloop.parallel.source import Source
from everloop.parallel.validation import function, number
from everloop.parallel.wording import duration
from everloop.parallel.work import Done

if TYPE_CHECKING:
    from everloop.parallel.history import History
    from everloop.parallel.predictor import PredictionResult

Func = Callable[[Any], Any]

WORTH_SWITCHING = 0.8
"""Of the remaining time as things go: what another plan must promise to stay below."""
WORTH_MEASURING = 3.0
"""Seconds of a run after which the costs of this machine's workers are measured, if they never were."""


@dataclass(frozen=True)
class Foresight:
    """How the history is used."""

    predict: bool = False
    threshold: float = 0.7
    item_seconds: float | None = None
    """The caller's estimate."""
    learn: bool = False
    explore: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        number("ml_confidence_threshold", self.threshold, 0, 1)
        if self.item_seconds is not None:
            number("estimated_item_time", self.item_seconds, 0, above=True)


@dataclass
class Planner:
    func: Func
    wishes: Wishes
    options: RunOptions = field(default_factory=RunOptions)
    sample_size: int = 5
    use_cache: bool = True
    foresight: Foresight = field(default_factory=Foresight)
    pool: PoolManager | None = None
    history: History | None = None
    first: Any = None
    """The first item, where it can be looked at without taking it: what a dry run is remembered by."""
    rng: random.Random = field(default_factory=random.Random)
    """Decides when to explore."""
    warnings: list[str] = field(default_factory=list)
    run: DryRun | None = None
    prediction: PredictionResult | None = None
    estimates: tuple[Estimate, ...] = ()
    _around: Surroundings | None = None
    _workers_started: float = 0
    """By the pool, before this work."""

    def __post_init__(self) -> None:
        function(self.func)
        self.sample_size = number("sample_size", self.sample_size, 1, whole=True)
        if self.pool is None:
            self.pool = get_global_pool_manager()
        elif not isinstance(self.pool, PoolManager):
            raise InvalidInput(f"pool_manager: a PoolManager is needed, this is {self.pool!r}", field="pool_manager")
        if self.history is not None and not hasattr(self.history, "folder"):
            raise InvalidInput(f"history: a History is needed, this is {self.history!r}", field="history")
        self._workers_started = self.pool.stats()["started"]

    @property
    def name(self) -> str:
        return self.options.label or getattr(self.func, "__name__", type(self.func).__name__)

    @property
    def done(self) -> list[Done]:
        """What the dry run has worked off already."""
        return self.run.done if self.run is not None else []

    @property
    def around(self) -> Surroundings | None:
        """Where the work runs, as far as anybody had to know."""
        return self._around

    def plan(self, source: Source, total: int | None, *, extend: bool) -> Plan:
        """May take items from `source` and run them: `self.run.done` has their results. `extend`: results are kept, so more than
        `sample_size` items may be run.

        Raises NotPicklable where processes are asked for and the function cannot be sent to one."""
        wishes = self.wishes
        if wishes.executor in ("process", "ray"):
            self.check_travels()
        # Who asks for processes may have reasons to keep the work out of this one: then not even a sample runs here.
        if wishes.settled or (extend and wishes.executor in ("process", "ray")):
            return self._in_a_stream(self._settled(), Probe(items=0, item_seconds=0.0), total)
        if self.options.timeout is not None or self._resumes():
            start = Plan("serial", 1, 1, adaptive=bounds(wishes), reason="started small, to find settings on the way")
            return self._in_a_stream(start, Probe(items=0, item_seconds=0.0), total)
        predicted = self._predict(total, None)
        if predicted is not None:
            return predicted
        remembered = cache.recall(self.func, self.first) if self.use_cache else None
        if remembered is not None:
            return self._decide(remembered, total, "cache")
        return self._by_dry_run(source, total, extend)

    def open(self, plan: Plan) -> Executor:
        """The executor that carries out `plan`."""
        kind, workers = plan.executor, plan.n_jobs
        if kind == "serial" and self.options.timeout is not None:
            kind, workers = "thread", 1  # nobody can interrupt the caller's own thread
        return open_executor(kind, self.func, workers, pool=self.pool)

    def replan(self, report: RunReport, remaining: int | None) -> Plan | None:
        """Another plan for what remains, where reality differs from what was expected; None to go on."""
        if self.wishes.settled or (remaining is not None and remaining < 1):
            return None
        probe = observed(self.run.probe if self.run is not None else Probe(items=0, item_seconds=0.0), report)
        if probe.item_bytes is None and self.run is not None and self.run.done:
            first = self.run.done[0]
            probe = measure_travel(probe, first.chunk.items, first.values)
        now = report.plan
        decision = self._verified(probe, remaining, elapsed=report.item_seconds)
        plan = decision.plan
        if (plan.executor, plan.n_jobs) == (now.executor, now.n_jobs):
            return None
        expected = now.item_seconds is not None and now.item_seconds / 2 < probe.item_seconds < 2 * now.item_seconds
        if expected and now.executor != "serial":
            return None  # a busy machine stretches the items, and would those of another plan
        going = next((e for e in decision.estimates if (e.executor, e.n_jobs) == (now.executor, now.n_jobs)), None)
        if going is not None and decision.estimates[0].seconds > WORTH_SWITCHING * going.running:
            return None
        why = f"an item takes {duration(probe.item_seconds)}, not {duration(now.item_seconds or 0.0)} as expected"
        if now.item_seconds is None or expected:
            why = "the work goes on for longer than was assumed"
        return replace(
            plan,
            ordered=now.ordered,
            source=now.source,
            buffer_size=self.wishes.buffer_size or plan.buffer_size,
            notes=[*now.notes, f"changed on the way, {why}: {plan.reason}"],
        )

    def finish(self, report: RunReport, total: int | None) -> None:
        """Keep what a run has taught: of the function for this process, of the machine for all, of the settings for the history."""
        spread = report.items - report.sampled
        if self.use_cache and report.items and self.run is not None and self.prediction is None:
            cache.remember(self.func, observed(self.run.probe, report), self.first)
        if report.plan.executor == "process" and spread > 0 and not nesting.depth():
            self._learn_costs(report)
        if self.foresight.learn and report.items:
            from everloop.parallel.recording import record_run

            record_run(
                self.func,
                report,
                total=total,
                streaming=self.wishes.streaming,
                prediction=self.prediction,
                probe=self.run.probe if self.done and self.run is not None else None,
                warm=self.pool is not None and self.pool.stats()["started"] == self._workers_started,
                history=self.history,
            )

    def _settled(self) -> Plan:
        wishes = self.wishes
        kind = wishes.executor or "serial"
        n_jobs = 1 if kind == "serial" else wishes.n_jobs
        if n_jobs is None or n_jobs == -1:
            n_jobs = (kind == "ray" and _ray_cores()) or machine.here().cores
        return Plan(
            executor=kind,
            n_jobs=n_jobs,
            chunksize=wishes.chunksize or 1,
            adaptive=bounds(wishes),
            source="caller",
            reason="as you said",
            notes=["the kind of worker is as you said: nothing was measured"],
        )

    def _in_a_stream(self, plan: Plan, probe: Probe, total: int | None) -> Plan:
        return as_stream(plan, probe, total, self.wishes, self.look_around()) if self.wishes.streaming else plan

    def _resumes(self) -> bool:
        path = self.options.checkpoint
        return path is not None and os.path.exists(path)  # noqa: PTH110 - str or Path

    def _by_dry_run(self, source: Source, total: int | None, extend: bool) -> Plan:
        limit = self._limit(extend)
        self.run = sample(self.func, source, size=self.sample_size, limit=limit, total=total, cores=_cores)
        if self.run.probe.only_failures:
            return self._in_the_dark(self.run.probe, total)
        if self.run.probe.items:
            predicted = self._predict(total, self.run)
            if predicted is not None:
                return predicted
        examine(self.func, source, self.run, limit=limit, total=total, cores=_cores)
        probe = self.run.probe
        if self.use_cache and probe.items and not probe.failure:
            cache.remember(self.func, probe, self.first)
        if source.ended and total is None:
            total = self.run.count
        return self._decide(probe, None if total is None else total - self.run.count, "dry run")

    def _in_the_dark(self, probe: Probe, total: int | None) -> Plan:
        """All that was run has failed, and how long that took says nothing. What the caller did not decide is found on the way."""
        start = replace(
            self._settled(),
            source="dry run",
            reason="the sample failed: what an item takes is not known",
            notes=[],
        )
        return self._in_a_stream(start, probe, total)

    def _limit(self, extend: bool) -> float:
        """How many items the dry run may take."""
        if not extend:
            return self.sample_size
        return math.inf if self.wishes.buffer_size is None else self.wishes.buffer_size

    def _decide(self, probe: Probe, remaining: int | None, source: Any) -> Plan:
        if self.run is None:
            self.run = DryRun(probe)
        elapsed = probe.items * probe.item_seconds
        tiny = remaining is not None and remaining * probe.item_seconds < TINY
        if tiny and self.wishes.executor is None and self.wishes.n_jobs is None and not self.wishes.streaming:
            gained = (
                f"only {duration(remaining * probe.item_seconds)} of work is left" if remaining else "all of it is done"
            )
            return Plan(
                executor="serial",
                n_jobs=1,
                chunksize=self.wishes.chunksize or max(1, remaining or 1),
                adaptive=bounds(self.wishes),
                item_seconds=probe.item_seconds,
                source=source,
                reason=f"{gained} after the first items: nothing can be gained",
            )
        decision = self._verified(probe, remaining, source=source, elapsed=elapsed)
        self.estimates = decision.estimates
        plan, read = decision.plan, self.run.count
        if plan.buffer_size is not None and plan.buffer_size < read and self.wishes.buffer_size is None:
            # What the dry run has read is read: the buffer that is told is the one that holds.
            plan = replace(plan, buffer_size=read)
        return plan

    def _verified(self, probe: Probe, remaining: int | None, *, source: Any = "dry run", elapsed: float) -> Decision:
        """A decision for processes only where the function can be sent to one."""
        around = self.look_around()
        decision = decide(probe, remaining, self.wishes, around, source=source, elapsed=elapsed)
        if decision.plan.executor in ("process", "ray"):
            try:
                self.check_travels()
            except NotPicklable as error:
                if self.wishes.executor is not None:
                    raise
                probe = replace(probe, obstacle=str(error))
                decision = decide(probe, remaining, self.wishes, around, source=source, elapsed=elapsed)
        if probe.obstacle:
            self.warn(probe.obstacle)
        if self.run is not None:
            self.run.probe = probe
        return decision

    def warn(self, text: str) -> None:
        """Goes into the result's warnings, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def check_travels(self) -> None:
        from everloop.parallel.payload import dump_function

        dump_function(self.func)

    def look_around(self) -> Surroundings:
        if self._around is None:
            here = machine.here()
            assert self.pool is not None
            self._around = Surroundings(
                cores=here.cores,
                available_memory=machine.available_memory(),
                costs=self._costs(),
                idle_workers=int(self.pool.stats()["idle"]),
                nested=nesting.depth() > 0,
                ray_cores=_ray_cores(),
            )
        return self._around

    def _costs(self) -> MachineCosts:
        return cache.machine_costs(self._history())

    def _learn_costs(self, report: RunReport) -> None:
        from everloop.parallel import costs

        assert self.pool is not None
        known = self._costs()
        now = costs.learned(known, self.pool.stats()["spawn_seconds"])
        if not now.measured and report.wall_seconds > WORTH_MEASURING and not report.deaths:
            try:
                now = costs.measure(lambda kind, func, workers: open_executor(kind, func, workers, pool=self.pool), now)
            except (WorkerDied, OSError) as error:
                self.warn(str(error))  # the results are there: this is for next time
        if now.measured != known.measured or not 0.9 < now.spawn_seconds / known.spawn_seconds < 1.1:
            cache.keep_machine_costs(self._history(), now)

    def _history(self) -> History:
        if self.history is None:
            from everloop.parallel.history import get_history

            self.history = get_history()
        return self.history

    def _predict(self, total: int | None, run: DryRun | None) -> Plan | None:
        """By the history: before anything is run where the function is known to it (`run` is None), else after a sample."""
        if not self.foresight.predict:
            return None
        from everloop.parallel.foreseeing import predicted_plan

        return predicted_plan(self, self._history(), total, run)


def _cores() -> int:
    return 1 if nesting.depth() else machine.here().cores


def _ray_cores() -> int:
    """Of the cluster that this process is connected to; 0 without one. Ray is not imported for it."""
    import sys

    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0
    return int(ray.cluster_resources().get("CPU", 0))
