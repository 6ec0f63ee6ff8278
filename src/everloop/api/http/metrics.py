"""`/metrics`: Prometheus or OpenMetrics text where `Accept` asks for it, the summary in JSON otherwise.

Nothing is counted here. A scrape reads the plain counters that the lanes, the journal and the learner keep anyway. Labels are
the model, its version and an outcome, nothing that a caller chooses; the series of a model go with it.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import msgspec

from everloop import __version__
from everloop.api import health, wire
from everloop.api.services import Services
from everloop.api.status import STATUSES
from everloop.api.traffic import quantile
from everloop.core.errors import EverloopError, Failure
from everloop.policy.rollout import ENDED
from everloop.registry.traffic import weights_of
from everloop.serving.counters import LATENCY_BOUNDS, Counters

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Samples: TypeAlias = Sequence[tuple[dict[str, str], float]]

_TEXT = ("application/openmetrics-text", "text/plain")


def render(services: Services, accept: str) -> tuple[bytes, str]:
    """The body and its content type."""
    if not wants_text(accept):
        return msgspec.json.encode(summary(services)), "application/json"
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(services))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


def wants_text(accept: str) -> bool:
    """Whether Prometheus' formats are asked for by name, and JSON is not preferred. `*/*` alone is a person with curl."""
    text = json = 0.0
    for part in accept.lower().split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if media in _TEXT:
            text = max(text, weight)
        elif media == "application/json":
            json = max(json, weight)
    return text > json


def summary(services: Services) -> wire.MetricsSummary:
    models = services.traffic.models()
    total = Counters()
    for counts in models.values():
        total.add(counts)
    good = max(0, total.requests - total.failed)
    errors = sum(number for (operation, _), number in services.traffic.refused().items() if operation == "predict")
    asked = good + errors
    return wire.MetricsSummary(
        requests=wire.RequestCounts(
            total=asked, success=good, error=errors, success_rate=f"{100 * good / asked if asked else 100:.2f}%"
        ),
        performance=wire.Latencies(
            avg=_milliseconds(_mean(total)),
            p95=_milliseconds(quantile(total, 0.95)),
            p99=_milliseconds(quantile(total, 0.99)),
        ),
        models={name: wire.ModelCalls(c.requests, _milliseconds(_mean(c))) for name, c in sorted(models.items())},
    )


class Collector:
    """Reads everything anew at each scrape."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        yield from self._process()
        yield from self._traffic()
        yield from self._refused()
        yield from self._rollouts()
        yield from self._shadows()
        yield from self._happened()
        yield from self._learning()
        yield from self._journal()

    def _process(self) -> Iterator[Metric]:
        yield _gauge(
            "build_info",
            "Always 1; the labels tell what runs.",
            [({"version": __version__, "python": platform.python_version()}, 1)],
        )
        services = self._services
        yield _gauge("uptime_seconds", "Since the server started.", [({}, services.clock.now() - services.started_at)])
        yield _gauge("resident_memory_bytes", "Resident memory of this process.", [({}, health.resident_bytes())])
        yield _counter("cpu_seconds", "Processor time of this process.", [({}, time.process_time())])
        yield _gauge("draining", "1 while the server drains.", [({}, int(services.draining))])
        yield _gauge(
            "component_up",
            "0 for a part that has failed.",
            [({"component": name}, int(part.status != "failed")) for name, part in health.components(services).items()],
        )

    def _traffic(self) -> Iterator[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        versions = {
            _labels(model, version): counts for (model, version), counts in self._services.traffic.versions().items()
        }
        yield _counter(
            "requests",
            "Prediction requests by what became of them.",
            [
                ({**dict(labels), "outcome": outcome}, number)
                for labels, c in versions.items()
                for outcome, number in (
                    # Programs in this process fail without having been a request.
                    ("ok", max(0, c.requests - c.failed)),
                    ("failed", c.failed - c.referred),
                    ("referred", c.referred),
                    ("refused", c.refused),
                    ("abandoned", c.abandoned),
                )
            ],
        )
        yield _counter("rows", "Rows predicted.", [(dict(labels), c.rows) for labels, c in versions.items()])
        yield _counter("batches", "Runs of the model.", [(dict(labels), c.batches) for labels, c in versions.items()])
        yield _counter(
            "run_seconds", "Time in the model.", [(dict(labels), c.run_seconds) for labels, c in versions.items()]
        )
        latency = HistogramMetricFamily(
            "everloop_request_duration_seconds",
            "From a request's coming in until its answer was written.",
            labels=["model", "version"],
        )
        for labels, c in versions.items():
            latency.add_metric([value for _, value in labels], _buckets(c), c.latency_seconds)
        yield latency
        table = self._services.table.current
        lanes = table.lanes
        waiting: Counter[str] = Counter(dict.fromkeys(lanes, 0))
        for lane in table.all_lanes:
            waiting[lane.name] += lane.waiting
        yield _gauge(
            "waiting_rows",
            "Rows that wait for their run.",
            [({"model": name}, number) for name, number in waiting.items()],
        )
        yield _gauge(
            "live_version",
            "The version that answers.",
            [({"model": name}, lane.version) for name, lane in lanes.items()],
        )

    def _refused(self) -> Iterator[Metric]:
        codes: Counter[str] = Counter()
        for (_, code), number in self._services.traffic.refused().items():
            codes[code] += number
        yield _counter(
            "refusals",
            "Requests of any kind that were refused or failed, by the code they were told.",
            [({"outcome": code}, codes[code]) for code in STATUSES],
        )

    def _rollouts(self) -> Iterator[Metric]:
        registry = self._services.registry
        try:
            shares = [
                ({"model": model.name, "version": str(version)}, share)
                for model in registry.list()
                for version, share in weights_of(model).items()
            ]
            active = [
                ({"model": rollout.model, "version": str(rollout.challenger)}, rollout)
                for rollout in registry.catalog.active_rollouts()
            ]
        except EverloopError:  # the store is gone: `component_up` says so
            return
        yield _gauge("traffic_share", "Of the traffic that a version should answer.", shares)
        yield _gauge(
            "rollout_running",
            "1 while the version is being rolled out, 0 while that is paused.",
            [(labels, int(rollout.state == "running")) for labels, rollout in active],
        )
        yield _gauge(
            "rollout_step",
            "Which step its rollout is in, from 1.",
            [(labels, each.step + 1) for labels, each in active],
        )

    def _shadows(self) -> Iterator[Metric]:
        shadows = [
            ({"model": shadow.name, "version": str(shadow.version)}, shadow.observed())
            for shadow in self._services.reconciler.shadows.all()
        ]
        yield _gauge(
            "shadow_up",
            "1 while its process runs.",
            [(labels, int(seen.state == "running")) for labels, seen in shadows],
        )
        yield _counter(
            "shadow_rows",
            "Rows that shadows were offered, by what became of them.",
            [
                (labels | {"outcome": outcome}, number)
                for labels, seen in shadows
                for outcome, number in (
                    ("agreed", seen.agreed),
                    ("disagreed", seen.disagreed),
                    ("failed", seen.failures),
                    ("skipped", seen.skipped),
                )
            ],
        )
        yield _counter(
            "shadow_failures",
            "Rows that shadows could not answer, by how they failed.",
            [
                (labels | {"outcome": how}, seen.failed.get(how, 0))
                for labels, seen in shadows
                for how in get_args(Failure)
            ],
        )
        for name, text, what in (
            ("shadow_starts", "Times that shadows' processes were started.", "starts"),
            ("shadow_batches", "Runs of shadows' models.", "batches"),
            ("shadow_run_seconds", "Time in shadows' models.", "run_seconds"),
            ("shadow_cpu_seconds", "Processor time that shadows took, here and in their processes.", "spent_seconds"),
            ("shadow_distance", "Sum of |shadow's answer - the answer|.", "distance_sum"),
        ):
            yield _counter(name, text, [(labels, getattr(seen, what)) for labels, seen in shadows])

    def _happened(self) -> Iterator[Metric]:
        """Zeros, too: a count that first appears as 1 never rises in the eyes of Prometheus."""
        kinds = {
            "swaps": ("Versions that took over from another.", ("",)),
            "drift_alarms": ("Drift noticed in a model's errors or inputs.", ("errors", "inputs")),
            "fits": ("Fits by what became of them.", ("fitted", "failed", "rejected")),
            "rollouts": ("Rollouts that this process ended, by how.", ENDED),
        }
        happened = self._services.traffic.happened()
        models = sorted({model for _, model, _ in happened} | set(self._services.table.current.lanes))
        for what, (text, outcomes) in kinds.items():
            yield _counter(
                what,
                text,
                [
                    (
                        {"model": model} | ({"outcome": outcome} if outcome else {}),
                        happened.get((what, model, outcome), 0),
                    )
                    for model in models
                    for outcome in outcomes
                ],
            )

    def _learning(self) -> Iterator[Metric]:
        services = self._services
        yield _gauge("learner_alive", "0 once the learning loop has died.", [({}, int(services.loop.alive))])
        try:
            names = services.registry.names()
            labels = [({"model": name}, services.journal.examples_total(name)) for name in names]
        except EverloopError:  # the store is gone: `component_up` says so
            return
        statuses = {name: services.loop.status(name) for name in names}
        yield _counter("labels", "Labelled examples acknowledged.", labels)
        yield _gauge(
            "learner_backlog",
            "Labelled examples not yet learned.",
            [({"model": n}, s.backlog) for n, s in statuses.items()],
        )
        yield _gauge(
            "learner_training", "1 while a fit runs.", [({"model": n}, int(s.is_training)) for n, s in statuses.items()]
        )
        yield from _quality({name: status.quality for name, status in statuses.items()})

    def _journal(self) -> Iterator[Metric]:
        yield _counter(
            "recorder_dropped",
            "Predictions of this process not recorded because its buffer was full.",
            [({}, self._services.recorder.dropped)],
        )
        try:
            stats = self._services.journal.stats()
        except EverloopError:  # as above
            return
        yield _gauge("journal_pending", "Entries accepted, not yet committed.", [({}, stats.pending)])
        yield _counter("journal_dropped", "Predictions not recorded because the queue was full.", [({}, stats.dropped)])
        yield _gauge("journal_bytes", "Size of the journal.", [({}, stats.bytes)])


def _quality(reports: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    """Of the models that this process learns: `version` is `all` or one of those that labels have judged lately, `window` is `all` or
    `newest`."""
    counts: list[tuple[dict[str, str], float]] = []
    figures: list[tuple[dict[str, str], float]] = []
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
    yield _gauge("quality_labels", "Labels that the figures of `quality` are of.", counts)
    yield _gauge(
        "quality", "Live quality by labels as they came; `baseline_…`: of answering the label before.", figures
    )


def _labels(model: str, version: int) -> tuple[tuple[str, str], ...]:
    return (("model", model), ("version", str(version)))


def _gauge(name: str, text: str, samples: Samples) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return _family(GaugeMetricFamily, name, text, samples)


def _counter(name: str, text: str, samples: Samples) -> Metric:
    """`_total` is added by the encoder."""
    from prometheus_client.core import CounterMetricFamily

    return _family(CounterMetricFamily, name, text, samples)


def _family(kind: Any, name: str, text: str, samples: Samples) -> Metric:
    labels = list(samples[0][0]) if samples else ["model"]
    family = kind(f"everloop_{name}", text, labels=labels)
    for values, number in samples:
        family.add_metric([values[label] for label in labels], number)
    metric: Metric = family
    return metric


def _buckets(counts: Counters) -> list[tuple[str, float]]:
    cumulated, buckets = 0, []
    for bound, number in zip([*map(str, LATENCY_BOUNDS), "+Inf"], counts.latencies, strict=True):
        cumulated += number
        buckets.append((bound, float(cumulated)))
    return buckets


def _mean(counts: Counters) -> float | None:
    return counts.latency_seconds / counts.requests if counts.requests else None


def _milliseconds(seconds: float | None) -> str:
    return f"{(seconds or 0.0) * 1000:.3g}ms"
