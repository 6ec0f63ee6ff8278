"""What `optimize` and `optimize_streaming` answer: the settings, and everything they were decided by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from everloop.parallel.constants import DEFAULT_BUFFER_SIZE_MULTIPLIER
from everloop.parallel.cost import Estimate
from everloop.parallel.decision import Surroundings
from everloop.parallel.plan import Plan
from everloop.parallel.probe import Probe
from everloop.parallel.report import RunReport
from everloop.parallel.wording import duration, size_of, workers_of
from everloop.parallel.work import ExecutorKind


@dataclass(frozen=True)
class Profile:
    """Every number that entered a decision."""

    probe: Probe | None
    """None where nothing was run to decide."""
    around: Surroundings | None
    estimates: tuple[Estimate, ...]
    """What was compared, the quickest first."""
    seconds: float
    """That the decision took, dry run included."""


@dataclass
class OptimizationResult:
    plan: Plan
    name: str = ""
    """Of the function."""
    total: int | None = None
    warnings: list[str] = field(default_factory=list)
    data: Iterable[Any] = ()
    """The input, complete: items that the dry run took from an iterator come first."""
    profile: Profile | None = None
    """Only where asked for by `profile=True`."""
    report: RunReport | None = None
    """What really happened, where `execute` ran it."""
    facts: Profile | None = field(default=None, repr=False)
    """What `explain` tells from."""

    @property
    def n_jobs(self) -> int:
        return self.plan.n_jobs

    @property
    def chunksize(self) -> int:
        return self.plan.chunksize

    @property
    def executor_type(self) -> ExecutorKind:
        return self.plan.executor

    @property
    def estimated_speedup(self) -> float:
        """Against a plain loop."""
        return self.plan.predicted_speedup

    @property
    def reason(self) -> str:
        return self.plan.reason

    @property
    def estimated_item_time(self) -> float:
        """Seconds; 0.0 where nothing is known."""
        return self.plan.item_seconds or 0.0

    @property
    def pickle_size(self) -> int | None:
        """Bytes of one result."""
        return self.plan.result_bytes

    @property
    def coefficient_of_variation(self) -> float | None:
        """Of the items' durations; None where they were not looked at."""
        probe = self.facts.probe if self.facts else None
        return probe.coefficient_of_variation if probe is not None and probe.items > 1 else None

    def explain(self) -> str:
        """The decision in words: what was chosen, what was found, what was compared, and how it went."""
        parts = [self._chosen(), *self._found(), *self._compared(), *self._why(), *self._happened()]
        return "\n".join(parts)

    def __str__(self) -> str:
        return self._chosen()

    def _chosen(self) -> str:
        plan = self.plan
        what = "an input of unknown length" if self.total is None else f"{self.total:,} items"
        if plan.executor == "serial":
            how = "one after the other, here"
        else:
            kind = workers_of(plan.executor, plan.n_jobs)
            chunks = f"chunks of {plan.chunksize:,}" + (" at first" if plan.adaptive else "")
            how = f"on {plan.n_jobs} {kind}, in {chunks}"
        gain = f": about {plan.predicted_speedup:.1f} times as fast as a loop" if plan.executor != "serial" else ""
        return f"{self.name or 'this'} over {what} runs {how}{gain}."

    def _found(self) -> list[str]:
        probe = self.facts.probe if self.facts else None
        if probe is None or not probe.items:
            return []
        taken = f"{probe.items} item{'s' * (probe.items != 1)} run, {duration(probe.seconds)}"
        heading = {
            "history": "Remembered  (nothing was run to decide)",
            "exploration": "Remembered  (nothing was run to decide)",
            "cache": f"Remembered  (an earlier call's dry run: {taken})",
        }
        lines = ["", heading.get(self.plan.source, f"Found out  ({taken})")]
        varying = f", varying by {probe.coefficient_of_variation:.0%}" if probe.items > 1 else ""
        lines.append(_row("one item", duration(probe.item_seconds) + varying))
        cores = f", on {probe.cores_used:.1f} cores by itself" if probe.cores_used > 1.3 else ""
        lines.append(_row("computes", f"{probe.cpu_share:.0%} of that time{cores}"))
        if probe.gil_measured:
            held = "always" if probe.gil_share > 0.9 else f"at most {probe.gil_share:.0%} of it"
            lines.append(_row("holds the GIL", held))
        if probe.item_bytes is not None and probe.result_bytes is not None:
            sizes = f"{size_of(probe.item_bytes)} there, {size_of(probe.result_bytes)} back"
            lines.append(_row("pickled", f"{sizes}, {duration(probe.travel_seconds)}"))
        if probe.obstacle:
            lines.append(_row("not picklable", probe.obstacle))
        if probe.failure:
            lines.append(_row("failed", probe.failure))
        return lines

    def _compared(self) -> list[str]:
        facts = self.facts
        if facts is None or not facts.estimates:
            return []
        around = facts.around
        lines = ["", "Compared"]
        if around is not None:
            costs = "measured here" if around.costs.measured else "typical ones, nothing was measured here yet"
            lines[-1] += f"  ({around.cores} cores, {size_of(around.available_memory)} free; costs: {costs})"
        for each in facts.estimates[:8]:
            kind = "serial" if each.executor == "serial" else f"{each.n_jobs} {workers_of(each.executor, each.n_jobs)}"
            start = f"{duration(each.startup)} to start, " if each.startup else ""
            mark = "  <- chosen" if (each.executor, each.n_jobs) == (self.plan.executor, self.plan.n_jobs) else ""
            lines.append(_row(kind, f"{duration(each.seconds)}  ({start}bound by {each.bound}){mark}"))
        return lines

    def _why(self) -> list[str]:
        lines = [
            "",
            f"Why  (by {self.plan.source})",
            *(f"  - {note}" for note in self.plan.notes or [self.plan.reason]),
        ]
        if self.plan.confidence is not None and self.plan.source == "history":  # an exploration is a try
            lines.append(f"  - confidence {self.plan.confidence:.0%} that the time is met within a quarter")
        return lines + [f"  ! {warning}" for warning in self.warnings]

    def _happened(self) -> list[str]:
        report = self.report
        if report is None:
            return []
        lines = ["", "Happened"]
        spread = f", of which {duration(report.item_seconds)} of work in the items" if report.item_seconds else ""
        lines.append(_row("took", f"{duration(report.wall_seconds)} for {report.items:,} items{spread}"))
        lines.append(_row("chunks", f"{report.chunks:,}, of up to {report.largest_chunk:,} items"))
        troubles = {
            "settings changed": report.replanned,
            "items retried": report.retries,
            "workers lost": report.deaths,
            "items failed": report.failed,
            "from the checkpoint": report.resumed,
        }
        lines += [_row(what, f"{count:,}") for what, count in troubles.items() if count]
        if report.paused_seconds:
            lines.append(_row("waited for memory", duration(report.paused_seconds)))
        return lines


@dataclass
class StreamingOptimizationResult(OptimizationResult):
    memory_backpressure_enabled: bool = False
    memory_threshold: float | None = None

    @property
    def buffer_size(self) -> int:
        """Items read and not yet handed out, at most."""
        return self.plan.buffer_size or DEFAULT_BUFFER_SIZE_MULTIPLIER * self.plan.n_jobs

    @property
    def use_ordered(self) -> bool:
        return self.plan.ordered

    @property
    def use_adaptive_chunking(self) -> bool:
        return self.plan.adaptive is not None

    @property
    def adaptive_chunking_params(self) -> dict[str, Any]:
        """As of a prediction; empty where chunks have one size."""
        bounds = self.plan.adaptive
        if bounds is None:
            return {}
        return {
            "initial_chunksize": self.plan.chunksize,
            "target_chunk_duration": bounds.target_duration,
            "adaptation_rate": bounds.adaptation_rate,
            "min_chunksize": bounds.smallest,
            "max_chunksize": bounds.largest,
        }


def _row(label: str, text: str) -> str:
    return f"  {label:<18} {text}"
