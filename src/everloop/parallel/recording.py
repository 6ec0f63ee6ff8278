"""What a run teaches: its measured speed, kept in the history, after it was held against what had been predicted for it.

**Speedup is serial time over wall time, and the serial time has to be honest.** Items measured inside workers are slowed by the other
workers (the GIL among threads, shared cores and caches among processes), so their sum flatters. The first run of a function takes what it
can get, in order of trust: a serial run itself, items that the dry run did alone, the items' CPU time and waiting. From then on that
time stands as the function's reference, whatever mood the machine is in: two runs of the same work are compared by their wall clocks
alone, serial ones as well. Only where the items really are others is the reference scaled. Work that computes says so by its CPU time
per item, which hardly depends on who else wants the cores; a factor of 1.5 (or three standard errors, where items vary) is no other work.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everloop.core.errors import InvalidInput
from everloop.parallel.calibration import Outcome
from everloop.parallel.cells import Experience, setting_of
from everloop.parallel.evidence import TOLERANCE
from everloop.parallel.features import WorkloadFeatures
from everloop.parallel.fingerprint import get_fingerprint
from everloop.parallel.history import History, get_history
from everloop.parallel.identity import func_hash
from everloop.parallel.plan import ChunkBounds
from everloop.parallel.predictor import PredictionResult, Query, predict
from everloop.parallel.report import RunReport
from everloop.parallel.samples import TrainingData, check
from everloop.parallel.validation import flag, function, number

if TYPE_CHECKING:
    from everloop.parallel.probe import Probe

_SAME_WORK = math.log(1.5)
_COMPUTES = math.log(3)
"""Work whose CPU time is at least a third of its time is known by that."""
_A_CORE_BUSY = 0.7
_FAILED_TOO_OFTEN = 0.1
_WORTH_MEASURING = 0.5
"""Seconds of a run after which measuring this machine's memory, once and for all, is not felt."""
_PAUSED_TOO_LONG = 0.1


def record_run(
    func: Callable[..., Any],
    report: RunReport,
    *,
    total: int | None = None,
    streaming: bool = False,
    probe: Probe | None = None,
    prediction: PredictionResult | None = None,
    warm: bool | None = None,
    history: History | None = None,
) -> TrainingData | None:
    """Learn from a run that has ended. `total`: items of the whole input, where known; `probe`: its dry run, if there was one;
    `prediction`: what it was planned by, if it was; `warm`: no worker process had to be started for it.

    None, and nothing learned, where the run says little about its settings: nothing ran, a tenth of the items failed, workers died,
    a tenth of its time was spent waiting for memory, or its clocks say what cannot be.
    """
    history = history or get_history()
    if not _telling(report, total):
        return None
    name, plan = func_hash(func), report.plan
    own = history.experience(name)
    spread = report.items - report.sampled
    if spread > 0:
        executor, n_jobs, wall = plan.executor, plan.n_jobs, report.wall_seconds / spread
    else:  # the dry run was all of it: a serial run
        executor, n_jobs, wall = "serial", 1, report.sampled_seconds / report.sampled
    if probe is not None and report.sampled:  # else it is a probe of an earlier run
        cpu_share: float | None = probe.cpu_share
    else:
        cpu_share = min(1.0, report.cpu_seconds / report.item_seconds) if report.item_seconds > 0 else None
    if wall <= 0:
        return None
    variation = report.coefficient_of_variation if report.items > 1 else None
    with history.lock:
        serial = _serial_item_seconds(report, probe, executor, wall, own)
    pickle_size = probe.result_bytes if probe is not None else None
    if report.bytes_out and spread > 0:
        pickle_size = max(1, report.bytes_out // spread)
    adaptive = plan.adaptive if executor != "serial" else None
    sample = TrainingData(
        features=WorkloadFeatures.of(
            func,
            spread or report.items,
            serial,
            pickle_size=pickle_size,
            coefficient_of_variation=variation,
            memory_bandwidth_gbps=history.memory_bandwidth(measure=report.wall_seconds > _WORTH_MEASURING),
        ),
        n_jobs=n_jobs,
        chunksize=max(1, (report.largest_chunk or plan.chunksize) if adaptive else plan.chunksize),
        speedup=serial / wall,
        timestamp=history.clock.now(),
        buffer_size=_buffer(report) if streaming else None,
        use_ordered=plan.ordered if streaming else None,
        is_streaming=streaming,
        executor_type=executor,
        func_hash=name,
        item_seconds=wall,
        cpu_share=cpu_share,
        cpu_item_seconds=report.cpu_seconds / report.items or None,
        worker_item_seconds=(report.item_seconds - report.sampled_seconds) / spread if spread > 0 else None,
        warm=warm if executor == "process" else None,
        fingerprint=get_fingerprint(),
        adaptive=adaptive,
    )
    if prediction is not None and (
        prediction.explored or prediction.executor_type != executor or prediction.n_jobs != n_jobs
    ):
        prediction = None  # the run was another: it is held against what its own settings promised
    try:
        check(sample)
    except InvalidInput:
        return None  # a clock that stood still, or the like: no reason to lose results over
    learn(sample, history, prediction)
    return sample


def _buffer(report: RunReport) -> int | None:
    """As large as it was, where it grew."""
    plan = report.plan
    if plan.buffer_size is None or not plan.buffer_grows:
        return plan.buffer_size
    return max(plan.buffer_size, report.most_in_flight)


def learn(sample: TrainingData, history: History, prediction: PredictionResult | None = None) -> bool:
    """First hold the run against its prediction, or against what would have been predicted for its settings; then record it. False
    where it could not be written to disk."""
    expected = prediction or _expected(sample, history)
    if expected is not None and expected.item_seconds:
        error = math.log(sample.wall_per_item / expected.item_seconds)
        raw = expected.confidence if expected.raw_confidence is None else expected.raw_confidence
        hit = abs(error) <= math.log(1 + TOLERANCE)
        history.outcomes.add(Outcome(raw, expected.confidence, hit, error, expected.basis))
    return history.record(sample) is not None


def update_model_from_execution(  # noqa: PLR0917 - the order is an agreed interface
    func: Callable[..., Any],
    data_size: int,
    estimated_item_time: float,
    actual_n_jobs: int,
    actual_chunksize: int,
    actual_speedup: float,
    pickle_size: int | None = None,
    coefficient_of_variation: float | None = None,
    verbose: bool = False,
    *,
    executor_type: str = "process",
    adaptive: ChunkBounds | None = None,
    history: History | None = None,
) -> bool:
    """Teach the history a run that was done elsewhere (`execute` teaches its own). `actual_speedup` is taken as measured.

    False where there is nothing to learn from, or where it could not be written: no items, or an `estimated_item_time` of 0, which is
    what results say that know none. Raises InvalidInput for numbers that cannot be."""
    return _teach(
        func, data_size, estimated_item_time, actual_n_jobs, actual_chunksize, actual_speedup, pickle_size,
        coefficient_of_variation, executor_type, adaptive, verbose=verbose, history=history,
    )  # fmt: skip


def update_model_from_streaming_execution(  # noqa: PLR0917 - the order is an agreed interface
    func: Callable[..., Any],
    data_size: int,
    estimated_item_time: float,
    actual_n_jobs: int,
    actual_chunksize: int,
    actual_speedup: float,
    buffer_size: int,
    use_ordered: bool,
    pickle_size: int | None = None,
    coefficient_of_variation: float | None = None,
    verbose: bool = False,
    *,
    executor_type: str = "process",
    adaptive: ChunkBounds | None = None,
    history: History | None = None,
) -> bool:
    """As `update_model_from_execution`, for a stream."""
    streaming: dict[str, Any] = {
        "buffer_size": number("buffer_size", buffer_size, 1, whole=True),
        "use_ordered": flag("use_ordered", use_ordered),
        "is_streaming": True,
    }
    return _teach(
        func, data_size, estimated_item_time, actual_n_jobs, actual_chunksize, actual_speedup, pickle_size,
        coefficient_of_variation, executor_type, adaptive, verbose=verbose, history=history, **streaming,
    )  # fmt: skip


def _teach(  # noqa: PLR0917 - as it comes
    func: Callable[..., Any],
    data_size: int,
    item_time: float,
    n_jobs: int,
    chunksize: int,
    speedup: float,
    pickle_size: int | None,
    variation: float | None,
    executor_type: str,
    adaptive: ChunkBounds | None,
    *,
    verbose: bool,
    history: History | None,
    **streaming: Any,
) -> bool:
    function(func)
    data_size = number("data_size", data_size, 0, whole=True)
    item_time = number("estimated_item_time", item_time, 0)
    n_jobs = number("actual_n_jobs", n_jobs, 1, whole=True)
    chunksize = number("actual_chunksize", chunksize, 1, whole=True)
    speedup = number("actual_speedup", speedup, 0, above=True)
    if pickle_size is not None:
        pickle_size = number("pickle_size", pickle_size, 0)
    if variation is not None:
        variation = number("coefficient_of_variation", variation, 0)
    if not data_size or not item_time:
        _say(verbose, f"Not learned: {'there were no items' if not data_size else 'nobody knows what an item takes'}")
        return False
    history = history or get_history()
    sample = TrainingData(
        WorkloadFeatures.of(
            func,
            data_size,
            item_time,
            pickle_size=pickle_size,
            coefficient_of_variation=variation,
            memory_bandwidth_gbps=history.memory_bandwidth(),
        ),
        n_jobs,
        chunksize,
        speedup,
        history.clock.now(),
        executor_type=executor_type,
        func_hash=func_hash(func),
        fingerprint=get_fingerprint(),
        adaptive=adaptive,
        **streaming,
    )
    check(sample)
    written = learn(sample, history)
    kind = "worker" if executor_type == "serial" else f"{executor_type} worker"
    said = f"{n_jobs} {kind}{'s' * (n_jobs != 1)}, chunks of {chunksize:,}"
    if sample.is_streaming:
        said += f", a buffer of {sample.buffer_size:,}, results {'in order' if sample.use_ordered else 'as they come'}"
    name, known = getattr(func, "__name__", type(func).__name__), history.experience(func_hash(func))
    runs = known.runs if known is not None else 0
    kept = "" if written else "; not written to disk, only this process knows it"
    _say(verbose, f"Learned: {name} with {said}: {speedup:.2f}x, its run no. {runs}{kept}")
    return written


def _say(verbose: bool, text: str) -> None:
    if verbose:
        print(text, file=sys.stderr)  # noqa: T201 - that is what verbose asks for


def _telling(report: RunReport, total: int | None) -> bool:
    if report.items <= 0 or report.wall_seconds < 0 or (report.items == report.sampled and report.sampled_seconds <= 0):
        return False
    if report.deaths or report.failed > _FAILED_TOO_OFTEN * report.items:
        return False
    if total is not None and report.items + report.resumed < total * (1 - _FAILED_TOO_OFTEN):
        return False  # ended early
    return report.paused_seconds <= _PAUSED_TOO_LONG * report.wall_seconds


def _serial_item_seconds(
    report: RunReport, probe: Probe | None, executor: str, wall: float, own: Experience | None
) -> float:
    """What one of this run's items takes alone, in seconds."""
    measured, seen = _measured_serially(report, probe, executor, wall)
    if own is None:
        return measured or _estimated_serially(report, executor)
    cpu = report.cpu_seconds / report.items
    if own.cpu.weight and cpu > 0 and own.cpu.mean > own.item.mean - _COMPUTES:
        ratio, seen = math.log(cpu) - own.cpu.mean, report.items
    elif measured is not None:
        ratio = math.log(measured) - own.item.mean
    else:
        return math.exp(own.item.mean)
    tolerance = max(_SAME_WORK, 3 * report.coefficient_of_variation / math.sqrt(max(1, seen)))
    return math.exp(own.item.mean + (ratio if abs(ratio) > tolerance else 0.0))


def _measured_serially(report: RunReport, probe: Probe | None, executor: str, wall: float) -> tuple[float | None, int]:
    """Seconds of an item that nobody disturbed, and how many items say so; None where every item had company."""
    if executor == "serial":
        return wall, report.items
    if not report.sampled:
        return None, 0  # a probe is then one of an earlier run
    if probe is not None and probe.item_seconds > 0:
        return probe.item_seconds, probe.items  # without the first item's imports, and without the trial of the GIL
    return report.sampled_seconds / report.sampled, report.sampled


def _estimated_serially(report: RunReport, executor: str) -> float:
    """Seconds of an item, from what disturbed ones took."""
    if executor == "thread" and report.cpu_seconds > _A_CORE_BUSY * report.wall_seconds:
        # Threads that compute hold each other up: most of what they waited is not the item's.
        return report.cpu_seconds / report.items
    return report.mean_item_seconds


def _expected(sample: TrainingData, history: History) -> PredictionResult | None:
    """What the history expects of a run with these very settings."""
    assert sample.func_hash is not None
    features = sample.features
    query = Query(
        func_hash=sample.func_hash,
        data_size=features.data_size,
        item_time=features.estimated_item_time,
        streaming=sample.is_streaming,
        pickle_size=features.pickle_size,
        coefficient_of_variation=features.coefficient_of_variation,
        cpu_share=sample.cpu_share,
        prefer_ordered=sample.use_ordered,
        warm=sample.warm,
        exactly=setting_of(sample),
    )
    return predict(query, history)
