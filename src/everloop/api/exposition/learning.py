"""Labels, the learner, live quality, the journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from everloop.api.exposition.families import Labels, counter, gauge
from everloop.api.services import Services
from everloop.core.errors import EverloopError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def labels(services: Services) -> Iterator[Metric]:
    yield gauge("learner_alive", "0 once the learning loop has died.", [({}, int(services.loop.alive))])
    try:
        names = services.registry.names()
        given = [({"model": name}, services.journal.examples_total(name)) for name in names]
    except EverloopError:  # the store is gone: `component_up` says so
        return
    statuses = {name: services.loop.status(name) for name in names}
    yield counter("labels", "Labelled examples acknowledged.", given)
    yield gauge(
        "learner_backlog",
        "Labelled examples not yet learned.",
        [({"model": n}, s.backlog) for n, s in statuses.items()],
    )
    yield gauge(
        "learner_training", "1 while a fit runs.", [({"model": n}, int(s.is_training)) for n, s in statuses.items()]
    )
    yield from _quality({name: status.quality for name, status in statuses.items()})


def journal(services: Services) -> Iterator[Metric]:
    yield counter(
        "recorder_dropped",
        "Predictions of this process not recorded because its buffer was full.",
        [({}, services.recorder.dropped)],
    )
    try:
        stats = services.journal.stats()
    except EverloopError:  # as above
        return
    yield gauge("journal_pending", "Entries accepted, not yet committed.", [({}, stats.pending)])
    yield counter("journal_dropped", "Predictions not recorded because the queue was full.", [({}, stats.dropped)])
    yield gauge("journal_bytes", "Size of the journal.", [({}, stats.bytes)])


def _quality(reports: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    """Of the models that this process learns: `version` is `all` or one of those that labels have judged lately, `window` is `all` or
    `newest`."""
    counts: list[tuple[Labels, float]] = []
    figures: list[tuple[Labels, float]] = []
    for model, report in reports.items():
        for version, whole in [("all", report), *report.get("versions", {}).items()]:
            for window, part in (("all", whole), ("newest", whole.get("window", {}))):
                labels = {"model": model, "version": version, "window": window}
                if "n" in part:
                    counts.append((labels, part["n"]))
                figures += [
                    ({**labels, "metric": name}, value)
                    for name, value in part.items()
                    if isinstance(value, float) and name != "auc_error"
                ]
    yield gauge("quality_labels", "Labels that the figures of `quality` are of.", counts)
    yield gauge("quality", "Live quality by labels as they came; `baseline_…`: of answering the label before.", figures)
