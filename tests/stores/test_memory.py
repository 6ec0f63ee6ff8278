"""The in-memory journal stays within its bounds and never forgets what is not learned."""

from __future__ import annotations

import numpy as np
import pytest

from everloop.core.errors import PredictionNotFound
from everloop.core.events import Event
from everloop.core.types import Label, PredictionRecord, request_id
from everloop.stores.memory import MemoryJournal
from everloop.stores.ports import Checkpoint
from everloop.testing import ManualClock


def record(first: int, count: int = 1, lane: str = "a") -> PredictionRecord:
    features = np.arange(first, first + count, dtype="<f8").tobytes()
    return PredictionRecord("m", 1, lane, first, count, 1, 0.0, "f8", features, [0.0] * count)


def test_predictions_beyond_the_bound_go_oldest_first(clock: ManualClock) -> None:
    journal = MemoryJournal(clock=clock, max_predictions=1000)
    for n in range(5000):
        journal.record(record(n, lane=f"lane{n % 3}"))
        assert journal.stats().predictions <= 1000
    kept = [r.first for _, r in journal.predictions("m", limit=5000)]
    assert kept == list(range(5000 - len(kept), 5000))
    assert len(kept) >= 980
    old, new = journal.append_now([Label("m", 1.0, 0.0, request_id=request_id("lane0", n)) for n in (0, 4998)]).outcomes
    assert isinstance(old, PredictionNotFound)
    assert new == 1


def test_predictions_are_bounded_by_bytes_too(clock: ManualClock) -> None:
    journal = MemoryJournal(clock=clock, max_bytes=100_000)
    for n in range(500):
        journal.record(record(n * 100, 100))
        assert journal.stats().bytes <= 100_000
    assert journal.predictions("m")[-1][1].first == 49_900


def test_learned_examples_beyond_the_bound_go(clock: ManualClock) -> None:
    journal = MemoryJournal(clock=clock, max_examples=100)
    for n in range(300):
        journal.append_now([Label("m", float(n), 0.0, row=[1.0])])
    assert journal.count_examples("m") == 300  # none is learned yet
    journal.save_checkpoint("m", Checkpoint(250, b"", 0.0))
    for n in range(10):
        journal.append_now([Label("m", float(n), 0.0, row=[1.0])])
    assert 90 <= journal.count_examples("m") <= 110
    assert journal.count_examples("m", after=250) == 60
    assert journal.examples_total("m") == 310


def test_a_forgotten_example_takes_its_prediction_along(clock: ManualClock) -> None:
    journal = MemoryJournal(clock=clock, max_examples=10)
    journal.record(record(0, 100))
    for n in range(100):
        label = Label("m", 1.0, 0.0, request_id=request_id("a", n))
        (outcome,) = journal.append_now([label]).outcomes
        if not isinstance(outcome, int):
            assert isinstance(outcome, PredictionNotFound)
            break
        journal.save_checkpoint("m", Checkpoint(outcome, b"", 0.0))
    assert journal.examples_total("m") == n
    assert not any(isinstance(o, int) for o in journal.append_now([Label("m", 1.0, 0.0, request_id="a-0")]).outcomes)


def test_events_and_keys_are_bounded(clock: ManualClock) -> None:
    journal = MemoryJournal(clock=clock, max_events=5, max_keys=5)
    for n in range(10):
        journal.log(Event("m", "drift", float(n)))
        journal.append_now([Label("m", 1.0, 0.0, row=[1.0])], idempotency_key=str(n), body="b")
    assert [e.id for e in journal.events()] == [6, 7, 8, 9, 10]
    assert journal.append_now([Label("m", 1.0, 0.0, row=[1.0])], idempotency_key="9", body="b").duplicate
    assert not journal.append_now([Label("m", 1.0, 0.0, row=[1.0])], idempotency_key="0", body="b").duplicate


@pytest.mark.parametrize("row", [[1.0, None], ["a", 1.0], [2**70, 1.0], []])
def test_rows_come_back_as_copies(clock: ManualClock, row: list[object]) -> None:
    journal = MemoryJournal(clock=clock)
    if row and row[0] == 2**70:
        expected: list[object] = [float(2**70), 1.0]
    else:
        expected = list(row)
    journal.append_now([Label("m", 1.0, 0.0, row=row)])
    row.append("changed by the caller")
    assert journal.examples("m")[0].row == expected
