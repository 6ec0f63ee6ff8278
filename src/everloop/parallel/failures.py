"""What becomes of an item that failed: another try, or an end by `on_error`. It is told to the report, the hooks and the dead letters."""

from __future__ import annotations

import random

from everloop.core.clock import Clock
from everloop.core.errors import NotPicklable
from everloop.parallel.deadletter import DeadLetters, short_repr
from everloop.parallel.hooks import ItemError
from everloop.parallel.options import RunOptions
from everloop.parallel.report import RunReport
from everloop.parallel.retrying import wait_before, worth_another_try
from everloop.parallel.telemetry import Announcer
from everloop.parallel.work import ItemFailure

KEPT = 100
"""Failures that the report lists."""


class Failures:
    def __init__(
        self,
        options: RunOptions,
        report: RunReport,
        clock: Clock,
        *,
        announcer: Announcer,
        label: str,
        rng: random.Random | None = None,
    ) -> None:
        self._options = options
        self._report = report
        self._announcer = announcer
        self._label = label
        self._clock = clock
        self._rng = rng
        self._letters = DeadLetters(options.dead_letter, label) if options.dead_letter is not None else None

    def wait_for_retry(self, failure: ItemFailure) -> float | None:
        """Seconds before its next try; None where it has failed for good, which is then also written down."""
        if not isinstance(failure.error, NotPicklable) and worth_another_try(
            self._options, failure.error, failure.attempts
        ):
            wait = self.pause(failure.attempts)
            self._report.retries += 1
            self._tell(failure, wait)
            return wait
        self.give_up(failure)
        return None

    def give_up(self, failure: ItemFailure) -> None:
        """It failed for good."""
        self._report.failed += 1
        self._tell(failure, None)
        if self._options.on_error == "raise":
            note = f"item {failure.index}: {short_repr(failure.item)}"
            if note not in getattr(failure.error, "__notes__", ()):
                failure.error.add_note(note)
            return
        if len(self._report.failures) < KEPT:
            self._report.failures.append(failure)
        if self._letters is not None:
            self._letters.add(failure, self._clock.now())

    def pause(self, times: int) -> float:
        """Seconds to wait after something has failed `times` times."""
        if self._rng is None:
            self._rng = random.Random()  # noqa: S311 - it spreads retries, it keeps no secret
        return wait_before(self._options, times, self._rng)

    def close(self) -> None:
        if self._letters is not None:
            self._letters.close()

    def _tell(self, failure: ItemFailure, wait: float | None) -> None:
        if self._announcer:
            self._announcer.tell("on_item_error", ItemError(self._label, failure, wait is not None, wait or 0.0))
