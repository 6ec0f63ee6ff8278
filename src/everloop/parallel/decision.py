"""The choice: from what is known of the work, the machine and the caller's wishes to a plan.

Every combination that is worth it is put through the cost model; the quickest wins, with two reservations. Serial work holds no surprises,
so it stays unless another way gains a tenth and some milliseconds. And of settings that are as good as equal, the one with fewer workers
is taken: it leaves more for others.

What the caller says is never overruled: a number of workers, a kind, a chunk size, a buffer, an order are taken as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from everloop.core.errors import InvalidInput
from everloop.parallel.buffer import GROWN
from everloop.parallel.constants import (
    ADAPTATION_RATE,
    DEFAULT_BUFFER_SIZE_MULTIPLIER,
    HETEROGENEOUS_CV_THRESHOLD,
    LARGE_DATASET_THRESHOLD,
    STREAMING_BUFFER_MEMORY_FRACTION,
    TARGET_CHUNK_DURATION,
)
from everloop.parallel.cost import CostModel, Estimate, MachineCosts
from everloop.parallel.plan import ChunkBounds, Plan, Source
from everloop.parallel.probe import Probe
from everloop.parallel.validation import flag
from everloop.parallel.wording import duration, size_of, workers_of
from everloop.parallel.work import KINDS, ExecutorKind

ASSUMED = 1.0
"""Seconds of work that an input of unknown length is taken to have left, at least; else as much as it has had."""
GAIN = 0.9
"""Of the serial time: what another way must stay below."""
LEAST_GAIN = 0.001
"""Seconds."""
EQUAL = 1.03
"""Estimates within this factor are no reason for more workers."""
MEMORY_SHARE = 0.8
"""Of the available memory, that all workers together may take."""


@dataclass(frozen=True)
class Wishes:
    """What the caller decided; None leaves it to us. Checked when made: InvalidInput names the field."""

    executor: ExecutorKind | None = None
    n_jobs: int | None = None
    """-1: as many as there are cores."""
    chunksize: int | None = None
    target_chunk_duration: float = TARGET_CHUNK_DURATION
    prefer_threads_for_io: bool = True
    streaming: bool = False
    ordered: bool | None = None
    buffer_size: int | None = None
    adaptive: bool = True
    """Sizes of chunks follow what is observed."""
    adaptation_rate: float = ADAPTATION_RATE

    def __post_init__(self) -> None:
        if self.executor is not None and self.executor not in KINDS:
            raise InvalidInput(f"executor: {self.executor!r} is not one of {', '.join(KINDS)}", field="executor")
        for name in ("n_jobs", "chunksize", "buffer_size"):
            value = getattr(self, name)
            if value is None or (name == "n_jobs" and value == -1):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                also = " or -1 for all cores" if name == "n_jobs" else ""
                raise InvalidInput(f"{name}: a whole number from 1{also} is needed, this is {value!r}", field=name)
        if self.ordered is not None:
            flag("prefer_ordered", self.ordered)
        _share("adaptation_rate", self.adaptation_rate, 1.0)
        _share("target_chunk_duration", self.target_chunk_duration, math.inf)

    @property
    def paced(self) -> bool:
        """How adaptive chunking goes is the caller's choice, not the default."""
        return (self.target_chunk_duration, self.adaptation_rate) != (TARGET_CHUNK_DURATION, ADAPTATION_RATE)

    @property
    def settled(self) -> bool:
        """Nothing that a dry run could tell is left open; chunks find their size as they go."""
        return self.executor == "serial" or self.n_jobs == 1 or (self.executor is not None and self.n_jobs is not None)


@dataclass(frozen=True)
class Surroundings:
    """Where the work would run."""

    cores: int
    available_memory: int
    """Bytes."""
    costs: MachineCosts = field(default_factory=MachineCosts)
    idle_workers: int = 0
    nested: bool = False
    """In a worker of a run already: the cores are taken."""
    ray_cores: int = 0
    """Of a cluster that this process is connected to."""


@dataclass(frozen=True)
class Decision:
    plan: Plan
    estimates: tuple[Estimate, ...] = ()
    """What was compared, the quickest first."""


def _share(name: str, value: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most or math.isinf(value):
        span = "a number above 0" + (f" and at most {most:g}" if math.isfinite(most) else "")
        raise InvalidInput(f"{name}: {span} is needed, this is {value!r}", field=name)


def decide(
    work: Probe,
    remaining: int | None,
    wishes: Wishes,
    around: Surroundings,
    *,
    source: Source = "dry run",
    elapsed: float = 0.0,
) -> Decision:
    """`remaining`: items still to be run, None where nobody knows. `elapsed`: seconds of work that this input has had already."""
    items = remaining
    notes = []
    if items is None:
        items = math.ceil(max(ASSUMED, elapsed) / max(work.item_seconds, 1e-7))
        notes.append(
            f"how many items there are is not known: as many as take {max(ASSUMED, elapsed):.1f} s are assumed"
        )
    model = CostModel(
        work=work,
        items=items,
        costs=around.costs,
        cores=around.cores,
        idle_workers=around.idle_workers,
        target=wishes.target_chunk_duration,
        chunksize=wishes.chunksize,
    )
    estimates = sorted(_candidates(model, wishes, around, notes), key=lambda each: each.seconds)
    best = _best(estimates)
    notes.append(_verdict(best, estimates))
    plan = Plan(
        executor=best.executor,
        n_jobs=best.n_jobs,
        chunksize=best.chunksize,
        adaptive=bounds(wishes),
        item_seconds=work.item_seconds,
        result_bytes=work.result_bytes,
        predicted_seconds=best.seconds,
        predicted_speedup=model.estimate("serial", 1).seconds / max(best.seconds, 1e-9) if items else 1.0,
        source=source,
        reason=notes[-1],
        notes=notes,
    )
    return Decision(as_stream(plan, work, remaining, wishes, around), tuple(estimates))


def bounds(wishes: Wishes) -> ChunkBounds | None:
    """None: chunks of one size."""
    if wishes.chunksize is not None and not wishes.streaming:
        return None
    if not wishes.adaptive:
        return None
    return ChunkBounds(target_duration=wishes.target_chunk_duration, adaptation_rate=wishes.adaptation_rate)


def as_stream(plan: Plan, work: Probe, total: int | None, wishes: Wishes, around: Surroundings) -> Plan:
    """`plan` with a buffer and an order, where a stream needs them."""
    if not wishes.streaming:
        return plan
    notes = list(plan.notes)
    ordered, why = _order(work, total, wishes)
    notes.append(f"results come {'in order' if ordered else 'as they are ready'}: {why}")
    room = int(STREAMING_BUFFER_MEMORY_FRACTION * around.available_memory)
    size = wishes.buffer_size
    chunk = plan.chunksize if wishes.chunksize is not None else min(plan.chunksize, GROWN)
    if size is None:
        size = DEFAULT_BUFFER_SIZE_MULTIPLIER * plan.n_jobs * chunk
        why = f"{DEFAULT_BUFFER_SIZE_MULTIPLIER} chunks for each worker"
        affordable = room // work.result_bytes if work.result_bytes else size
        grows = affordable >= size and plan.adaptive is not None
        if affordable < size:
            size = max(1, affordable)
            why = f"results of {size_of(work.result_bytes or 0)} may take {STREAMING_BUFFER_MEMORY_FRACTION:.0%} of memory"
    else:
        why, grows = "as you said", False
    chunk = max(1, min(chunk, size // plan.n_jobs))
    more = ", more if chunks turn out larger" if grows else ""
    notes.append(f"at most {size:,} items are read and not yet handed out: {why}{more}")
    return replace(
        plan,
        ordered=ordered,
        buffer_size=size,
        buffer_bytes=room,
        buffer_grows=grows,
        chunksize=chunk,
        notes=notes,
    )


def _order(work: Probe, total: int | None, wishes: Wishes) -> tuple[bool, str]:
    if wishes.ordered is not None:
        return wishes.ordered, "as you said"
    if work.coefficient_of_variation > HETEROGENEOUS_CV_THRESHOLD:
        return False, f"durations vary by {work.coefficient_of_variation:.0%}, a slow item would hold up the others"
    if total is not None and total > LARGE_DATASET_THRESHOLD:
        return False, f"{total:,} items are many, throughput counts"
    return True, "durations are alike"


def _candidates(model: CostModel, wishes: Wishes, around: Surroundings, notes: list[str]) -> list[Estimate]:
    work = model.work
    if wishes.executor == "serial" or (wishes.n_jobs == 1 and wishes.executor is None) or model.items < 1:
        return [model.estimate("serial", 1)]
    kinds = [wishes.executor] if wishes.executor is not None else _kinds(model, wishes, around, notes)
    most = math.inf
    if work.memory_bytes > 1 << 20:
        most = max(1, int(MEMORY_SHARE * around.available_memory / work.memory_bytes))
    found = []
    for kind in kinds:
        if kind == "serial":
            if wishes.n_jobs is None:
                found.append(model.estimate("serial", 1))
            continue
        here = replace(model, cores=around.ray_cores or around.cores) if kind == "ray" else model
        if wishes.n_jobs is not None:
            counts = [around.cores if wishes.n_jobs == -1 else wishes.n_jobs]
        else:
            counts = here.worker_counts(kind, most) or [1]
            if most < around.cores:
                notes.append(f"at most {most} at once: an item takes {size_of(work.memory_bytes)} of memory")
        found += [here.estimate(kind, n) for n in counts if n > 1 or len(kinds) == 1 or wishes.n_jobs is not None]
    return found or [model.estimate("serial", 1)]


def _kinds(model: CostModel, wishes: Wishes, around: Surroundings, notes: list[str]) -> list[ExecutorKind]:
    work = model.work
    kinds: list[ExecutorKind] = ["serial"]
    if around.nested and not model.waits:
        notes.append("this runs in a worker already, the cores are taken: one item after the other")
        return kinds
    kinds.append("thread")
    if around.nested:
        return kinds
    if work.obstacle:
        notes.append(f"no processes: {work.obstacle}")
    elif model.waits and wishes.prefer_threads_for_io:
        notes.append(f"items wait {1 - work.cpu_share:.0%} of their time: threads are enough for that")
    else:
        kinds.append("process")
        if around.ray_cores > around.cores:
            kinds.append("ray")
    return kinds


def _best(estimates: list[Estimate]) -> Estimate:
    quickest = estimates[0]
    serial = next((each for each in estimates if each.executor == "serial"), None)
    if serial is not None and not quickest.seconds < min(serial.seconds * GAIN, serial.seconds - LEAST_GAIN):
        return serial
    return min(
        (each for each in estimates if each.executor == quickest.executor and each.seconds <= quickest.seconds * EQUAL),
        key=lambda each: each.n_jobs,
    )


def _verdict(best: Estimate, estimates: list[Estimate]) -> str:
    others = [each for each in estimates if each.executor != best.executor]
    if best.executor == "serial":
        if not others:
            return "one item after the other"
        gain = f"{others[0].n_jobs} {workers_of(others[0].executor)} would take {duration(others[0].seconds)}"
        return f"one item after the other takes {duration(best.seconds)}, {gain}: not worth it"
    told = f"{best.n_jobs} {workers_of(best.executor)} take {duration(best.seconds)}, bound by {best.bound}"
    if others:
        told += f"; the next best, {_named(others[0])}, {duration(others[0].seconds)}"
    return told


def _named(estimate: Estimate) -> str:
    return "serial" if estimate.executor == "serial" else f"{estimate.n_jobs} {workers_of(estimate.executor)}"
