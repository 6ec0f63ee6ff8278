"""DECIDE what a shadow may cost: how much of a core, how many rows, how large a batch, and when it has failed too often. Pure.

Rules.

1. A shadow is paid from a purse that fills by `cpu_share` of a second a second, and by `rows_per_second` rows. It may run while
   there is anything in it, and pays afterwards what it took: so it may be in debt for one batch, and then waits that out.
2. The purse holds a second's worth. What was not used is not saved up: it would be spent all at once.
3. A batch is as many rows as should take `batch_seconds`. The first has one row, as has the first after a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from everloop.core.errors import InvalidInput

_GROWTH = 4
"""Times the rows of the last batch that the next one may have."""


@dataclass(frozen=True, slots=True)
class ShadowRules:
    """What a shadow may take, and when it has failed."""

    cpu_share: float = 0.2
    """Of one core, on average: in its own process, and for showing and comparing in this one."""
    niceness: int = 19
    """Of its process: at 19 it runs only where a core would be idle otherwise, or nearly so, and takes long to open on a machine that
    never is."""
    rows_per_second: float = 1000.0
    """Rows that it is shown at most. The others are skipped, and counted."""
    queue_rows: int = 8192
    """Rows that may wait for it; beyond that they are skipped."""
    queue_bytes: int = 32 << 20
    max_age: float = 10.0
    """Seconds after which what waits is skipped: what is compared is today's traffic."""
    batch_rows: int = 256
    """Most rows of one run."""
    batch_seconds: float = 0.02
    """What one run should take."""
    timeout: float = 5.0
    """Seconds of its own after which a run hangs, and its process is killed. Waiting for a core does not count."""
    open_timeout: float = 60.0
    """The same for loading the model."""
    max_failures: int = 5
    """Hangs, crashes and failures to open in a row after which it stays down."""
    memory_bytes: int = 2 << 30
    """Memory that it may take beyond what it has once the model is loaded. Linux only."""
    tolerance: float = 0.01
    """Two numbers agree if they differ by at most this share of the larger one (as `math.isclose`)."""

    def validate(self) -> None:
        """Raises InvalidInput naming the field."""
        if not 0 < self.cpu_share <= 1:
            raise InvalidInput(f"cpu_share: expected more than 0, at most 1, got {self.cpu_share!r}", field="cpu_share")
        for name in ("rows_per_second", "max_age", "batch_seconds", "timeout", "open_timeout"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name}: expected more than 0, got {getattr(self, name)!r}", field=name)
        for name in ("queue_rows", "queue_bytes", "batch_rows", "max_failures", "memory_bytes"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name}: expected at least 1, got {getattr(self, name)!r}", field=name)
        if not 0 <= self.niceness <= 19:
            raise InvalidInput(f"niceness: expected 0 to 19, got {self.niceness!r}", field="niceness")
        if self.tolerance < 0:
            raise InvalidInput(f"tolerance: expected at least 0, got {self.tolerance!r}", field="tolerance")


class Purse(NamedTuple):
    """What a shadow may spend at the moment `at`."""

    at: float
    seconds: float
    rows: float


def full(now: float, rules: ShadowRules) -> Purse:
    return Purse(now, rules.cpu_share, max(1.0, rules.rows_per_second))


def filled(purse: Purse, now: float, rules: ShadowRules) -> Purse:
    """The purse at a later time."""
    passed = max(0.0, now - purse.at)
    most = full(now, rules)
    return Purse(
        now,
        min(most.seconds, purse.seconds + passed * rules.cpu_share),
        min(most.rows, purse.rows + passed * rules.rows_per_second),
    )


def spent(purse: Purse, seconds: float, rows: int = 0) -> Purse:
    return purse._replace(seconds=purse.seconds - seconds, rows=purse.rows - rows)


def wait(purse: Purse, rows: int, rules: ShadowRules) -> float:
    """Seconds until it may run a batch of `rows` rows, or of as many as the purse can hold; 0.0: now."""
    debt = max(0.0, -purse.seconds) / rules.cpu_share
    lacking = min(float(rows), max(1.0, rules.rows_per_second)) - purse.rows
    return max(debt, lacking / rules.rows_per_second, 0.0)


def next_rows(rows: int, seconds: float, rules: ShadowRules) -> int:
    """Of the batch after one of `rows` rows that took `seconds`."""
    fitting = rows * rules.batch_seconds / seconds if seconds > 0 else rules.batch_rows
    return max(1, min(int(fitting), _GROWTH * rows, rules.batch_rows))
