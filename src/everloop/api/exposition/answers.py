"""What the lanes answered, by model and version: how many, how fast in each stage, in which batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from everloop.api.exposition.families import Labels, counter, gauge, histogram, observed
from everloop.api.services import Services
from everloop.policy.admission import Ground
from everloop.policy.pacing import REASONS
from everloop.serving.counters import LATENCY_BOUNDS, SIZE_BOUNDS, Counters

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from everloop.api.tracing import Tracing


def answered(services: Services) -> Iterator[Metric]:
    """Of the versions that answer, and of the last ones that did."""
    versions = [
        ({"model": model, "version": str(version)}, counts)
        for (model, version), counts in services.traffic.versions().items()
    ]
    yield from _requests(versions)
    yield from _batches(versions)
    yield from _durations(versions, services.observer.tracing if services.observer is not None else None)


def _requests(versions: list[tuple[Labels, Counters]]) -> Iterator[Metric]:
    yield counter(
        "requests",
        "Prediction requests by what became of them.",
        [
            (labels | {"outcome": outcome}, number)
            for labels, c in versions
            for outcome, number in (
                # Programs in this process fail without having been a request.
                ("ok", max(0, c.requests - c.failed)),
                ("failed", c.failed - c.referred),
                ("referred", c.referred),
                ("refused", c.refused),
                ("expired", c.expired),
                ("abandoned", c.abandoned),
            )
        ],
    )
    yield counter("rows", "Rows predicted.", [(labels, c.rows) for labels, c in versions])


def _batches(versions: list[tuple[Labels, Counters]]) -> Iterator[Metric]:
    yield counter("batches", "Runs of the model.", [(labels, c.batches) for labels, c in versions])
    yield counter(
        "batch_releases",
        "Batches by why they left: full, or for the latency target, the window, a deadline, or because the model was idle.",
        [
            (labels | {"reason": why}, number)
            for labels, c in versions
            for why, number in zip(REASONS, c.released, strict=True)
        ],
    )
    sizes = histogram("batch_rows", "Rows of a batch.", ("model", "version"))
    for labels, c in versions:
        observed(sizes, labels, c.sizes, c.rows - c.repeated, bounds=SIZE_BOUNDS)
    yield sizes
    yield counter("run_seconds", "Time in the model.", [(labels, c.run_seconds) for labels, c in versions])


def _durations(versions: list[tuple[Labels, Counters]], tracing: Tracing | None) -> Iterator[Metric]:
    """The whole with a traced request of each bucket as its exemplar, where OpenMetrics is asked for."""
    by = ("model", "version")
    total = histogram("request_duration_seconds", "From a request's coming in until its answer was written.", by)
    queue = histogram("queue_duration_seconds", "From a request's coming in until its batch began to run.", by)
    run = histogram("run_duration_seconds", "Of a request: how long its batch ran in the model.", by)
    for labels, c in versions:
        exemplars = None if tracing is None else tracing.exemplars(labels["model"], labels["version"])
        observed(total, labels, c.latencies, c.latency_seconds, bounds=LATENCY_BOUNDS, exemplars=exemplars)
        observed(queue, labels, c.queued, c.queued_seconds, bounds=LATENCY_BOUNDS)
        observed(run, labels, c.ran, c.ran_seconds, bounds=LATENCY_BOUNDS)
    yield from (total, queue, run)


def lanes(services: Services) -> Iterator[Metric]:
    """What is live, and what waits for it."""
    table = services.table.current
    waiting: Counter[str] = Counter(dict.fromkeys(table.lanes, 0))
    for lane in table.all_lanes:
        waiting[lane.name] += lane.waiting
    yield gauge(
        "waiting_rows",
        "Rows that wait for their run.",
        [({"model": name}, number) for name, number in waiting.items()],
    )
    refused: Counter[tuple[str, Ground]] = Counter()
    for lane in table.all_lanes:
        for batcher in lane.batchers:
            if batcher.admission is not None:
                for ground, number in [*batcher.admission.grounds.items()]:
                    refused[lane.name, ground] += number
    yield counter(
        "admission_refusals",
        "Requests that were not let into a queue: too long, too much of one caller, no memory left, a deadline that cannot be kept.",
        [
            ({"model": name, "reason": ground}, refused[name, ground])
            for name in table.lanes
            for ground in get_args(Ground)
        ],
    )
    yield gauge(
        "live_version",
        "The version that answers.",
        [({"model": name}, lane.version) for name, lane in table.lanes.items()],
    )
