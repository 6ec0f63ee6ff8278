"""One recorded run, as a value and as the bytes of its file (`history.py` keeps the files).

Files of older versions have fewer fields and load; fields that this version does not know are ignored. What cannot be a run (no worker,
a speedup that is no number) raises ValueError: its file is then set aside.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from everloop.parallel.features import NAMES, WorkloadFeatures
from everloop.parallel.fingerprint import Fingerprint
from everloop.parallel.plan import ChunkBounds
from everloop.parallel.work import KINDS


@dataclass(frozen=True, slots=True)
class TrainingData:
    features: WorkloadFeatures
    n_jobs: int
    chunksize: int
    """That the run ended with, where it was adaptive."""
    speedup: float
    """Measured: what the items would have taken one after the other, over the wall clock."""
    timestamp: float
    """Seconds since the epoch."""
    buffer_size: int | None = None
    use_ordered: bool | None = None
    is_streaming: bool = False
    executor_type: str | None = None
    """None in files of older versions, which knew processes only."""
    func_hash: str | None = None
    item_seconds: float | None = None
    """Wall time of the whole run per item."""
    cpu_share: float | None = None
    """CPU time over the items' own time, in [0, 1]: small for work that waits."""
    cpu_item_seconds: float | None = None
    """CPU time per item: what the items are, however busy the machine was."""
    worker_item_seconds: float | None = None
    """What an item took in its worker, slowed by the others."""
    warm: bool | None = None
    """Every worker process was there already; False where the run also paid for their start; None where that is not known, or no matter."""
    fingerprint: Fingerprint | None = None
    """Of the machine; None where it is not known."""
    adaptive: ChunkBounds | None = None
    """None: every chunk had `chunksize` items."""

    @property
    def wall_per_item(self) -> float:
        """Seconds; from the speedup where it was not measured."""
        return self.item_seconds or self.features.estimated_item_time / self.speedup


def encode(sample: TrainingData) -> bytes:
    """JSON, about 500 bytes; what is None is left out."""
    row: dict[str, Any] = {
        "features": {name: _short(value) for name, value in sample.features.to_dict().items() if value is not None},
        "n_jobs": sample.n_jobs,
        "chunksize": sample.chunksize,
        "speedup": _short(sample.speedup),
        "timestamp": sample.timestamp,
        "buffer_size": sample.buffer_size,
        "use_ordered": sample.use_ordered,
        "is_streaming": sample.is_streaming,
        "executor_type": sample.executor_type,
        "item_seconds": _short(sample.item_seconds),
        "cpu_share": _short(sample.cpu_share),
        "cpu_item_seconds": _short(sample.cpu_item_seconds),
        "worker_item_seconds": _short(sample.worker_item_seconds),
        "warm": sample.warm,
        "fingerprint": None if sample.fingerprint is None else sample.fingerprint.line(),
    }
    if sample.adaptive is not None:
        bounds = sample.adaptive
        row["adaptive"] = [bounds.target_duration, bounds.adaptation_rate, bounds.smallest, bounds.largest]
    return json.dumps({k: v for k, v in row.items() if v is not None}, separators=(",", ":")).encode()


def decode(payload: bytes, func_hash: str | None = None) -> TrainingData:
    """`func_hash` comes from the file's name. Raises ValueError, saying what is wrong."""
    try:
        row = json.loads(payload)
        features = {name: value for name, value in row["features"].items() if name in NAMES}
        features.setdefault("start_method", "fork")
        line, adaptive = row.get("fingerprint"), row.get("adaptive")
        sample = TrainingData(
            features=WorkloadFeatures(**features),
            n_jobs=row["n_jobs"],
            chunksize=row["chunksize"],
            speedup=row["speedup"],
            timestamp=row["timestamp"],
            buffer_size=row.get("buffer_size"),
            use_ordered=row.get("use_ordered"),
            is_streaming=bool(row.get("is_streaming", False)),
            executor_type=row.get("executor_type"),
            func_hash=func_hash or row.get("func_hash"),
            item_seconds=row.get("item_seconds"),
            cpu_share=row.get("cpu_share"),
            cpu_item_seconds=row.get("cpu_item_seconds"),
            worker_item_seconds=row.get("worker_item_seconds"),
            warm=row.get("warm"),
            fingerprint=None if line is None else Fingerprint.of_line(line),
            adaptive=None if adaptive is None else ChunkBounds(*adaptive),
        )
        check(sample)
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a recorded run: {type(error).__name__}: {error}") from error
    return sample


def check(sample: TrainingData) -> None:
    """Raises ValueError (or TypeError) for a run that cannot have been."""
    features = sample.features
    whole = {"n_jobs": sample.n_jobs, "chunksize": sample.chunksize, "data_size": features.data_size}
    if sample.buffer_size is not None:
        whole["buffer_size"] = sample.buffer_size
    for name, count in whole.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name}: a whole number of at least 1 is needed, this is {count!r}")
    positive = {"speedup": sample.speedup, "estimated_item_time": features.estimated_item_time}
    if sample.item_seconds is not None:
        positive["item_seconds"] = sample.item_seconds
    for name, number in positive.items():
        if not math.isfinite(number) or number <= 0:
            raise ValueError(f"{name}: a number above 0 is needed, this is {number!r}")
    if not math.isfinite(sample.timestamp):
        raise ValueError(f"timestamp: a number is needed, this is {sample.timestamp!r}")
    for name, share in (
        ("cpu_share", sample.cpu_share),
        ("cpu_item_seconds", sample.cpu_item_seconds),
        ("worker_item_seconds", sample.worker_item_seconds),
        ("coefficient_of_variation", features.coefficient_of_variation),
    ):
        if share is not None and not (math.isfinite(share) and share >= 0):
            raise ValueError(f"{name}: a number of at least 0 is needed, this is {share!r}")
    bounds = sample.adaptive
    if bounds is not None and not (
        0 < bounds.target_duration < math.inf and 0 < bounds.adaptation_rate <= 1 <= bounds.smallest
    ):
        raise ValueError(f"adaptive: these are no bounds of adaptive chunking: {bounds!r}")
    if sample.executor_type is not None and sample.executor_type not in KINDS:
        raise ValueError(f"executor_type: {sample.executor_type!r} is none of {', '.join(KINDS)}")


def _short(value: Any) -> Any:
    """Six digits are more than any of these measurements has."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
