"""What the watch on inputs counts: each row that was asked once, whoever else was shown it."""

from __future__ import annotations

import numpy as np

from everloop.core.schema import Schema
from everloop.core.types import PredictionRecord
from everloop.learning.inputs import LOOK_EVERY, OWN_REFERENCE, InputWatch
from everloop.stores.memory import MemoryJournal
from everloop.testing import ManualClock

ROWS = 200


def recorded(journal: MemoryJournal, clock: ManualClock, mean: float, *, shadow: bool, seed: int = 0) -> None:
    features = np.random.default_rng(seed).normal(mean, 1.0, size=(ROWS, 2)).astype("<f8").tobytes()
    lane = "shadow" if shadow else "live"
    journal.record(PredictionRecord("m", 1, lane, 0, ROWS, 1, clock.now(), "f8", features, [0.0] * ROWS, shadow))


def drifted(clock: ManualClock, *, shadow: bool) -> bool:
    """Whether rows that move far away are noticed."""
    journal = MemoryJournal(clock=clock)
    watch = InputWatch("m", Schema.unnamed(2), journal, clock)
    for n in range(OWN_REFERENCE // ROWS):
        recorded(journal, clock, 0.0, shadow=False, seed=n)
    noticed = False
    for n in range(20):
        clock.advance(LOOK_EVERY)
        noticed = watch.step() is not None or noticed
        recorded(journal, clock, 10.0, shadow=shadow, seed=100 + n)
    return noticed


def test_rows_that_a_shadow_was_shown_do_not_count(clock: ManualClock) -> None:
    assert drifted(clock, shadow=False)
    assert not drifted(clock, shadow=True)
