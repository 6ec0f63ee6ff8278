"""Runs to learn from, as the tests of the history and of what rests on it make them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everloop.parallel.features import WorkloadFeatures
from everloop.parallel.fingerprint import Fingerprint, get_fingerprint
from everloop.parallel.history import History
from everloop.parallel.plan import ChunkBounds
from everloop.parallel.samples import TrainingData
from everloop.testing import ManualClock

HERE = get_fingerprint()


def history_in(folder: Path) -> History:
    """With a machine whose memory was measured before: measuring it takes tens of milliseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"machine_{HERE.key}.json").write_text(json.dumps({"memory_bandwidth_gbps": 20.0}))
    return History(folder, clock=ManualClock())


def run(
    func_hash: str = "f0",
    *,
    n_jobs: int = 2,
    chunksize: int = 50,
    speedup: float = 1.8,
    data_size: int = 1_000,
    item_time: float = 0.001,
    at: float = 1_000_000.0,
    fingerprint: Fingerprint | None = HERE,
    executor: str | None = "process",
    adaptive: ChunkBounds | None = None,
    item_seconds: float | None = None,
    cpu_share: float | None = None,
    warm: bool | None = None,
    features: dict[str, Any] | None = None,
    **streaming: Any,
) -> TrainingData:
    return TrainingData(
        WorkloadFeatures(
            data_size, item_time, **{"physical_cores": 2, "available_memory": 8 << 30, **(features or {})}
        ),
        n_jobs,
        chunksize,
        speedup,
        at,
        func_hash=func_hash,
        executor_type=executor,
        fingerprint=fingerprint,
        adaptive=adaptive,
        item_seconds=item_seconds,
        cpu_share=cpu_share,
        warm=warm,
        **streaming,
    )


def recorded(history: History, count: int, *, wobble: float = 0.0, **what: Any) -> None:
    """`count` alike runs; `wobble`: by how much the speedup of every other one is off."""
    speedup = what.pop("speedup", 1.8)
    for number in range(count):
        history.record(run(speedup=speedup * (1 + wobble * (number % 2)), at=history.clock.now(), **what))


def some_function(number: int) -> Callable[[Any], Any]:
    """Functions whose code differs."""
    names: dict[str, Any] = {}
    exec(f"def work(x): return x * {number} + {number}", names)
    made: Callable[[Any], Any] = names["work"]
    return made
