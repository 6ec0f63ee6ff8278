"""Once in a while, when it costs little, a neighbouring setting is tried: else the first guess would be repeated for ever.

Pure: the caller brings the random numbers. One run in eight explores, if there is a neighbour that could be better and whose expected loss
the function's past can pay: at most 2 % of all the seconds that it has ever run, and never more than half of this run. Neighbours are one
step away in one setting: chunks or their target duration doubled or halved, a worker more or less, the buffer, the ordering, the kind of
worker. A neighbour that was tried counts by what was measured, and is left alone once even its optimistic estimate (mean plus one
standard deviation: the upper confidence bound of Auer et al., Machine Learning 47, 2002) is slower than the best; one that was never tried
is expected to lose what such a step loses at worst, usually.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from everloop.parallel.cells import Setting
from everloop.parallel.evidence import OWN, Evidence
from everloop.parallel.predictor import PredictionResult, StreamingPredictionResult

RATE = 1 / 8
BUDGET = 0.02
"""Share of the function's whole time so far that one exploration may be expected to lose."""
MOST_LOSS = 0.5
"""Of the run itself."""
LONG_ITEMS = 8
"""Items are long, or few, where no more than so many make a chunk."""
DIMENSIONS = frozenset({"executor", "n_jobs", "chunksize", "buffer_size", "use_ordered"})

_Result = TypeVar("_Result", bound=PredictionResult)


@dataclass(frozen=True)
class Neighbour:
    setting: Setting
    changes: dict[str, Any]
    """Fields of the prediction that become others."""
    loss: float
    """Share of its time that a run loses at worst, usually, where this was never tried."""
    what: str


def explore(
    prediction: _Result,
    *,
    rng: random.Random,
    cores: int,
    past_seconds: float,
    free: Collection[str] = DIMENSIONS,
    executors: Collection[str] = ("serial", "thread", "process"),
    rate: float = RATE,
) -> _Result | None:
    """The prediction with one setting changed, or None: use it as it is.

    `past_seconds`: what the function's recorded runs took altogether (`Experience.seconds`); `free`: what the caller has not fixed;
    `executors`: what this function can run in.
    """
    if rng.random() >= rate or prediction.basis != "function" or not prediction.tried:
        return None
    best = prediction.tried[0]
    tried = {evidence.setting: evidence for evidence in prediction.tried}
    worth = []
    for neighbour in neighbours(prediction, best.setting, cores=cores, free=free, executors=executors):
        evidence = tried.get(neighbour.setting)
        loss = neighbour.loss if evidence is None else _measured_loss(best, evidence)
        if loss is None or loss > MOST_LOSS:
            continue
        if prediction.predicted_seconds is None:
            if loss > BUDGET * 4:
                continue
        elif loss * prediction.predicted_seconds > BUDGET * past_seconds:
            continue
        worth.append((0.0 if evidence is None else evidence.weight, loss, rng.random(), neighbour))
    if not worth:
        return None
    chosen = min(worth, key=lambda each: each[:3])[3]
    reason = (
        f"trying {chosen.what} once, since nothing says that {best.runs} runs with the same settings found the best"
    )
    return replace(prediction, **chosen.changes, reason=reason, explored=True)


def neighbours(
    prediction: PredictionResult, setting: Setting, *, cores: int, free: Collection[str], executors: Collection[str]
) -> Iterator[Neighbour]:
    n_jobs, parallel = prediction.n_jobs, setting.executor != "serial"
    if parallel and "chunksize" in free:
        yield from _other_chunks(prediction, setting)
    if parallel and "n_jobs" in free:
        if n_jobs > 2:
            yield _workers(setting, n_jobs - 1, 1 / (n_jobs - 1))
        if n_jobs < cores or setting.executor == "thread":
            yield _workers(setting, n_jobs + 1, 0.1)
        if setting.executor == "process" and n_jobs == cores > 1 and prediction.chunksize <= LONG_ITEMS:
            # Few long items end unevenly; where more processes share the cores, the kernel evens them out.
            yield _workers(setting, 2 * cores, 0.1)
    if "executor" in free:
        for kind in executors:
            if kind in (setting.executor, "ray"):
                continue
            workers = 1 if kind == "serial" else (n_jobs if parallel else cores)
            if workers != n_jobs and "n_jobs" not in free:
                continue
            if workers > 1 or kind == "serial":
                changes: dict[str, Any] = {"executor_type": kind, "n_jobs": workers}
                yield Neighbour(
                    setting._replace(executor=kind, n_jobs=workers),
                    changes,
                    0.5,
                    f"{kind} instead of {setting.executor}",
                )
    if isinstance(prediction, StreamingPredictionResult):
        yield from _other_streaming(prediction, setting, free)


def _other_chunks(prediction: PredictionResult, setting: Setting) -> Iterator[Neighbour]:
    bounds = prediction.adaptive
    if bounds is not None and setting.target is not None:
        for factor, word in ((2.0, "longer"), (0.5, "shorter")):
            target = bounds.target_duration * factor
            if 0.01 <= target <= 2.0:
                other = setting._replace(target=round(2 * math.log2(target)))
                changes = {"adaptive": replace(bounds, target_duration=target)}
                yield Neighbour(other, changes, 0.05, f"{word} chunks ({target:g} s)")
    elif setting.chunk is not None:
        for chunksize in (prediction.chunksize * 2, prediction.chunksize // 2):
            if chunksize >= 1:
                other = setting._replace(chunk=round(math.log2(chunksize)))
                yield Neighbour(other, {"chunksize": chunksize}, 0.05, f"chunks of {chunksize}")


def _other_streaming(
    prediction: StreamingPredictionResult, setting: Setting, free: Collection[str]
) -> Iterator[Neighbour]:
    if "buffer_size" in free and setting.buffer is not None and prediction.buffer_size is not None:
        # Larger ones only where the results are known to be small: the memory was not asked about them.
        small = prediction.result_bytes is not None and prediction.buffer_size * prediction.result_bytes < 1 << 22
        for size in (prediction.buffer_size * 2, prediction.buffer_size // 2):
            if prediction.n_jobs <= size and (size < prediction.buffer_size or small):
                other = setting._replace(buffer=round(math.log2(size)))
                yield Neighbour(other, {"buffer_size": size}, 0.05, f"a buffer of {size}")
    if "use_ordered" in free and setting.ordered is not None:
        ordered = not setting.ordered
        what = "results in order" if ordered else "results as they come"
        yield Neighbour(setting._replace(ordered=ordered), {"use_ordered": ordered}, 0.05, what)


def _workers(setting: Setting, n_jobs: int, loss: float) -> Neighbour:
    return Neighbour(setting._replace(n_jobs=n_jobs), {"n_jobs": n_jobs}, loss, f"{n_jobs} workers")


def _measured_loss(best: Evidence, evidence: Evidence) -> float | None:
    """None where it is not worth another try: even with luck it would be slower."""
    deviation, _ = evidence.deviation(OWN, of_wall=False)
    if evidence.score + deviation / math.sqrt(1.0 + evidence.weight) <= best.score:
        return None
    return max(0.0, math.expm1(best.score - evidence.score))
