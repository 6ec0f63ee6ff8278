"""What threads notice of swaps, and of a heavy fit in the background."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from everloop.app.bench.material import trained_linear
from everloop.app.bench.rows import Context, Result, Row, against, counted, ratio_in_turns, spread
from everloop.app.bench.versions import numbered_versions
from everloop.app.continuum import Continuum

THREADS = 8
SWAPS = 1000
PACE = 0.025
"""Seconds between swaps: forty a second, far more than anybody learns, and still an interval that has a p99.9."""
FIT_ROWS = 50_000
IDLE_SECONDS = 4.0


class Predicting:
    """Threads that predict without a pause, time every call, and check every answer against the version it names."""

    def __init__(self, engine: Continuum, name: str, answers: dict[int, float] | None, threads: int) -> None:
        self.engine, self.name, self.answers = engine, name, answers
        self.stop = threading.Event()
        self.errors: list[str] = []
        self.torn = 0
        self.took = [array("q") for _ in range(threads)]
        self.threads = [threading.Thread(target=self._predict, args=(slot,)) for slot in self.took]

    def _predict(self, took: array[int]) -> None:
        predict, name, answers, stop = self.engine.predict, self.name, self.answers, self.stop.is_set
        clock, row, last = time.perf_counter_ns, [1.0], 0
        while not stop():
            began = clock()
            try:
                answer = predict(name, row)
            except Exception as error:
                self.errors.append(repr(error))
                return
            took.append(clock() - began)
            if answers is not None:
                if answers.get(answer.model_version) != answer.prediction or answer.model_version < last:
                    self.torn += 1
                last = answer.model_version

    def __enter__(self) -> Predicting:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    @property
    def nanoseconds(self) -> np.ndarray[Any, Any]:
        return np.concatenate([np.frombuffer(slot, dtype=np.int64) for slot in self.took])

    def percentile(self, q: float) -> float:
        """In microseconds."""
        return float(np.percentile(self.nanoseconds, q)) / 1000


def swaps(context: Context) -> Result:
    """8 threads through 1,000 swaps, in turns with the same threads left alone."""
    rounds = context.rounds(5, 2)
    each = (SWAPS if not context.quick else 40) // rounds
    still: list[float] = []
    swapping: list[float] = []
    errors: list[str] = []
    torn = calls = 0
    with Continuum() as engine:
        answers = numbered_versions(engine, "numbered", each * rounds + 1)
        engine.promote("numbered", 1)
        version = 1
        for turn in range(rounds):
            context.say(f"{THREADS} threads, round {turn + 1} of {rounds}: {each} swaps")
            began = time.perf_counter()
            with Predicting(engine, "numbered", answers, THREADS) as threads:
                for swap in range(each):
                    version += 1
                    engine.promote("numbered", version)
                    time.sleep(max(0.0, began + (swap + 1) * PACE - time.perf_counter()))
                seconds = time.perf_counter() - began
            swapping.append(threads.percentile(99.9))
            torn, calls, errors = torn + threads.torn, calls + len(threads.nanoseconds), errors + threads.errors
            with Predicting(engine, "numbered", answers, THREADS) as alone:
                time.sleep(seconds)
            still.append(alone.percentile(99.9))
    detail = f"p99.9 while swapping {spread(swapping, ' µs')}, without {spread(still, ' µs')}; {1 / PACE:.0f} swaps/s, {calls:,} predictions"
    ratio = ratio_in_turns(swapping, still)
    rows = [
        counted(
            "threads",
            f"{THREADS} threads through {each * rounds:,} swaps: errors, impossible pairs",
            "none, none",
            f"{len(errors)}, {torn}",
            passed=not errors and torn == 0 and calls > 0,
            detail="; ".join(errors[:2]) or f"{calls:,} predictions checked",
        ),
        against("threads", f"{THREADS} threads: p99.9 while swapping", ratio, "at most", 1.5, detail=detail),
    ]
    return Result(rows, {"p999_swapping_us": swapping, "p999_still_us": still})


def background_fit(context: Context) -> Result:
    """One thread predicts while a gradient boosting fits 50,000 rows, in turns with the same thread alone."""
    from sklearn.ensemble import GradientBoostingRegressor

    size = FIT_ROWS if not context.quick else 8_000
    rng = np.random.default_rng(3)
    X = rng.normal(size=(size, 8))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2]
    rounds = context.rounds(3, 1)
    idle: list[float] = []
    busy: list[float] = []
    fits: list[float] = []
    with Continuum() as engine:
        trained_linear(engine, "small", 1)
        engine.register_model(
            "boosting",
            GradientBoostingRegressor(n_estimators=60),
            learning={"window": size, "max_queue_size": size + 1},
        )
        for first in range(0, size, 5_000):
            engine.add_training_examples(
                "boosting", X[first : first + 5_000].tolist(), y[first : first + 5_000].tolist()
            )
        gc.collect()
        for turn in range(rounds):
            context.say(f"a boosting fits {size:,} rows in the background, round {turn + 1} of {rounds}")
            with Predicting(engine, "small", None, 1) as alone:
                time.sleep(context.seconds(IDLE_SECONDS, 1.5))
            idle.append(alone.percentile(99))
            failed: list[BaseException] = []
            fit = threading.Thread(target=_fit, args=(engine, failed.append))
            with Predicting(engine, "small", None, 1) as meanwhile:
                began = time.perf_counter()
                fit.start()
                fit.join()
                fits.append(time.perf_counter() - began)
            busy.append(meanwhile.percentile(99))
            if failed:
                raise failed[0]
    detail = f"p99 during the fit {spread(busy, ' µs')}, idle {spread(idle, ' µs')}; a fit took {spread(fits, ' s')}"
    row = against(
        "threads",
        f"predict p99 while a boosting fits {size:,} rows",
        ratio_in_turns(busy, idle),
        "at most",
        1.5,
        detail=detail,
    )
    return Result([row], {"p99_fit_us": busy, "p99_idle_us": idle, "fit_seconds": statistics.median(fits)})


def _fit(engine: Continuum, failed: Callable[[BaseException], None]) -> None:
    try:
        engine.train_model("boosting")
    except Exception as error:
        failed(error)


def run(context: Context, folder: Path) -> Result:
    """Both. Needs no `folder`."""
    del folder
    first, second = swaps(context), background_fit(context)
    rows: list[Row] = [*first.rows, *second.rows]
    return Result(rows, first.data | second.data)
