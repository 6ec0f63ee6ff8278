"""What is asked of the history, and what it answers: the values that travel between the predictor and its callers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from everloop.parallel.calibration import Basis
from everloop.parallel.cells import Setting
from everloop.parallel.constants import DEFAULT_BUFFER_SIZE_MULTIPLIER
from everloop.parallel.evidence import Evidence
from everloop.parallel.plan import ChunkBounds


@dataclass
class PredictionResult:
    n_jobs: int
    chunksize: int
    confidence: float
    """Calibrated probability that the run takes `predicted_seconds` within 25 %."""
    reason: str = ""
    training_samples: int = 0
    """Runs that the prediction rests on."""
    feature_match_score: float = 1.0
    """How close those runs are to what was asked, in [0, 1]."""
    executor_type: str = "process"
    predicted_speedup: float = 1.0
    item_seconds: float | None = None
    """Wall time of the run per item."""
    predicted_seconds: float | None = None
    """Wall time of the run; None where the number of items is not known."""
    serial_item_seconds: float | None = None
    """What one item takes alone."""
    worker_item_seconds: float | None = None
    """What one item takes in its worker, slowed by the others: what a run is to be held against while it goes."""
    cpu_share: float | None = None
    """CPU time over the items' time, as remembered."""
    result_bytes: int | None = None
    """Of one result, pickled, as remembered."""
    coefficient_of_variation: float | None = None
    """Of the item times, as remembered."""
    adaptive: ChunkBounds | None = None
    """Parameters of adaptive chunking that went with the fastest runs; None where fixed chunks did."""
    raw_confidence: float | None = None
    """By the model alone, before calibration."""
    basis: Basis = "function"
    explored: bool = False
    """One setting is not the best known but its neighbour: see `exploration.py`."""
    tried: tuple[Evidence, ...] = field(default=(), repr=False, compare=False)
    """What is known of every setting that was tried, the chosen one first: exploration looks at its neighbours."""

    @property
    def adaptive_chunking_params(self) -> dict[str, Any]:
        """As `StreamingOptimizationResult.adaptive_chunking_params`; empty without adaptive chunking."""
        if self.adaptive is None:
            return {}
        return {
            "initial_chunksize": self.chunksize,
            "target_chunk_duration": self.adaptive.target_duration,
            "adaptation_rate": self.adaptive.adaptation_rate,
            "min_chunksize": self.adaptive.smallest,
            "max_chunksize": self.adaptive.largest,
        }


@dataclass
class StreamingPredictionResult(PredictionResult):
    buffer_size: int | None = None
    """None, or none at all, becomes `n_jobs * 3`."""
    use_ordered: bool = True
    buffer_learned: bool = False
    """The buffer went with the fastest runs; else it is a rule of thumb."""

    def __post_init__(self) -> None:
        if not self.buffer_size:
            self.buffer_size = self.n_jobs * DEFAULT_BUFFER_SIZE_MULTIPLIER


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked; None is not known, or not fixed by the caller."""

    func_hash: str
    data_size: int | None
    item_time: float | None = None
    """Of one item alone, in seconds."""
    streaming: bool = False
    pickle_size: int | None = None
    coefficient_of_variation: float | None = None
    cpu_share: float | None = None
    executors: Collection[str] | None = None
    """Only these: what the caller fixed, or what this function can run in."""
    n_jobs: int | None = None
    chunksize: int | None = None
    buffer_size: int | None = None
    prefer_ordered: bool | None = None
    warm: bool | None = None
    """Worker processes are there already (True), or must be started first."""
    spawn_seconds: float | None = None
    """What their start takes here, where that was measured."""
    threshold: float = 0.0
    """Confidence that is asked for: a setting that reaches it is preferred to one that is a little faster and does not."""
    exactly: Setting | None = None
    """Only this setting, as far as functions can be compared by it: what a run that was done with it should have taken."""
