"""A plan from experience: asks the predictor, holds its answer against what the caller fixed and what the function can do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from everloop.core.errors import NotPicklable
from everloop.parallel import machine, nesting
from everloop.parallel.constants import MIN_TRAINING_SAMPLES
from everloop.parallel.decision import Wishes, as_stream, bounds
from everloop.parallel.exploration import explore
from everloop.parallel.identity import func_hash
from everloop.parallel.plan import ChunkBounds, Plan
from everloop.parallel.predictor import (
    PredictionResult,
    StreamingPredictionResult,
    predict_parameters,
    predict_streaming_parameters,
)
from everloop.parallel.probe import DryRun, Probe

if TYPE_CHECKING:
    from collections.abc import Collection

    from everloop.parallel.history import History
    from everloop.parallel.planning import Planner
    from everloop.parallel.work import ExecutorKind

_IN_THIS_PROCESS: tuple[ExecutorKind, ...] = ("serial", "thread")


def predicted_plan(planner: Planner, history: History, total: int | None, run: DryRun | None) -> Plan | None:
    """`run`: a sample, or None before anything was run. None where the history is not sure enough.

    A function with runs of its own is predicted without a sample; another one only by its item time, from a sample or from the caller."""
    if nesting.depth() or total == 0:
        return None
    known = history.experience(func_hash(planner.func))
    own = known is not None and known.runs >= MIN_TRAINING_SAMPLES
    seconds = planner.foresight.item_seconds or (run.probe.item_seconds if run is not None else None)
    if (own and run is not None) or (not own and seconds is None):
        return None
    executors: Collection[ExecutorKind] | None = (planner.wishes.executor,) if planner.wishes.executor else None
    result = _ask(planner, history, total, run, executors)
    if result is not None and result.executor_type == "process":
        try:
            planner.check_travels()
        except NotPicklable as error:
            if planner.wishes.executor is not None:
                raise
            planner.warn(str(error))
            result = _ask(planner, history, total, run, _IN_THIS_PROCESS)
    if result is None:
        return None
    if planner.foresight.explore and planner.foresight.learn and known is not None:  # else nobody would be the wiser
        result = _explored(planner, result, known.seconds)
    planner.prediction = result
    if planner.run is None:
        planner.run = DryRun(_as_probe(result, machine.here().cores))
    return _plan(planner, result, total, run)


def _as_probe(result: PredictionResult, cores: int) -> Probe:
    """What the fastest settings say about the items: more threads than cores are good for what waits, as many for what lets the GIL go."""
    threads = result.executor_type == "thread"
    return Probe(
        items=1 if result.coefficient_of_variation is None else 2,
        item_seconds=result.serial_item_seconds or 0.0,
        coefficient_of_variation=result.coefficient_of_variation or 0.0,
        cpu_share=cores / result.n_jobs if threads and result.n_jobs > 2 * cores else 1.0,
        gil_share=1.0 / (2 * cores) if threads else 1.0,
        result_bytes=result.result_bytes,
    )


def _explored(planner: Planner, result: PredictionResult, past_seconds: float) -> PredictionResult:
    """Once in a while a neighbour of what was predicted, in what the caller left open."""
    wishes = planner.wishes
    fixed = {
        "executor": wishes.executor,
        "n_jobs": wishes.n_jobs,
        "chunksize": wishes.chunksize or wishes.paced or None,
        "buffer_size": wishes.buffer_size,
        "use_ordered": wishes.ordered,
    }
    other = explore(
        result,
        rng=planner.rng,
        cores=machine.here().cores,
        past_seconds=past_seconds,
        free={name for name, value in fixed.items() if value is None},
        executors=_IN_THIS_PROCESS if planner.warnings else (*_IN_THIS_PROCESS, "process"),
    )
    if other is None:
        return result
    if other.executor_type == "process" != result.executor_type:
        try:
            planner.check_travels()
        except NotPicklable:
            return result
    return other


def _ask(
    planner: Planner,
    history: History,
    total: int | None,
    run: DryRun | None,
    executors: Collection[ExecutorKind] | None,
) -> PredictionResult | None:
    wishes, foresight = planner.wishes, planner.foresight
    probe = run.probe if run is not None else None
    n_jobs = machine.here().cores if wishes.n_jobs == -1 else wishes.n_jobs
    seconds = foresight.item_seconds or (probe.item_seconds if probe is not None else None)
    variation = probe.coefficient_of_variation if probe is not None and probe.items > 2 else None
    cpu_share = probe.cpu_share if probe is not None else None
    remaining = total - run.count if total is not None and run is not None else total
    if remaining is not None and remaining < 1:
        return None
    assert planner.pool is not None
    workers = planner.pool.stats()
    warm, spawn_seconds = workers["idle"] >= (n_jobs or machine.here().cores), workers["spawn_seconds"] or None
    if wishes.streaming:
        return predict_streaming_parameters(
            planner.func,
            remaining,
            seconds,
            foresight.threshold,
            foresight.verbose,
            coefficient_of_variation=variation,
            prefer_ordered=wishes.ordered,
            cpu_share=cpu_share,
            executors=executors,
            n_jobs=n_jobs,
            chunksize=wishes.chunksize,
            buffer_size=wishes.buffer_size,
            warm=warm,
            spawn_seconds=spawn_seconds,
            history=history,
        )
    return predict_parameters(
        planner.func,
        remaining,
        seconds,
        foresight.threshold,
        foresight.verbose,
        coefficient_of_variation=variation,
        cpu_share=cpu_share,
        executors=executors,
        n_jobs=n_jobs,
        chunksize=wishes.chunksize,
        warm=warm,
        spawn_seconds=spawn_seconds,
        history=history,
    )


def _chunks(wishes: Wishes, result: PredictionResult) -> tuple[ChunkBounds | None, int]:
    """Parameters of adaptive chunking as predicted, unless the caller wants chunks of one size, or of a duration; and the size of the
    first ones."""
    own = bounds(wishes)
    if own is None:
        return None, result.chunksize
    if not wishes.paced:
        return result.adaptive or (own if wishes.streaming else None), result.chunksize
    item_seconds = result.worker_item_seconds or result.serial_item_seconds
    if wishes.chunksize is not None or not item_seconds:
        return own, result.chunksize
    return own, max(1, min(result.chunksize, round(wishes.target_chunk_duration / item_seconds)))


def _plan(planner: Planner, result: PredictionResult, total: int | None, run: DryRun | None) -> Plan:
    wishes = planner.wishes
    adaptive, chunksize = _chunks(wishes, result)
    kinds: dict[str, ExecutorKind] = {"serial": "serial", "thread": "thread", "process": "process", "ray": "ray"}
    plan = Plan(
        executor=kinds[result.executor_type],
        n_jobs=result.n_jobs,
        chunksize=chunksize,
        adaptive=adaptive,
        item_seconds=result.worker_item_seconds or result.serial_item_seconds,
        result_bytes=result.result_bytes,
        predicted_seconds=result.predicted_seconds,
        predicted_speedup=result.predicted_speedup,
        confidence=result.confidence,
        source="exploration" if result.explored else "history",
        reason=result.reason,
        notes=[result.reason],
    )
    if not wishes.streaming:
        return plan
    assert isinstance(result, StreamingPredictionResult)
    probe = run.probe if run is not None else Probe(items=0, item_seconds=result.serial_item_seconds or 0.0)
    around = planner.look_around()
    chosen = replace(wishes, ordered=result.use_ordered, buffer_size=result.buffer_size)
    streamed = as_stream(plan, probe, total, chosen, around)
    learned = "as in the fastest runs" if result.buffer_learned else "by rule of thumb"
    order = "in order" if result.use_ordered else "as they are ready"
    notes = [*plan.notes, f"at most {result.buffer_size:,} items at once, {learned}; results come {order}"]
    grows = wishes.buffer_size is None and not result.buffer_learned and streamed.adaptive is not None
    return replace(streamed, buffer_grows=grows, notes=notes)
