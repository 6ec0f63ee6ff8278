"""Settings from experience: what was fast for this function before, else for workloads like it; None where that is not sure enough.

First the function's own runs (`MIN_TRAINING_SAMPLES` of them), then those of all functions by their features; `evidence.py` weighs,
`calibration.py` says how sure that is. What the caller has fixed filters the evidence and always wins; memory bounds the buffer. A workload
that is 1,000 times larger than any seen, in items, in item time or in total work, is not predicted at all.

A warm prediction reads one modification time and some dozen sums: far less than the dry run that it replaces.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from everloop.core.errors import InvalidInput
from everloop.parallel.calibration import Basis
from everloop.parallel.cells import Experience
from everloop.parallel.constants import (
    DEFAULT_BUFFER_SIZE_MULTIPLIER,
    HETEROGENEOUS_CV_THRESHOLD,
    LARGE_DATASET_THRESHOLD,
    MIN_TRAINING_SAMPLES,
    STREAMING_BUFFER_MEMORY_FRACTION,
)
from everloop.parallel.evidence import (
    ACROSS,
    OWN,
    Evidence,
    Kernel,
    Workload,
    buffer_of,
    merged,
    raw_confidence,
    weigh,
)
from everloop.parallel.fingerprint import get_fingerprint
from everloop.parallel.history import History, get_history
from everloop.parallel.identity import func_hash
from everloop.parallel.predictions import PredictionResult, Query, StreamingPredictionResult
from everloop.parallel.validation import flag, function, number
from everloop.parallel.work import KINDS

__all__ = [
    "PredictionResult",
    "Query",
    "StreamingPredictionResult",
    "predict",
    "predict_parameters",
    "predict_streaming_parameters",
]

DEFAULT_ITEM_TIME = float("0.01")
"""Stands for "not known" where a function has runs of its own: they know better. Told by identity from a caller's 0.01, who may mean it."""
_BEYOND = math.log(1_000) - 1e-9
_AS_GOOD = math.log(1.03)
_NEARLY = math.log(1.15)
_COUNTS = (
    ("pickle_size", 0, False),
    ("coefficient_of_variation", 0, False),
    ("cpu_share", 0, False),
    ("n_jobs", 1, True),
    ("chunksize", 1, True),
    ("buffer_size", 1, True),
)
"""What a query may fix, its least value, and whether it is a whole number."""
_SAME_WORK = math.log(3)
"""An estimate that is closer to the remembered item time than this is no other work."""


def predict(query: Query, history: History) -> StreamingPredictionResult | PredictionResult | None:
    """The fastest known setting, however sure: callers compare its confidence with `history.outcomes.threshold(asked)`."""
    with history.lock:
        own = history.experience(query.func_hash)
        if own is not None and own.runs >= MIN_TRAINING_SAMPLES:
            return _of(query, [own], own, history)
        everything = history.all_experience()
        if sum(each.runs for each in everything.values()) < MIN_TRAINING_SAMPLES:
            return None
        return _of(query, list(everything.values()), None, history)


def predict_parameters(  # noqa: PLR0917 - the order is an agreed interface
    func: Callable[..., Any],
    data_size: int | None,
    estimated_item_time: float | None = DEFAULT_ITEM_TIME,
    confidence_threshold: float = 0.7,
    verbose: bool = False,
    pickle_size: int | None = None,
    coefficient_of_variation: float | None = None,
    *,
    cpu_share: float | None = None,
    executors: Collection[str] | None = None,
    n_jobs: int | None = None,
    chunksize: int | None = None,
    warm: bool | None = None,
    spawn_seconds: float | None = None,
    history: History | None = None,
) -> PredictionResult | None:
    """Settings for `data_size` items, or None where the history is not sure enough (the threshold moves with what has come true, see
    `get_calibration_stats`). Raises InvalidInput for numbers that cannot be."""
    query = Query(
        func_hash=func_hash(function(func)),
        data_size=data_size,
        item_time=estimated_item_time,
        pickle_size=pickle_size,
        coefficient_of_variation=coefficient_of_variation,
        cpu_share=cpu_share,
        executors=executors,
        n_jobs=n_jobs,
        chunksize=chunksize,
        warm=warm,
        spawn_seconds=spawn_seconds,
    )
    return _sure(query, confidence_threshold, verbose, history or get_history())


def predict_streaming_parameters(  # noqa: PLR0917 - the order is an agreed interface
    func: Callable[..., Any],
    data_size: int | None,
    estimated_item_time: float | None = DEFAULT_ITEM_TIME,
    confidence_threshold: float = 0.7,
    verbose: bool = False,
    pickle_size: int | None = None,
    coefficient_of_variation: float | None = None,
    prefer_ordered: bool | None = None,
    *,
    cpu_share: float | None = None,
    executors: Collection[str] | None = None,
    n_jobs: int | None = None,
    chunksize: int | None = None,
    buffer_size: int | None = None,
    warm: bool | None = None,
    spawn_seconds: float | None = None,
    history: History | None = None,
) -> StreamingPredictionResult | None:
    """As `predict_parameters`, with the buffer and the ordering. `data_size=None` for a stream without a known end."""
    query = Query(
        func_hash=func_hash(function(func)),
        data_size=data_size,
        item_time=estimated_item_time,
        streaming=True,
        pickle_size=pickle_size,
        coefficient_of_variation=coefficient_of_variation,
        cpu_share=cpu_share,
        executors=executors,
        n_jobs=n_jobs,
        chunksize=chunksize,
        buffer_size=buffer_size,
        prefer_ordered=prefer_ordered,
        warm=warm,
        spawn_seconds=spawn_seconds,
    )
    result = _sure(query, confidence_threshold, verbose, history or get_history())
    assert result is None or isinstance(result, StreamingPredictionResult)
    return result


def _sure(query: Query, asked: float, verbose: bool, history: History) -> PredictionResult | None:
    query = _checked(query, asked)
    threshold = history.outcomes.threshold(asked)
    result = predict(replace(query, threshold=threshold), history) if query.data_size != 0 else None
    sure = result is not None and result.confidence >= threshold
    if verbose:
        said = _why_not(query, history) if result is None else f"{_told(result, threshold)}: {result.reason}"
        print(f"ML prediction: {said}{'' if sure else '; a dry run decides'}", file=sys.stderr)  # noqa: T201
    return result if sure else None


def _told(result: PredictionResult, threshold: float) -> str:
    settings = f"{result.executor_type}, n_jobs={result.n_jobs}, chunksize={result.chunksize}"
    if isinstance(result, StreamingPredictionResult):
        settings += f", buffer_size={result.buffer_size}, {'in order' if result.use_ordered else 'as they are ready'}"
    return f"{settings}; confidence {result.confidence:.0%}, threshold {threshold:.0%}"


def _why_not(query: Query, history: History) -> str:
    """Why nothing was predicted."""
    if query.data_size == 0:
        return "there are no items"
    with history.lock:
        own = history.experience(query.func_hash)
        known = own is not None and own.runs >= MIN_TRAINING_SAMPLES
        experiences = [own] if own is not None and known else list(history.all_experience().values())
        runs = sum(each.runs for each in experiences)
        if runs < MIN_TRAINING_SAMPLES:
            return f"{runs} runs are recorded, {MIN_TRAINING_SAMPLES} are needed"
        whose = f"the {runs} runs of this function" if known else f"the {runs} runs of other functions"
        if _beyond(query, _workload(query, own if known else None)[0], experiences):
            return f"this is a thousand times more than any of {whose}"
        return f"none of {whose} is like this, or had the settings that are asked for"


def _checked(query: Query, asked: float) -> Query:
    """With Python's own numbers. Raises InvalidInput for what cannot be."""
    given: dict[str, Any] = {}
    if query.data_size is not None:
        given["data_size"] = number("data_size", query.data_size, 0, whole=True)
    for name, least, whole in _COUNTS:
        value = getattr(query, name)
        if value is not None:
            given[name] = number(name, value, least, whole=whole)
    for name, seconds in (("estimated_item_time", query.item_time), ("spawn_seconds", query.spawn_seconds)):
        if seconds is not None:
            number(name, seconds, 0, above=True)
    if query.prefer_ordered is not None:
        given["prefer_ordered"] = flag("prefer_ordered", query.prefer_ordered)
    for kind in query.executors or ():
        if kind not in KINDS:
            raise InvalidInput(f"executors: {kind!r} is none of {', '.join(KINDS)}", field="executors")
    number("confidence_threshold", asked, 0, 1)
    return replace(query, **given)


def _of(
    query: Query, experiences: list[Experience], own: Experience | None, history: History
) -> StreamingPredictionResult | PredictionResult | None:
    workload, remembered = _workload(query, own)
    if _beyond(query, workload, experiences):
        return None
    kernel = ACROSS if own is None else OWN
    kind: bool | None = None
    if own is not None and (own.streams if query.streaming else own.runs - own.streams) >= MIN_TRAINING_SAMPLES:
        kind = query.streaming
    ranked = [
        each
        for each in weigh(experiences, workload, kernel, get_fingerprint(), kind=kind)
        if _allowed(each, query, own=own is not None)
    ]
    if not ranked:
        return None
    basis: Basis = "across" if own is None else "function"
    # Of settings that are as good as equal, the one that is known best: a neighbour that was tried once must not unsettle it.
    equal = [each for each in ranked if each.score >= ranked[0].score - _AS_GOOD]
    raw, best = max(((_confidence(each, kernel, remembered), each) for each in equal), key=lambda pair: pair[0])
    if history.outcomes.calibrated(raw, basis) < query.threshold:
        # One that was lucky once must not hide what is well known, and nearly as fast.
        for each in itertools.takewhile(lambda each: each.score >= ranked[0].score - _NEARLY, ranked):
            sure = _confidence(each, kernel, remembered)
            if history.outcomes.calibrated(sure, basis) >= query.threshold:
                raw, best = sure, each
                break
    ranked.remove(best)
    ranked.insert(0, best)
    if remembered:
        item_seconds = math.exp(best.wall() + best.speedup - best.score)
    else:
        assert workload.item is not None
        item_seconds = math.exp(workload.item - best.score)
    serial = item_seconds * math.exp(best.score)
    result = PredictionResult(
        n_jobs=query.n_jobs or min(best.setting.n_jobs, query.data_size or best.setting.n_jobs),
        chunksize=query.chunksize or _chunksize(best, query, workload, remembered),
        confidence=history.outcomes.calibrated(raw, basis),
        training_samples=best.runs,
        feature_match_score=min(1.0, best.weight / sum(min(c.runs, kernel.most_runs) for c, _ in best.cells)),
        executor_type=best.setting.executor,
        predicted_speedup=math.exp(best.score),
        item_seconds=item_seconds,
        predicted_seconds=None if query.data_size is None else item_seconds * query.data_size,
        serial_item_seconds=serial,
        worker_item_seconds=_known(math.exp(merged(best, "busy"))) if remembered else None,
        cpu_share=_known(merged(best, "cpu")),
        result_bytes=query.pickle_size or (_remembered(own.pickle) if own else None),
        coefficient_of_variation=own.variation.mean if own and own.variation.weight else query.coefficient_of_variation,
        adaptive=best.cells[-1][0].adaptive if query.chunksize is None else None,
        raw_confidence=raw,
        basis=basis,
        tried=tuple(ranked),
    )
    result.reason = _reason(result, len(ranked))
    return _for_stream(result, best, query, history) if query.streaming else result


def _confidence(evidence: Evidence, kernel: Kernel, remembered: bool) -> float:
    return raw_confidence(*evidence.deviation(kernel, of_wall=remembered)) * (1.0 - evidence.outliers())


def _workload(query: Query, own: Experience | None) -> tuple[Workload, bool]:
    """What is asked in logarithms, and whether its item time is the remembered one."""
    item = None if query.item_time is None else math.log(query.item_time)
    remembered = False
    if own is not None and (
        item is None or query.item_time is DEFAULT_ITEM_TIME or abs(item - own.item.mean) < _SAME_WORK
    ):
        item, remembered = own.item.mean, True
    if item is None:
        item = math.log(DEFAULT_ITEM_TIME)
    total = None if query.data_size is None else item + math.log(query.data_size)
    pickle = math.log(query.pickle_size) if query.pickle_size else None
    # Own item times that differ from run to run are spread of the outcome, not distance from it.
    near = None if remembered else item
    workload = Workload(total, near, pickle, query.coefficient_of_variation, query.cpu_share, query.warm)
    if query.spawn_seconds:
        workload = replace(workload, spawn_seconds=query.spawn_seconds)
    return workload, remembered


def _beyond(query: Query, workload: Workload, experiences: list[Experience]) -> bool:
    size = None if query.data_size is None else math.log(query.data_size)
    for at, value in enumerate((size, workload.item, workload.total)):
        if value is not None and value - max(each.largest[at] for each in experiences) >= _BEYOND:
            return True
    return False


def _allowed(evidence: Evidence, query: Query, *, own: bool) -> bool:
    setting, exactly = evidence.setting, query.exactly
    if exactly is not None and (setting.executor, setting.n_jobs) != (exactly.executor, exactly.n_jobs):
        return False
    if exactly is not None and own and setting[2:5] != exactly[2:5]:  # chunks, or their adaptation
        return False
    if query.executors is not None and setting.executor not in query.executors:
        return False
    if query.n_jobs is not None and setting.n_jobs != query.n_jobs:
        return False
    if query.prefer_ordered is not None and setting.ordered not in (query.prefer_ordered, None):
        return False
    if query.chunksize is not None and setting.chunk is not None:
        return abs(setting.chunk - math.log2(query.chunksize)) <= 1.0
    return True


def _chunksize(best: Evidence, query: Query, workload: Workload, remembered: bool) -> int:
    """As in the fastest runs; for items of another duration, so many that a chunk lasts as long as there."""
    chunk = merged(best, "chunk")
    if not remembered and workload.item is not None:
        chunk += merged(best, "item") - workload.item
    items = max(1, round(math.exp(min(chunk, 30.0))))
    if query.data_size is not None:
        items = min(items, math.ceil(query.data_size / best.setting.n_jobs))
    return max(1, items)


def _for_stream(result: PredictionResult, best: Evidence, query: Query, history: History) -> StreamingPredictionResult:
    buffer = math.exp(buffer_of(best)) if best.setting.buffer is not None else math.nan
    learned = not math.isnan(buffer)
    if query.buffer_size is not None:
        size = query.buffer_size
    else:
        # A chunk that is running and one that waits for each worker, where nothing is known.
        thumb = max(result.n_jobs * DEFAULT_BUFFER_SIZE_MULTIPLIER, 2 * result.n_jobs * result.chunksize)
        size = max(result.n_jobs, round(buffer)) if learned else thumb
        size = _within_memory(size, result.result_bytes, history)
    variation = query.coefficient_of_variation
    if variation is None:
        variation = result.coefficient_of_variation
    if query.prefer_ordered is not None:
        ordered = query.prefer_ordered
    elif best.setting.ordered is not None:
        ordered = best.setting.ordered
    else:
        heterogeneous = variation is not None and variation > HETEROGENEOUS_CV_THRESHOLD
        ordered = not heterogeneous and (query.data_size or 0) <= LARGE_DATASET_THRESHOLD
    return StreamingPredictionResult(**vars(result), buffer_size=size, use_ordered=ordered, buffer_learned=learned)


def _within_memory(size: int, result_bytes: int | None, history: History) -> int:
    if not result_bytes or size * result_bytes < 1 << 20:  # a megabyte is always there
        return size
    budget = STREAMING_BUFFER_MEMORY_FRACTION * history.available_memory()
    return max(1, min(size, int(budget / result_bytes)))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _remembered(moments: Any) -> int | None:
    return round(math.exp(moments.mean)) if moments.weight else None


def _reason(result: PredictionResult, settings: int) -> str:
    whose = "this function" if result.basis == "function" else "workloads like this"
    runs = f"{result.training_samples} run{'s' if result.training_samples != 1 else ''} of {whose}"
    how = "serially" if result.executor_type == "serial" else f"with {result.n_jobs} {result.executor_type} workers"
    compared = f", the fastest of {settings} settings that were tried" if settings > 1 else ""
    return f"{runs} {how} were {result.predicted_speedup:.2f} times as fast as one item after the other{compared}"
