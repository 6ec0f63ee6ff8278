"""What the parallel engine costs where there is little to win: tiny work, single items of nothing, and deciding itself."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everloop.app.bench.parallel_workloads import Workload, item_10us, nothing, turns_per_second, workloads
from everloop.app.bench.rows import Context, Result, Row, against, counted, ratio_in_turns, spread

if TYPE_CHECKING:
    from everloop.parallel.history import History

SUBJECT = "parallel_small"
TINY_BAR, OVERHEAD_BAR, PREDICTION_BAR, DRY_RUN_BAR = 2.0, 1.3, 0.2, 0.1
SAMPLES_ON_DISK = 1000


def run(context: Context, folder: Path) -> Result:
    """Seconds; the dry runs of the long items are most of it."""
    data: dict[str, Any] = {}
    rate = turns_per_second()
    rows = [
        tiny(context, folder, rate, data),
        overhead(context, data),
        *prediction(context, folder, rate, data),
    ]
    return Result(rows, data)


def tiny(context: Context, folder: Path, rate: float, data: dict[str, Any]) -> Row:
    """20 × 10 µs, nothing known beforehand, against `[f(x) for x in items]`."""
    from everloop.parallel import execute

    context.say("tiny work: 20 × 10 µs")
    items = [round(10e-6 * rate)] * 20
    plain: list[float] = []
    ours: list[float] = []
    known: list[float] = []
    for _ in range(context.rounds(400, 100)):
        plain.append(milliseconds(lambda: [item_10us(item) for item in items]))
        ours.append(milliseconds(lambda: execute(item_10us, items, use_cache=False)))
        known.append(milliseconds(lambda: execute(item_10us, items)))
    first = first_call(folder, items[0])
    data["tiny"] = {"comprehension_ms": plain, "execute_ms": ours, "cached_ms": known, "first_ms": first}
    more = statistics.median(a - b for a, b in zip(ours, plain, strict=True))
    return against(
        SUBJECT,
        "execute of 20 × 10 µs, nothing known, against a list comprehension",
        more,
        "at most",
        TINY_BAR,
        "ms more",
        detail=f"comprehension {spread(plain, ' ms')}, execute {spread(ours, ' ms')}, with what was decided before "
        f"{spread(known, ' ms')}; a program's very first call, which loads the engine: {first:.3g} ms",
    )


def first_call(folder: Path, turns: int) -> float:
    """ms of the first `execute` of a process that has only imported its name."""
    program = (
        "import time; from everloop.parallel import execute; from everloop.app.bench.parallel_workloads import item_10us\n"
        f"items = [{turns}] * 20; began = time.perf_counter(); execute(item_10us, items)\n"
        "print((time.perf_counter() - began) * 1000)"
    )
    took = [
        float(
            subprocess.run(
                [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True, timeout=60
            ).stdout
        )
        for _ in range(5)
    ]
    return statistics.median(took)


def overhead(context: Context, data: dict[str, Any]) -> Row:
    """Items that do nothing, each alone in its chunk, through two processes."""
    from everloop.parallel import PoolManager, execute

    context.say("no-op items, chunks of one")
    items = list(range(context.rounds(20_000, 5_000)))
    work = Workload("no-op", nothing, items, expected=items)
    ours: list[float] = []
    theirs: list[float] = []
    manager = PoolManager()
    try:
        with multiprocessing.Pool(2) as pool:
            for _ in range(context.rounds(7, 3)):
                for side, times in ((ours, "ours"), (theirs, "theirs")):
                    gc.collect()
                    began = time.perf_counter()
                    if times == "ours":
                        got = execute(nothing, items, executor="process", n_jobs=2, chunksize=1, pool_manager=manager)
                    else:
                        got = list(pool.imap(nothing, items, chunksize=1))
                    side.append((time.perf_counter() - began) / len(items) * 1e6)
                    work.check(got, times)
    finally:
        manager.shutdown()
    data["overhead"] = {"everloop_us": ours, "imap_us": theirs}
    return against(
        SUBJECT,
        "no-op items in two processes, one a chunk, against multiprocessing.Pool.imap",
        ratio_in_turns(ours, theirs),
        "at most",
        OVERHEAD_BAR,
        detail=f"an item: everloop {spread(ours, ' µs')}, Pool.imap {spread(theirs, ' µs')}",
    )


def prediction(context: Context, folder: Path, rate: float, data: dict[str, Any]) -> list[Row]:
    """`predict_parameters` on a history of 1,000 runs of these twelve functions, and the dry run (`optimize`) in its place."""
    from everloop.parallel import optimize, predict_parameters

    context.say(f"predictions from {SAMPLES_ON_DISK:,} samples")
    works = workloads(0.3, rate)
    known = [(work, work.serial() / len(work)) for work in works]
    history = fill(folder / "history", known)
    took: dict[str, list[float]] = {}
    dry: dict[str, list[float]] = {}
    unknown: list[str] = []
    for work, item_seconds in known:

        def predict(work: Workload = work, item_seconds: float = item_seconds) -> Any:
            return predict_parameters(work.func, len(work), item_seconds, history=history)

        if predict() is None:
            unknown.append(work.name)
        took[work.name] = [milliseconds(predict) for _ in range(context.rounds(400, 100))]
        dry[work.name] = [
            milliseconds(partial(optimize, work.func, work.data(), use_cache=False))
            for _ in range(context.rounds(9, 3))
        ]
    p50 = statistics.median(x for times in took.values() for x in times)
    share = {name: statistics.median(took[name]) / statistics.median(dry[name]) for name in took}
    worst = max(share, key=share.__getitem__)
    data["prediction"] = {"predict_ms": {n: statistics.median(t) for n, t in took.items()}, "dry_run_ms": dry}
    told = f"predicted {len(works) - len(unknown)} of {len(works)} workloads" + (
        f", not {', '.join(unknown)}" if unknown else ""
    )
    return [
        against(
            SUBJECT,
            f"p50 of a warm prediction, {SAMPLES_ON_DISK:,} samples on disk",
            p50,
            "at most",
            PREDICTION_BAR,
            "ms",
            detail=told,
            ok=not unknown,
        ),
        counted(
            SUBJECT,
            "a warm prediction against the dry run that it replaces, every workload",
            f"at most {DRY_RUN_BAR:g} ×",
            f"{share[worst]:.3g} × at worst ({worst})",
            passed=share[worst] <= DRY_RUN_BAR,
            detail="dry runs: "
            + ", ".join(f"{n} {statistics.median(t):.3g} ms ({share[n]:.2g})" for n, t in dry.items()),
        ),
    ]


def fill(folder: Path, known: Sequence[tuple[Workload, float]]) -> History:
    """A folder with as many recorded runs of these functions, taken turn by turn, in four settings each. The runs are made up: what is
    timed is finding and weighing them."""
    from everloop.parallel.features import WorkloadFeatures
    from everloop.parallel.fingerprint import get_fingerprint
    from everloop.parallel.history import History, TrainingData
    from everloop.parallel.identity import func_hash

    writing = History(folder)
    settings = (("process", 2, 8), ("process", 2, 64), ("thread", 2, 8), ("process", 4, 32))
    for number in range(SAMPLES_ON_DISK):
        work, item_seconds = known[number % len(known)]
        executor, workers, parts = settings[number // len(known) % len(settings)]
        speedup = (1.9, 1.8, 1.0, 1.7)[number // len(known) % 4] * (1 + number % 7 / 100)
        writing.record(
            TrainingData(
                WorkloadFeatures.of(work.func, len(work), item_seconds, pickle_size=16, coefficient_of_variation=0.1),
                workers,
                max(1, len(work) // (workers * parts)),
                speedup,
                time.time() - 3600 + number,
                executor_type=executor,
                func_hash=func_hash(work.func),
                item_seconds=item_seconds / speedup,
                cpu_share=1.0,
                fingerprint=get_fingerprint(),
            )
        )
    return History(folder)


def milliseconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000
