"""Telling hooks what happens, and the hooks that count it for Prometheus."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from everloop.core.errors import Conflict, explain
from everloop.parallel.hooks import ChunkDone, Ended, ExecutionHooks, ItemError, Progress, Started

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Announcer:
    """Calls hooks in turn. One that raises is reported as a warning and not called again: who watches the work must not end it."""

    def __init__(self, hooks: Sequence[ExecutionHooks] = ()) -> None:
        self._hooks = list(hooks)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def add(self, hook: ExecutionHooks) -> None:
        self._hooks.append(hook)

    def listens(self, name: str) -> bool:
        """Whether anybody does something at the method `name`."""
        return any(getattr(type(hook), name) is not getattr(ExecutionHooks, name) for hook in self._hooks)

    def tell(self, name: str, event: Any) -> None:
        for hook in tuple(self._hooks):
            try:
                getattr(hook, name)(event)
            except Exception as error:
                self._hooks.remove(hook)
                warnings.warn(
                    f"{type(hook).__name__}.{name} raised {explain(error)}: these hooks are not called again in this run",
                    RuntimeWarning,
                    stacklevel=2,
                )


class PrometheusHooks(ExecutionHooks):
    """Counters of what runs do, labelled by the run's label, in `registry` (Prometheus' own by default).

    Make one and hand it to every run. Raises Conflict where the registry has these names already.
    """

    def __init__(self, registry: CollectorRegistry | None = None, prefix: str = "everloop_parallel") -> None:
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram

        to = registry if registry is not None else REGISTRY
        by = ("label",)
        try:
            self._items = Counter(f"{prefix}_items", "Items that were run, failed ones included.", by, registry=to)
            self._busy = Counter(f"{prefix}_item_seconds", "Time that workers spent on items.", by, registry=to)
            self._chunks = Histogram(f"{prefix}_chunk_seconds", "Duration of chunks.", by, registry=to)
            self._errors = Counter(
                f"{prefix}_item_errors", "Failures of items, by what came of them.", ("label", "outcome"), registry=to
            )
            self._deaths = Counter(f"{prefix}_workers_lost", "Workers that died with a chunk.", by, registry=to)
            self._runs = Counter(f"{prefix}_runs", "Runs that ended.", ("label", "outcome"), registry=to)
            self._active = Gauge(f"{prefix}_active_runs", "Runs that have not ended.", by, registry=to)
            self._rate = Gauge(f"{prefix}_items_per_second", "Items a second, lately.", by, registry=to)
            self._paused = Counter(f"{prefix}_paused_seconds", "Time spent waiting for memory.", by, registry=to)
        except ValueError as error:
            raise Conflict(
                f"registry: {error}; make one PrometheusHooks and hand it to every run, or give another prefix",
                field="registry",
            ) from error

    def on_start(self, event: Started) -> None:
        self._active.labels(event.label).inc()

    def on_chunk(self, event: ChunkDone) -> None:
        if event.lost is not None:
            self._deaths.labels(event.label).inc()
            return
        self._items.labels(event.label).inc(event.count)
        self._busy.labels(event.label).inc(event.seconds)
        self._chunks.labels(event.label).observe(event.seconds)

    def on_item_error(self, event: ItemError) -> None:
        self._errors.labels(event.label, "retried" if event.retried else "final").inc()

    def on_progress(self, event: Progress) -> None:
        self._rate.labels(event.label).set(event.rate)

    def on_end(self, event: Ended) -> None:
        self._active.labels(event.label).dec()
        self._rate.labels(event.label).set(0)
        self._runs.labels(event.label, "failed" if event.error is not None else "finished").inc()
        if event.report.paused_seconds:
            self._paused.labels(event.label).inc(event.report.paused_seconds)
