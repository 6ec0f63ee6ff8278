"""One batch: the requests that run together, their run, and which of them made it fail."""

from __future__ import annotations

import itertools
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from everloop.core.errors import EverloopError
from everloop.serving.tickets import Ticket
from everloop.serving.work import Work, told

if TYPE_CHECKING:
    from everloop.serving.evidence import Tally
    from everloop.serving.split import Arm

Outcome: TypeAlias = "tuple[Any, Any] | None"
"""What the model ran on and answered; None if the batch failed as a whole."""


class Found(NamedTuple):
    """One request's part of a run."""

    inputs: Any
    answers: Any
    start: int
    stop: int


class Batch:
    """Requests on their way through the model: single rows first, then requests of several rows."""

    __slots__ = ("arms", "counts", "detour", "ended", "payloads", "rows", "started", "tickets", "times")

    def __init__(
        self,
        tickets: list[Ticket],
        payloads: list[Any],
        counts: list[int] | None,
        arms: list[Arm | None] | None,
        times: list[float],
    ) -> None:
        self.tickets = tickets
        self.payloads = payloads
        self.counts = counts
        """Rows of each ticket, 0 for a single row; None if all are single rows."""
        self.arms = arms
        """What a split routed each ticket by; None if none was."""
        self.times = times
        """When each of them came."""
        self.rows = len(tickets) if counts is None else sum(count or 1 for count in counts)
        self.started = 0.0
        """When it began to run."""
        self.detour = 0.0
        """Seconds of its latency that are not weighed: the way to another process (`serving.remote`), and to a thread and back."""
        self.ended = 0.0
        """When its thread was done with it."""

    @property
    def since(self) -> float:
        """When the first of them came."""
        return min(self.times) if self.counts is not None else self.times[0]

    def run(self, work: Work) -> tuple[Outcome, float]:
        """All at once, and the seconds that took."""
        start = self.started = perf_counter()
        try:
            inputs = work.gather(self.payloads, self.counts)
            answers = work.run(inputs)
            outcome = (inputs, answers) if work.sound(answers) else None
        except EverloopError:
            outcome = None
        return outcome, perf_counter() - start

    def search(self, work: Work) -> list[Found | EverloopError]:
        """What each request of a failed batch answers, or its error. Runs by halves."""
        bounds = self.bounds()
        found: list[Found | EverloopError] = []

        def search(low: int, high: int) -> None:
            raised: EverloopError | None = None
            counts = self.counts[low:high] if self.counts else None
            try:
                inputs = work.gather(self.payloads[low:high], counts)
                answers = work.run(inputs)
                if work.sound(answers):
                    first = bounds[low]
                    found.extend(
                        Found(inputs, answers, bounds[i] - first, bounds[i + 1] - first) for i in range(low, high)
                    )
                    return
            except EverloopError as error:
                raised = told(work, error)
            if high - low == 1:
                count = counts[0] if counts else 0
                if raised is None or count:
                    raised = work.blame(self.payloads[low], count) or raised
                found.append(raised or work.failed("it failed on this input, and does no longer"))
                return
            middle = (low + high) // 2
            search(low, middle)
            search(middle, high)

        search(0, len(self.tickets))
        return found

    def bounds(self) -> list[int]:
        """Where the rows of each request begin, and where the last one's end."""
        return list(itertools.accumulate((count or 1 for count in self.each_count()), initial=0))

    def each_count(self) -> list[int]:
        return self.counts or [0] * len(self.tickets)

    def each_arm(self) -> list[Arm | None]:
        return self.arms or [None] * len(self.tickets)

    def count(self, latency: float) -> None:
        """The evidence of the batch, for whoever routed it: nearly always one arm."""
        if self.arms is None:
            return
        latency -= self.detour
        tallies: dict[Tally, int] = {}
        for arm in self.arms:
            if arm is not None:
                tallies[arm.tally] = tallies.get(arm.tally, 0) + 1
        for tally, requests in tallies.items():
            tally.settled(requests, latency)
