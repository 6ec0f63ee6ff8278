"""What past runs say about a workload: pure arithmetic on sums, no files, no clock.

**Cells.** Runs are summed up in cells (`cells.py`): a prediction looks at some dozen of them, however many runs there were.

**Kernel.** For a query, each cell counts by its closeness: Gaussian in the logarithms of total work and item time (and, across functions,
size of results, variation, share of CPU), times the similarity of its machine. Closeness reduces the weight, and distance adds variance:
a run with ten times the work is evidence, but not sure evidence. Runs that had to start their worker processes are translated to workers
that are there, and the reverse.

**Choice.** Per setting, the mean log speedup is drawn toward the mean over all settings, the more so the more runs scatter within a setting
and the less settings differ (empirical Bayes; Efron & Morris, JASA 70, 1975): a setting that was lucky once does not win over one that was
good often. The highest wins: what was fast, not what was used most.

**Confidence.** The predictive distribution is Student's t with a prior of two runs of spread `kernel.spread` (normal-inverse-gamma model;
Gelman et al., Bayesian Data Analysis, 3rd ed., 3.3). The raw confidence is its mass within 25 % of the predicted time, less the share of runs
that lay far from the others. `calibration.py` then holds it against what came true.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from everloop.parallel.cells import PRIOR_RUNS, Cell, Experience, Moments, Setting
from everloop.parallel.fingerprint import Fingerprint

TOLERANCE = 0.25
"""A prediction came true if the time it promised was met within this share."""
_LOG_TOLERANCE = math.log(1 + TOLERANCE)
_REACH = 3.0
"""Widths of the kernel beyond which a cell says nothing."""
_CPU_EFFICIENCY = 0.9
"""Of each further core, where a number of workers is translated to a machine with more."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """How closeness counts; widths and drifts are per natural logarithm."""

    total: float
    item: float
    drift: float
    """Standard deviation of the log speedup that each unit of distance in total work or item time adds."""
    spread: float
    """Prior standard deviation of the log of a run's time, within one setting."""
    most_runs: float = math.inf
    """That one cell counts for: across functions, many runs of one function are still one opinion."""
    features: bool = False
    """Compare size of results, variation and CPU share, too."""


OWN = Kernel(total=1.6, item=1.0, drift=0.06, spread=0.2)
"""For a function's own runs."""
ACROSS = Kernel(total=1.2, item=1.0, drift=0.12, spread=0.35, most_runs=2.0, features=True)
"""For the runs of other functions."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked about, in logarithms; None where not known."""

    total: float | None
    item: float | None
    pickle: float | None = None
    variation: float | None = None
    cpu: float | None = None
    warm: bool | None = None
    """Worker processes are there already."""
    spawn_seconds: float = 0.15
    """What their start takes, not in logarithms."""


@dataclass(slots=True)
class Evidence:
    """For one setting, translated to this machine."""

    setting: Setting
    cells: list[tuple[Cell, float]] = field(default_factory=list)
    """With their effective number of runs."""
    weight: float = 0.0
    runs: int = 0
    speedup: float = 0.0
    """Mean of the logarithm."""
    score: float = 0.0
    """The same, drawn toward the mean of all settings."""
    _shift: list[float] = field(default_factory=list)
    _doubt: float = 0.0
    scatter: float = 0.0
    """Weighted sum of the squared deviations within the cells, of the log speedup."""

    def add(self, cell: Cell, runs: float, shift: float, doubt: float) -> None:
        """`shift`: what translation to this machine adds to the log speedup; `doubt`: variance that distance adds."""
        self.cells.append((cell, runs))
        self._shift.append(shift)
        self.weight += runs
        self.runs += cell.runs
        self.speedup += runs * (cell.speedup.mean + shift)
        self._doubt += runs * doubt
        self.scatter += runs * cell.speedup.squares / cell.speedup.weight

    def wall(self) -> float:
        """Mean log wall time per item, as it was on these runs."""
        rows = zip(self.cells, self._shift, strict=True)
        return sum(runs * (cell.wall.mean - shift) for (cell, runs), shift in rows) / self.weight

    def outliers(self) -> float:
        """Share of the runs that were far from the others, in [0, 1)."""
        return sum(runs * cell.wall.outliers for cell, runs in self.cells) / self.weight

    def deviation(self, kernel: Kernel, *, of_wall: bool) -> tuple[float, float]:
        """Standard deviation and degrees of freedom of the predictive t distribution of one run's log speedup, or log wall time per
        item."""
        centre = self.wall() if of_wall else self.speedup
        squares = 0.0
        for (cell, runs), shift in zip(self.cells, self._shift, strict=True):
            moments = cell.wall if of_wall else cell.speedup
            mean = moments.mean + (-shift if of_wall else shift)
            squares += runs * (moments.squares / moments.weight + (mean - centre) ** 2)
        more = max(0.0, self.weight - 1.0)
        variance = (PRIOR_RUNS * kernel.spread**2 + squares) / (PRIOR_RUNS + more)
        variance = variance * (1.0 + 1.0 / self.weight) + self._doubt / self.weight
        return math.sqrt(variance), PRIOR_RUNS + more


def weigh(
    experiences: Iterable[Experience], workload: Workload, kernel: Kernel, here: Fingerprint, *, kind: bool | None
) -> list[Evidence]:
    """Of every setting that there is evidence for, the best first. `kind`: only runs of streams (True) or of batches (False)."""
    total, reach = workload.total, _REACH * kernel.total
    found: dict[Setting, Evidence] = {}
    machine: Fingerprint | None = here
    likeness = 1.0
    for experience in experiences:
        for cell in experience.cells.values():
            if kind is not None and cell.streaming is not kind:
                continue
            if total is not None and abs(total - cell.total.mean) > reach:
                continue
            off, doubt = _distance(cell, workload, kernel)
            if off > _REACH**2 / 2:
                continue
            if cell.machine is not machine:  # a fingerprint's hash costs as much as all the rest
                machine = cell.machine
                likeness = 0.5 if machine is None else machine.similarity(here)
            runs = min(kernel.most_runs, cell.speedup.weight / experience.scale) * math.exp(-off) * likeness
            if runs < 1e-3:
                continue
            setting = cell.elsewhere if kernel.features else cell.as_batch if kind is None else cell.setting
            setting, shift = _translated(cell, setting, here)
            if cell.warm is not None and workload.warm is not None and cell.warm is not workload.warm:
                starting = _starting(cell, workload)
                shift += starting
                doubt += (starting / 2) ** 2
            evidence = found.get(setting)
            if evidence is None:
                evidence = found[setting] = Evidence(setting)
            evidence.add(cell, runs, shift, doubt + (1.0 - likeness) ** 2 / 4)
    return _ranked(list(found.values()), kernel)


def _ranked(found: list[Evidence], kernel: Kernel) -> list[Evidence]:
    """By score, the best first."""
    if not found:
        return []
    everything = sum(each.weight for each in found)
    centre = sum(each.speedup for each in found) / everything
    for each in found:
        each.speedup /= each.weight
    between = sum(each.weight * (each.speedup - centre) ** 2 for each in found) / everything
    within = (PRIOR_RUNS * kernel.spread**2 + sum(each.scatter for each in found)) / (PRIOR_RUNS + everything)
    # As many runs' weight has the mean of all settings: one at most, and less where settings really differ.
    pull = min(1.0, within / between) if between > 0 else 1.0
    for each in found:
        each.score = (each.weight * each.speedup + pull * centre) / (each.weight + pull)
    return sorted(found, key=lambda each: -each.score)


def _distance(cell: Cell, workload: Workload, kernel: Kernel) -> tuple[float, float]:
    """Half the squared distance in widths, and the variance that the distance adds."""
    off = doubt = 0.0
    if workload.total is not None:
        apart = workload.total - cell.total.mean
        off += (apart / kernel.total) ** 2
        doubt += (apart * kernel.drift) ** 2
    if workload.item is not None:
        apart = workload.item - cell.item.mean
        off += (apart / kernel.item) ** 2
        doubt += (apart * kernel.drift) ** 2
    if kernel.features:
        if workload.pickle is not None and cell.pickle.weight:
            off += ((workload.pickle - cell.pickle.mean) / 3.0) ** 2
        if workload.variation is not None and cell.variation.weight:
            off += (workload.variation - cell.variation.mean) ** 2
        if workload.cpu is not None and cell.cpu.weight:
            off += ((workload.cpu - cell.cpu.mean) / 0.2) ** 2
    return off / 2, doubt


def _translated(cell: Cell, setting: Setting, here: Fingerprint) -> tuple[Setting, float]:
    """A setting of another machine on this one, and what that adds to its log speedup. As many workers per core, with as much of the buffer
    for each; threads that outnumber the cores wait for something else than cores, and stay. What older versions wrote has no fingerprint,
    but says how many physical cores there were."""
    there = cell.machine
    if there is not None:
        cores, ratio = there.cores, here.cores / there.cores
    else:
        cores, ratio = cell.physical_cores, here.physical_cores / cell.physical_cores
    if ratio == 1 or setting.n_jobs == 1 or (setting.executor == "thread" and setting.n_jobs > cores):
        return setting, 0.0
    n_jobs = max(1, round(setting.n_jobs * ratio))
    buffer = setting.buffer
    if buffer is not None:
        buffer = max(0, buffer + round(math.log2(n_jobs / setting.n_jobs)))
    shift = _CPU_EFFICIENCY * math.log(n_jobs / setting.n_jobs)
    return setting._replace(n_jobs=n_jobs, buffer=buffer), shift


def _starting(cell: Cell, workload: Workload) -> float:
    """What it adds to the cell's log speedup that workers need not be started now, or must be."""
    total = cell.total.mean if workload.total is None else workload.total
    wall = math.exp(total - cell.speedup.mean)
    if workload.warm:
        return -math.log(max(0.25, 1.0 - workload.spawn_seconds / wall))
    return -math.log1p(workload.spawn_seconds / wall)


def raw_confidence(deviation: float, freedom: float) -> float:
    """Mass of Student's t within the tolerance (Wallace's normal approximation, Annals of Mathematical Statistics 30, 1959)."""
    t = _LOG_TOLERANCE / deviation
    z = math.sqrt(freedom * math.log1p(t * t / freedom)) * (8.0 * freedom + 1.0) / (8.0 * freedom + 3.0)
    return math.erf(z / math.sqrt(2.0))


def buffer_of(evidence: Evidence) -> float:
    """Mean log buffer of the evidence, with as much for each worker as there was; NaN where none of its cells knows it."""
    more = math.log(evidence.setting.n_jobs)
    known = [
        (runs, cell.buffer.mean + more - math.log(cell.setting.n_jobs))
        for cell, runs in evidence.cells
        if cell.buffer.weight
    ]
    weight = sum(runs for runs, _ in known)
    return sum(runs * buffer for runs, buffer in known) / weight if weight else math.nan


def merged(evidence: Evidence, of: str) -> float:
    """Weighted mean of a cell's quantity (`item`, `chunk`, `busy`, `cpu`) over the evidence; NaN where none of its cells knows it."""
    weight = total = 0.0
    for cell, runs in evidence.cells:
        moments: Moments = getattr(cell, of)
        if moments.weight:
            weight += runs
            total += runs * moments.mean
    return total / weight if weight else math.nan
