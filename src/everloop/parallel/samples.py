"""One recorded run, as a value and as the bytes of its file (`history.py` keeps the files).

Files of older versions have fewer fields and load; fields that this version does not know are ignored. What cannot be a run (no worker,
a speedup that is no number) raises ValueError: its file is then set aside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from everloop.core.errors import InvalidInput
from everloop.parallel.features import NAMES, WorkloadFeatures
from everloop.parallel.fingerprint import Fingerprint
from everloop.parallel.plan import ChunkBounds
from everloop.parallel.validation import flag, number
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
            is_streaming=row.get("is_streaming", False),
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
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not a recorded run: {type(error).__name__}: {error}") from error
    return sample


_MOST_ITEMS = 1e15
_MOST_WORKERS = 1e5
_MOST_SECONDS = 1e9
_MOST_BYTES = float(1 << 60)
_NUMBERS: tuple[tuple[str, float, float], ...] = (
    ("cpu_share", 0, 1e3),
    ("cpu_item_seconds", 0, _MOST_SECONDS),
    ("worker_item_seconds", 0, _MOST_SECONDS),
)
_FEATURES: tuple[tuple[str, float], ...] = (
    ("physical_cores", _MOST_WORKERS),
    ("available_memory", _MOST_BYTES),
    ("pickle_size", _MOST_BYTES),
    ("coefficient_of_variation", 1e9),
    ("function_complexity", _MOST_BYTES),
    ("l3_cache_size", _MOST_BYTES),
    ("numa_nodes", _MOST_WORKERS),
    ("memory_bandwidth_gbps", 1e9),
    ("has_numa", 1),
)
"""May be unknown; else a number from 0 to this."""


def check(sample: TrainingData) -> None:
    """Raises InvalidInput, a ValueError, for a run that cannot have been: whatever gets past here can be calculated with."""
    features = sample.features
    number("data_size", features.data_size, 1, _MOST_ITEMS, whole=True)
    number("estimated_item_time", features.estimated_item_time, 1e-12, _MOST_SECONDS)
    for name, most in _FEATURES:
        value = getattr(features, name)
        if value is not None:
            number(name, int(value) if isinstance(value, bool) else value, 0, most)
    if not isinstance(features.start_method, str):
        raise InvalidInput(f"start_method: a name is needed, this is {features.start_method!r}", field="start_method")
    number("n_jobs", sample.n_jobs, 1, _MOST_WORKERS, whole=True)
    number("chunksize", sample.chunksize, 1, _MOST_ITEMS, whole=True)
    number("speedup", sample.speedup, 1e-9, 1e9)
    number("timestamp", sample.timestamp, 0, 1e11)
    if sample.buffer_size is not None:
        number("buffer_size", sample.buffer_size, 1, _MOST_ITEMS, whole=True)
    if sample.item_seconds is not None:
        number("item_seconds", sample.item_seconds, 1e-12, _MOST_SECONDS)
    for name, least, most in _NUMBERS:
        value = getattr(sample, name)
        if value is not None:
            number(name, value, least, most)
    for name, truth in (
        ("use_ordered", sample.use_ordered),
        ("is_streaming", sample.is_streaming),
        ("warm", sample.warm),
    ):
        if truth is not None:
            flag(name, truth)
    if sample.adaptive is not None:
        _check_bounds(sample.adaptive)
    if sample.executor_type is not None and sample.executor_type not in KINDS:
        raise InvalidInput(
            f"executor_type: {sample.executor_type!r} is none of {', '.join(KINDS)}", field="executor_type"
        )


def _check_bounds(bounds: ChunkBounds) -> None:
    number("adaptive.target_duration", bounds.target_duration, 1e-6, _MOST_SECONDS)
    number("adaptive.adaptation_rate", bounds.adaptation_rate, 1e-6, 1)
    number("adaptive.smallest", bounds.smallest, 1, _MOST_ITEMS, whole=True)
    if bounds.largest is not None:
        number("adaptive.largest", bounds.largest, bounds.smallest, _MOST_ITEMS, whole=True)


def _short(value: Any) -> Any:
    """Six digits are more than any of these measurements has."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
