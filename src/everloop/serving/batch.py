"""One batch: the requests that run together, their run, which of them made it fail, and how they are recorded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from everloop.core.errors import EverloopError, ModelFailed
from everloop.core.types import Row
from everloop.policy.batching import sampled, sampled_runs
from everloop.serving.recorder import Recorder, encode_matrix
from everloop.serving.runner import Matrix, Runner
from everloop.serving.tickets import Ticket

if TYPE_CHECKING:
    from everloop.serving.evidence import Tally
    from everloop.serving.split import Arm

Outcome: TypeAlias = "tuple[Matrix, list[Any]] | None"
"""What the model ran on and answered; None if the batch failed as a whole."""


class Batch:
    """Requests on their way through the model: single rows first, then requests of several rows."""

    __slots__ = ("arms", "counts", "detour", "rows", "since", "started", "tickets")

    def __init__(
        self,
        tickets: list[Ticket],
        rows: list[Row],
        counts: list[int] | None,
        arms: list[Arm | None] | None,
        since: float,
    ) -> None:
        self.tickets = tickets
        self.rows = rows
        self.counts = counts
        """Rows of each ticket, 0 for a single row; None if all are single rows."""
        self.arms = arms
        """What a split routed each ticket by; None if none was."""
        self.since = since
        """When the first of them came."""
        self.started = since
        """When it began to run."""
        self.detour = 0.0
        """Seconds of its latency that are not weighed: the way to another process (`serving.remote`)."""

    def run(self, runner: Runner) -> tuple[Outcome, float]:
        """All at once, and the seconds that took."""
        start = self.started = perf_counter()
        try:
            X = runner.matrix(self.rows)
            values = runner.run(X)
            outcome = (X, values) if runner.sound(values) else None
        except EverloopError:
            outcome = None
        return outcome, perf_counter() - start

    def search(self, runner: Runner) -> list[Any]:
        """What each request of a failed batch answers: (matrix, values) or its error. Runs by halves."""
        bounds = list(itertools.accumulate((count or 1 for count in self.each_count()), initial=0))
        found: list[Any] = []

        def search(low: int, high: int) -> None:
            rows = self.rows[bounds[low] : bounds[high]]
            try:
                X = runner.matrix(rows)
                if high - low == 1 and self.counts and self.counts[low]:
                    found.append((X, runner.many(X)))
                    return
                values = runner.run(X)
                if runner.sound(values):
                    for i in range(low, high):
                        part = slice(bounds[i] - bounds[low], bounds[i + 1] - bounds[low])
                        found.append((X[part], values[part]))
                    return
                error = runner.unsound(values[0])
            except EverloopError as raised:
                error = raised if isinstance(raised, ModelFailed) else runner.failed(raised.message)
            if high - low == 1:
                found.append(error)
                return
            middle = (low + high) // 2
            search(low, middle)
            search(middle, high)

        search(0, len(self.tickets))
        return found

    def each_count(self) -> list[int]:
        return self.counts or [0] * len(self.tickets)

    def each_arm(self) -> list[Arm | None]:
        return self.arms or [None] * len(self.tickets)

    def count(self, latency: float) -> None:
        """The evidence of the batch, for whoever routed it: nearly always one arm."""
        if self.arms is None:
            return
        latency -= self.detour
        found: dict[Tally, int] = {}
        for arm in self.arms:
            if arm is not None:
                found[arm.tally] = found.get(arm.tally, 0) + 1
        for tally, requests in found.items():
            tally.settled(requests, latency)


class Recording:
    """Where one batcher's answers are recorded."""

    __slots__ = ("_recorder", "_runner", "_share", "_source")

    def __init__(self, recorder: Recorder, runner: Runner, key: str, share: float) -> None:
        self._recorder = recorder
        self._runner = runner
        self._share = share
        self._source = (runner.model, runner.version, key)

    def put(self, first: int, count: int, X: Matrix, values: list[Any], rows: Sequence[Row]) -> None:
        """`count` 0: single rows, one request each; otherwise one request of `count` rows."""
        recorder, schema = self._recorder, self._runner.schema
        share = 1.0 if recorder.audience.watched(self._runner.model) else self._share
        if share >= 1.0:
            requests, each = (1, count) if count else (len(values), 1)
            recorder.batch(self._source, (first, requests, each), encode_matrix(X, rows, schema), values)
        elif share <= 0.0:
            return
        elif count:
            if sampled(first, share):
                recorder.batch(self._source, (first, 1, count), encode_matrix(X, rows, schema), values)
        else:
            for offset, length in sampled_runs(first, len(values), share):
                part = slice(offset, offset + length)
                encoded = encode_matrix(X[part], rows[part], schema)
                recorder.batch(self._source, (first + offset, length, 1), encoded, values[part])
