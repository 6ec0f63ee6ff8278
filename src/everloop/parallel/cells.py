"""What the runs of a function add up to: sums by setting, machine and amount of work. No files, no clock.

The runs of one function with one setting, on one machine and about one amount of work, are summed up in a `Cell`: mean and spread of log
speedup and of log wall time per item, and the centre of the workloads. Later runs weigh more (half as much after 34 further runs of the
function), so what has changed is forgotten. Mean and spread of what is predicted come from the last ten runs of the cell, robustly.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from statistics import median
from typing import NamedTuple

from everloop.parallel.plan import ChunkBounds
from everloop.parallel.samples import TrainingData

PRIOR_RUNS = 2.0
_GROWTH = 1.0 / 0.98
_LAST = 10
"""Runs of a cell that its mean and spread come from."""
_USUAL = 0.1
"""Distance from the median, in logarithms, up to which nothing is an outlier."""
_HALF_DECADE = math.log(10) / 2
_MOST_SCALE = 1e9
_FORGOTTEN = 1e-4
"""Runs' worth of weight below which a cell goes, once in a while."""


class Setting(NamedTuple):
    """What is compared. Chunks, targets and buffers by their octave: nobody needs to tell 100 from 110."""

    executor: str
    n_jobs: int
    chunk: int | None
    """None where chunks adapt."""
    target: int | None
    """Of adaptive chunking: half octaves of the duration."""
    rate: int | None
    """Of adaptive chunking: tenths of the adaptation rate."""
    buffer: int | None
    ordered: bool | None


def setting_of(sample: TrainingData) -> Setting:
    streaming, bounds = sample.is_streaming, sample.adaptive
    return Setting(
        executor=sample.executor_type or "process",
        n_jobs=sample.n_jobs,
        chunk=None if bounds is not None else round(math.log2(sample.chunksize)),
        target=None if bounds is None else round(2 * math.log2(bounds.target_duration)),
        rate=None if bounds is None else round(10 * bounds.adaptation_rate),
        buffer=round(math.log2(sample.buffer_size)) if streaming and sample.buffer_size else None,
        ordered=sample.use_ordered if streaming else None,
    )


class Moments:
    """Weighted mean and sum of squared deviations, updated run by run (West, 1979)."""

    __slots__ = ("mean", "squares", "weight")

    def __init__(self) -> None:
        self.weight = self.mean = self.squares = 0.0

    def add(self, value: float, weight: float) -> None:
        self.weight += weight
        before = value - self.mean
        self.mean += before * weight / self.weight
        self.squares += weight * before * (value - self.mean)

    def scale(self, factor: float) -> None:
        self.weight *= factor
        self.squares *= factor


class Lately:
    """The weight of all runs, the mean and the spread of the last ones. Machines stall, and first runs pay for imports: what lies far from
    the median counts as if it lay at the edge of what is usual, and as a share of outliers. A median also follows a machine that has
    changed for good within some runs."""

    __slots__ = ("last", "mean", "outliers", "squares", "weight")

    def __init__(self) -> None:
        self.weight = self.mean = self.squares = self.outliers = 0.0
        self.last: deque[float] = deque(maxlen=_LAST)

    def add(self, value: float, weight: float) -> None:
        self.weight += weight
        self.last.append(value)
        count = len(self.last)
        if count < 3:
            near = list(self.last)
        else:
            middle = median(self.last)
            bound = max(_USUAL, 3 * 1.4826 * median([abs(each - middle) for each in self.last]))
            near = [min(max(each, middle - bound), middle + bound) for each in self.last]
            out = sum(abs(each - middle) > bound for each in self.last)
            self.outliers = out / (count + PRIOR_RUNS)
        self.mean = sum(near) / count
        self.squares = self.weight * sum((each - self.mean) ** 2 for each in near) / count

    def scale(self, factor: float) -> None:
        self.weight *= factor
        self.squares *= factor


class Cell:
    """All logarithms are natural, of seconds, items and bytes."""

    __slots__ = (
        "adaptive", "as_batch", "buffer", "busy", "chunk", "cpu", "elsewhere", "item", "machine", "physical_cores", "pickle", "runs", "setting",
        "speedup", "streaming", "total", "variation", "wall", "warm",
    )  # fmt: skip

    def __init__(self, setting: Setting, sample: TrainingData) -> None:
        """Empty, for runs like `sample`."""
        self.setting, self.machine, self.streaming = setting, sample.fingerprint, sample.is_streaming
        self.physical_cores = max(1, round(sample.features.physical_cores))
        self.warm = sample.warm
        self.as_batch = setting._replace(buffer=None, ordered=None)
        """What batches and streams have in common."""
        self.elsewhere = self.as_batch._replace(chunk=None)
        """What functions have in common: chunks have their own size in each."""
        self.runs = 0
        self.adaptive: ChunkBounds | None = None
        self.speedup, self.wall = Lately(), Lately()
        self.item, self.total, self.chunk, self.buffer = Moments(), Moments(), Moments(), Moments()
        self.pickle, self.variation, self.cpu = Moments(), Moments(), Moments()
        self.busy = Moments()
        """Log time of an item in its worker."""

    def moments(self) -> tuple[Moments | Lately, ...]:
        return (
            self.speedup, self.wall, self.item, self.total, self.chunk, self.buffer, self.pickle, self.variation, self.cpu, self.busy,
        )  # fmt: skip

    def add(self, sample: TrainingData, weight: float) -> None:
        features = sample.features
        self.runs += 1
        self.adaptive = sample.adaptive
        self.speedup.add(math.log(sample.speedup), weight)
        self.wall.add(math.log(sample.wall_per_item), weight)
        self.item.add(math.log(features.estimated_item_time), weight)
        self.total.add(math.log(features.total_seconds), weight)
        self.chunk.add(math.log(sample.chunksize), weight)
        for moments, value in (
            (self.buffer, sample.buffer_size),
            (self.pickle, features.pickle_size),
            (self.busy, sample.worker_item_seconds),
        ):
            if value:
                moments.add(math.log(value), weight)
        if features.coefficient_of_variation is not None:
            self.variation.add(features.coefficient_of_variation, weight)
        if sample.cpu_share is not None:
            self.cpu.add(sample.cpu_share, weight)


class Experience:
    """All cells of one function."""

    def __init__(self, func_hash: str) -> None:
        self.func_hash = func_hash
        self.runs = 0
        self.streams = 0
        self.seconds = 0.0
        """Wall time of all runs: exploration is paid from it."""
        self.scale = 1.0
        """Weight of the newest run: a cell's effective number of runs is its weight over this."""
        self.cells: dict[tuple[Hashable, ...], Cell] = {}
        self.item = Moments()
        self.cpu = Moments()
        """Log CPU time per item."""
        self.size = Moments()
        self.pickle = Moments()
        self.variation = Moments()
        self.largest = (-math.inf, -math.inf, -math.inf)
        """Logarithms: items, item time, total work."""

    def add(self, sample: TrainingData) -> None:
        features = sample.features
        self.runs += 1
        self.streams += sample.is_streaming
        self.seconds += sample.wall_per_item * features.data_size
        self.scale *= _GROWTH
        setting, total = setting_of(sample), math.log(features.total_seconds)
        where = sample.fingerprint or features.physical_cores
        key = (setting, where, sample.is_streaming, sample.warm, round(total / _HALF_DECADE))
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell(setting, sample)
        cell.add(sample, self.scale)
        size, item = math.log(features.data_size), math.log(features.estimated_item_time)
        self.size.add(size, self.scale)
        self.item.add(item, self.scale)
        if sample.cpu_item_seconds:
            self.cpu.add(math.log(sample.cpu_item_seconds), self.scale)
        if features.pickle_size:
            self.pickle.add(math.log(features.pickle_size), self.scale)
        if features.coefficient_of_variation is not None:
            self.variation.add(features.coefficient_of_variation, self.scale)
        if self.scale > _MOST_SCALE:
            self._rescale()
        self.largest = (max(self.largest[0], size), max(self.largest[1], item), max(self.largest[2], total))

    def _rescale(self) -> None:
        """Weights would outgrow floats; cells that no longer count go."""
        self.cells = {key: cell for key, cell in self.cells.items() if cell.speedup.weight > _FORGOTTEN * self.scale}
        every: list[Moments | Lately] = [self.item, self.cpu, self.size, self.pickle, self.variation]
        every += [moments for cell in self.cells.values() for moments in cell.moments()]
        for moments in every:
            moments.scale(1.0 / self.scale)
        self.scale = 1.0
