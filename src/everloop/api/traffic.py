"""What the server has answered, added up from the lanes' own plain counters when somebody looks.

A swap ends a lane, and its counts must not end with it. So this keeps the lane's counter objects, which are small, and not the
lane, which holds the model. Per model the last few versions stay apart and older ones become one sum: the number
of series stays bounded however often a model is swapped. When a model goes, all of it goes.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from everloop.api import wire
from everloop.core.errors import EverloopError
from everloop.core.events import Event, EventBus
from everloop.policy.pacing import REASONS, Pace
from everloop.serving.counters import LATENCY_BOUNDS, Counters

if TYPE_CHECKING:
    from everloop.serving.lane import Lane
    from everloop.serving.table import TableRef

KEPT_VERSIONS = 8
"""Versions of one model that keep their own series after they have stopped serving."""
_COUNTED = {
    "swapped": ("swaps", ""),
    "drift": ("drift_alarms", "errors"),
    "input_drift": ("drift_alarms", "inputs"),
    "fitted": ("fits", "fitted"),
    "fit_failed": ("fits", "failed"),
    "rejected": ("fits", "rejected"),
    "rollout_ended": ("rollouts", ""),
    "optimized": ("optimizations", ""),
    "not_optimized": ("optimizations", ""),
}
"""Event kind -> the count it adds to, and its outcome; of a rollout and an optimisation, the state it ended in."""

_MOVING = {
    "swapped",
    "published",
    "promoted",
    "rolled_back",
    "traffic",
    "rollout_started",
    "rollout_advanced",
    "rollout_ended",
}
"""Before or after these, a lane leaves the table."""


class _Served(NamedTuple):
    model: str
    version: int
    tallies: list[Counters]
    """The lane's own list, which grows with its batchers."""


class Traffic:
    """One a server. Safe from any thread."""

    def __init__(self, table: TableRef, bus: EventBus) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._serving: dict[str, _Served] = {}
        """Of the lanes in the table, by their keys, when it was last looked at: at each swap, and at each scrape."""
        self._past: dict[str, dict[int, list[Counters]]] = {}
        self._older: dict[str, Counters] = {}
        self._happened: Counter[tuple[str, str, str]] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[str] = Counter()
        """Of gRPC, by method: all that came. Raised by the event loop's thread only."""
        self._unsubscribe = bus.subscribe(self._on_event)

    def close(self) -> None:
        self._unsubscribe()
        with self._lock:
            self._serving.clear()

    def refuse(self, operation: str, error: BaseException) -> None:
        """Whoever answers a request with a problem says so here."""
        code = error.code if isinstance(error, EverloopError) else "internal"
        with self._lock:
            self._refused[operation, code] += 1

    def refused(self) -> dict[tuple[str, str], int]:
        """(operation, code) -> how often a request was refused, or failed."""
        with self._lock:
            return dict(self._refused)

    def versions(self) -> dict[tuple[str, int], Counters]:
        """(model, version) -> counts: what serves, and the last versions that did."""
        with self._lock:
            self._look()
            return {
                (model, version): _sum(parts)
                for model, past in self._with_serving().items()
                for version, parts in past.items()
            }

    def models(self) -> dict[str, Counters]:
        """Model -> counts over all its versions since the server started."""
        with self._lock:
            self._look()
            return {
                model: _sum([c for parts in past.values() for c in parts] + [self._older.get(model, Counters())])
                for model, past in self._with_serving().items()
            }

    def happened(self) -> dict[tuple[str, str, str], int]:
        """(what, model, outcome) -> how often, of `swaps`, `drift_alarms`, `fits`, `rollouts` and `optimizations`."""
        with self._lock:
            return dict(self._happened)

    def _on_event(self, event: Event) -> None:
        with self._lock:
            counted = _COUNTED.get(event.kind)
            if counted is not None and not (event.kind == "swapped" and event.data.get("from") is None):
                what, outcome = counted
                self._happened[what, event.model, outcome or str(event.data.get("state", ""))] += 1
            if event.kind in _MOVING:
                self._look()
            elif event.kind == "unregistered":
                self._forget(event.model)

    def _look(self) -> None:
        """Take over the counters of lanes that the table no longer has."""
        table = self._table.current
        serving = {lane.key: _Served(lane.name, lane.version, lane.tallies) for lane in table.all_lanes}
        before, self._serving = self._serving, serving
        for key, served in before.items():
            if key not in serving and served.model in table.lanes:
                self._keep(served)
        for model in {served.model for served in before.values()}.difference(table.lanes):
            self._forget(model)

    def _keep(self, served: _Served) -> None:
        model = served.model
        past = self._past.setdefault(model, {})
        past.setdefault(served.version, []).extend(served.tallies)
        while len(past) > KEPT_VERSIONS:
            oldest = past.pop(next(iter(past)))
            self._older[model] = _sum([*oldest, self._older.get(model, Counters())])

    def _forget(self, model: str) -> None:
        self._serving = {key: served for key, served in self._serving.items() if served.model != model}
        self._past.pop(model, None)
        self._older.pop(model, None)
        for key in [key for key in self._happened if key[1] == model]:
            del self._happened[key]

    def _with_serving(self) -> dict[str, dict[int, list[Counters]]]:
        found = {model: dict(past) for model, past in self._past.items()}
        for served in self._serving.values():
            versions = found.setdefault(served.model, {})
            versions[served.version] = [*versions.get(served.version, ()), *served.tallies]
        return found


def traffic(lane: Lane | None, since_start: Counters | None) -> wire.Traffic:
    """`since_start`: of all the model's versions; None before it ever answered."""
    whole = since_start or Counters()
    found = wire.Traffic(requests=whole.requests, rows=whole.rows, failed=whole.failed, refused=whole.refused)
    if lane is None:
        return found
    counts = lane.counters()
    answered = counts.requests
    return msgspec.structs.replace(
        found,
        in_process=lane.in_process,
        waiting=lane.waiting,
        mean_seconds=counts.latency_seconds / answered if answered else None,
        p50_seconds=quantile(counts, 0.5),
        p99_seconds=quantile(counts, 0.99),
    )


def batching(lane: Lane | None) -> dict[str, Any]:
    """How requests are put together: the rules in force, what came of them, and what was learned of the cost of a batch.

    `cost_seconds`: by rows, as batches have shown; `spread`: how far runs are off that, as a share. `full_rows`: rows of a full batch,
    which a latency target may hold below `max_rows`; `full_seconds`: what hardly any such batch takes longer than. `released`: batches by
    why they left. `queued_seconds`: how long a request waited for its run, on average. `refused`: requests that were not let in, by why.
    `runs_in`: whether the model has a process of its own, or a thread of the server's."""
    if lane is None:
        return {}
    counts, rules, costs, full = lane.counters(), lane.runner.rules, lane.costs, lane.full_rows
    learned = costs if isinstance(costs, Pace) else Pace(costs)
    ran = sum(counts.queued)
    return {
        "batches": counts.batches,
        "mean_rows": (counts.rows - counts.repeated) / counts.batches if counts.batches else None,
        "largest_rows": counts.largest,
        "max_rows": rules.max_rows,
        "queue_rows": rules.queue_rows,
        "inline_seconds": rules.inline_seconds,
        "window_seconds": rules.window_seconds,
        "target_seconds": rules.target_seconds,
        "full_rows": full,
        "full_seconds": learned.likely(full),
        "cost_seconds": {str(size): seconds for size, seconds in zip(learned.sizes, learned.seconds, strict=True)},
        "spread": learned.spread,
        "released": {why: count for why, count in zip(REASONS, counts.released, strict=True) if count},
        "queued_seconds": counts.queued_seconds / ran if ran else None,
        "expired": counts.expired,
        "abandoned": counts.abandoned,
        "refused": lane.grounds,
        "runs_in": "process" if lane.apart else "thread",
    }


def quantile(counts: Counters, share: float) -> float | None:
    """Seconds below which `share` of the requests were answered, by linear interpolation inside a bucket, as Prometheus'
    `histogram_quantile` does. None before the first request; the last bound for what lies beyond it."""
    total = sum(counts.latencies)
    if not total:
        return None
    wanted, seen, lower = share * total, 0, 0.0
    for bound, number in zip(LATENCY_BOUNDS, counts.latencies, strict=False):
        if number and seen + number >= wanted:
            return lower + (bound - lower) * (wanted - seen) / number
        seen += number
        lower = bound
    return LATENCY_BOUNDS[-1]


def _sum(parts: list[Counters]) -> Counters:
    total = Counters()
    for part in parts:
        total.add(part)
    return total
