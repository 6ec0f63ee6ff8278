"""A model under load while its world changes: what the picture of versions, drift alarms and swaps is drawn from.

A line's slope changes every few seconds. One thread predicts without a pause and notes how wrong each answer is; labels arrive
beside it, two hundred a second; the engine does the rest.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from everloop.app.bench.rows import Context, Result, counted
from everloop.app.continuum import Continuum
from everloop.learning.config import LearningConfig

SLOPES = (1.0, 4.0, -2.0, 3.0, -1.0)
LABELS_PER_SECOND = 200
BIN = 0.1
NOISE = 0.1


class World:
    """y = slope * x, with noise in the labels."""

    def __init__(self) -> None:
        self.slope = SLOPES[0]
        self.rng = random.Random(11)

    def label(self, x: float) -> float:
        return self.slope * x + self.rng.gauss(0, NOISE)


class Watcher(threading.Thread):
    """Predicts without a pause; keeps when, how long it took (ns), how far off the true line, and by which version."""

    def __init__(self, engine: Continuum, world: World) -> None:
        super().__init__(name="bench-watcher")
        self.engine, self.world = engine, world
        self.stopping = threading.Event()
        self.failed: str | None = None
        self.at, self.took, self.off, self.version = array("d"), array("q"), array("d"), array("q")

    def run(self) -> None:
        predict, world, clock, now = self.engine.predict, self.world, time.perf_counter_ns, time.time
        while not self.stopping.is_set():
            began = clock()
            try:
                answer = predict("line", [5.0])
            except Exception as error:
                self.failed = repr(error)
                return
            self.took.append(clock() - began)
            self.at.append(now())
            self.off.append(abs(answer.prediction - 5.0 * world.slope))
            self.version.append(answer.model_version)


def run(context: Context, folder: Path) -> Result:
    """Needs no `folder`."""
    del folder
    world = World()
    hold = context.seconds(8, 3)
    config = LearningConfig(min_samples=50, interval_sec=2)
    changes: list[float] = []
    with Continuum(config) as engine:
        engine.register_model("line", "linear")
        for _ in range(100):
            x = world.rng.uniform(0, 10)
            engine.add_training_example("line", [x], world.label(x))
        engine.train_model("line")
        engine.start_continuous_learning()
        watcher = Watcher(engine, world)
        began = time.time()
        watcher.start()
        for slope in SLOPES:
            context.say(f"timeline: slope {slope:+.0f} for {hold:.0f} s")
            world.slope = slope
            changes.append(time.time() - began)
            _teach(engine, world, hold)
        watcher.stopping.set()
        watcher.join()
        engine.stop_continuous_learning()
        events = [event for event in engine.timeline("line", limit=1000) if event.at >= began - 0.001]
    told = [
        {"at": event.at - began, "kind": event.kind, "version": event.version}
        for event in events
        if event.kind in ("drift", "swapped", "published", "rejected")
    ]
    bins = _bins(watcher, began)
    recovered = _recovered(bins, changes[1:], hold)
    alarms = sum(event["kind"] == "drift" for event in told)
    versions = len(set(watcher.version))
    row = counted(
        "timeline",
        f"{len(changes) - 1} changes of the slope under load",
        "no failure, each followed by a version of the new slope",
        f"{'no failure' if watcher.failed is None else watcher.failed}, {len(recovered)} of {len(changes) - 1} followed",
        passed=watcher.failed is None and len(recovered) == len(changes) - 1,
        detail=f"{len(watcher.at):,} predictions, {versions} versions, {alarms} drift alarms; "
        f"seconds until the new slope answers: {', '.join(f'{seconds:.2g}' for seconds in recovered)}",
    )
    return Result([row], {"changes": changes, "slopes": list(SLOPES), "events": told, "bins": bins})


def _teach(engine: Continuum, world: World, seconds: float) -> None:
    began = time.perf_counter()
    given = 0
    while (passed := time.perf_counter() - began) < seconds:
        due = int(passed * LABELS_PER_SECOND)
        while given < due:
            x = world.rng.uniform(0, 10)
            engine.add_training_example("line", [x], world.label(x))
            given += 1
        time.sleep(0.01)


def _bins(watcher: Watcher, began: float) -> list[dict[str, float]]:
    """Per tenth of a second: rate, p50 and p99 in µs, mean distance from the true line, the last version."""
    at = np.frombuffer(watcher.at, np.float64) - began
    took = np.frombuffer(watcher.took, np.int64) / 1000
    off, version = np.frombuffer(watcher.off, np.float64), np.frombuffer(watcher.version, np.int64)
    edges = np.searchsorted(at, np.arange(0.0, at[-1], BIN))
    found: list[dict[str, float]] = []
    for first, last in itertools.pairwise(edges):
        if last > first:
            part = slice(int(first), int(last))
            p50, p99 = np.percentile(took[part], (50, 99))
            found.append(
                {
                    "at": float(at[first]) + BIN / 2,
                    "per_second": (int(last) - int(first)) / BIN,
                    "p50_us": float(p50),
                    "p99_us": float(p99),
                    "error": float(off[part].mean()),
                    "version": int(version[last - 1]),
                }
            )
    return found


def _recovered(bins: list[dict[str, Any]], changes: list[float], hold: float) -> list[float]:
    """For each change after which answers came close to the new line before the next one: after how many seconds."""
    close = 5 * NOISE
    found = []
    for change in changes:
        after = [b["at"] - change for b in bins if change + BIN <= b["at"] < change + hold and b["error"] < close]
        if after:
            found.append(after[0])
    return found
