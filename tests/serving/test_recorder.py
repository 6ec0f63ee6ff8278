"""The recorder: everything that was answered reaches the journal, and nobody waits for it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from everloop.core.schema import Schema
from everloop.core.types import Label, PredictionRecord
from everloop.policy.batching import sampled_runs
from everloop.serving.outbox import Outbox, merged
from everloop.serving.recorder import CHANNEL_ROWS, Recorder


class _Journal:
    def __init__(self) -> None:
        self.records: list[PredictionRecord] = []
        self.arrived = threading.Event()

    def record(self, record: PredictionRecord) -> bool:
        self.records.append(record)
        self.arrived.set()
        return True


def test_a_label_given_right_after_its_prediction_finds_it(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.reconciler.step()
    answer = kit.predictor.predict("m", [4.0])
    kit.recorder.drain()
    done = kit.journal.append_now([Label("m", 4.5, 0.0, request_id=answer.request_id)])
    assert isinstance(done.outcomes[0], int), done.outcomes
    (example,) = kit.journal.examples("m")
    assert (example.row, example.prediction, example.version) == ([4.0], 4.0, 1)


def test_the_thread_brings_predictions_to_the_journal_and_ends_when_stopped(clock: Any) -> None:
    journal = _Journal()
    recorder = Recorder(journal, clock)  # type: ignore[arg-type]
    channel = recorder.channel("m", 3, Schema.unnamed(1), 1.0)
    for value in range(10):
        channel.ring.append(channel.entry(channel, next(channel.numbers), float(value), float(value)))
    assert channel.ring.asleep
    channel.wake()
    assert journal.arrived.wait(10)
    recorder.stop()
    (record,) = journal.records
    assert (record.first, record.count, record.rows, record.version) == (1, 10, 1, 3)
    assert record.predictions == [float(v) for v in range(10)]


def test_a_drain_waits_for_what_the_thread_has_in_hand(clock: Any) -> None:
    taken, go_on = threading.Event(), threading.Event()

    class Slow(_Journal):
        def record(self, record: PredictionRecord) -> bool:
            taken.set()
            assert go_on.wait(10)
            return super().record(record)

    journal = Slow()
    recorder = Recorder(journal, clock)  # type: ignore[arg-type]
    recorder.batch(("m", 1, "k"), (1, 1, 1), ("f8", b"\0" * 8), [1.0])
    assert taken.wait(10)
    drained = threading.Thread(target=recorder.drain)
    drained.start()
    drained.join(0.05)
    assert drained.is_alive(), "the record is in nobody's queue yet"
    go_on.set()
    drained.join(10)
    assert len(journal.records) == 1
    recorder.stop()


def test_predictions_after_stop_wait_for_the_next_drain(clock: Any) -> None:
    journal = _Journal()
    recorder = Recorder(journal, clock)  # type: ignore[arg-type]
    recorder.stop()
    channel = recorder.channel("m", 1, Schema.unnamed(1), 1.0)
    channel.ring.append(channel.entry(channel, next(channel.numbers), 1.0, 1.0))
    channel.wake()
    assert journal.records == []
    recorder.drain()
    assert len(journal.records) == 1


def test_out_of_order_and_missing_numbers_become_as_few_records_as_possible(clock: Any) -> None:
    journal = _Journal()
    recorder = Recorder(journal, clock)  # type: ignore[arg-type]
    recorder.stop()
    channel = recorder.channel("m", 1, Schema.unnamed(1), 1.0)
    for number in (2, 1, 3, 7, 6, 9):
        channel.ring.append(channel.entry(channel, number, float(number), float(number)))
    channel.wake()
    recorder.drain()
    assert [(r.first, r.predictions) for r in journal.records] == [(1, [1.0, 2.0, 3.0]), (6, [6.0, 7.0]), (9, [9.0])]


def test_a_full_channel_keeps_the_newest_and_counts_the_others(clock: Any) -> None:
    journal = _Journal()
    recorder = Recorder(journal, clock)  # type: ignore[arg-type]
    recorder.stop()
    channel = recorder.channel("m", 1, Schema.unnamed(100_000), 1.0)
    most = CHANNEL_ROWS[0]
    assert channel.ring.buffer.maxlen == most, "wide rows get the fewest"
    narrow = recorder.channel("m", 1, Schema.unnamed(1), 1.0)
    for _ in range(CHANNEL_ROWS[1] + 100):
        number = next(narrow.numbers)
        narrow.ring.append(narrow.entry(narrow, number, 0.0, 0.0))
    narrow.wake()
    recorder.drain()
    assert recorder._settle()
    assert recorder.dropped == 100
    assert journal.records[0].first == 101
    assert sum(record.count for record in journal.records) == CHANNEL_ROWS[1]


def test_a_classifiers_answers_are_its_labels(clock: Any) -> None:
    journal = _Journal()
    recorder = Recorder(journal, clock)  # type: ignore[arg-type]
    recorder.stop()
    channel = recorder.channel("m", 1, Schema.unnamed(1), 1.0, ["no", "yes"])
    for place in (1, 0, 1):
        channel.ring.append(channel.entry(channel, next(channel.numbers), place, 0.5))
    channel.wake()
    recorder.drain()
    assert [r.predictions for r in journal.records] == [["yes", "no", "yes"]]


def test_a_broken_journal_is_remembered_and_stops_nobody(clock: Any) -> None:
    class Broken:
        def record(self, record: PredictionRecord) -> bool:
            raise OSError("disk full")

    recorder = Recorder(Broken(), clock)  # type: ignore[arg-type]
    recorder.stop()
    recorder.batch(("m", 1, "k"), (1, 1, 1), ("f8", b"\0" * 8), [1.0])
    recorder.drain()
    assert "disk full" in str(recorder.failure)


def test_everything_of_many_threads_arrives_once(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.reconciler.step()
    ids: list[str] = []

    def predict() -> None:
        ids.extend([kit.predictor.predict("m", [float(i)]).request_id for i in range(2000)])

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        kit.recorder.drain()
    for thread in threads:
        thread.join()
    assert set(kit.recorded()) == set(ids)
    assert len(ids) == 8000


def _record(first: int, count: int = 1, rows: int = 1, key: str = "k", encoding: Any = "f8") -> PredictionRecord:
    values = [float(first + i) for i in range(count * rows)]
    return PredictionRecord("m", 1, key, first, count, rows, 0.0, encoding, b"x" * 8 * len(values), values)


def test_consecutive_batches_of_a_source_become_one_record() -> None:
    records = [
        _record(1),
        _record(1, key="other"),
        _record(2, 3),
        _record(5),
        _record(7),
        _record(8, rows=2),
        _record(9),
    ]
    joined = merged(records)
    assert [(r.lane_key, r.first, r.count, r.rows) for r in joined] == [
        ("k", 1, 5, 1),
        ("other", 1, 1, 1),
        ("k", 7, 1, 1),
        ("k", 8, 1, 2),
        ("k", 9, 1, 1),
    ]
    assert joined[0].predictions == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert len(joined[0].features) == 40


def test_rows_in_msgpack_and_long_runs_are_not_joined() -> None:
    assert len(merged([_record(1, encoding="msgpack"), _record(2, encoding="msgpack")])) == 2
    assert [r.count for r in merged([_record(1, 4000), _record(4001, 96), _record(4097)])] == [4096, 1]


def test_the_outbox_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everloop.serving.outbox.MOST_BYTES", 100)
    outbox = Outbox()
    for first in range(1, 21):
        outbox.put(_record(first))
    assert (len(outbox), outbox.dropped) == (12, 8)
    assert [r.count for r in outbox.take()] == [12]
    outbox.put(_record(100))
    assert len(outbox) == 1


def test_sampled_runs_are_the_sampled_numbers() -> None:
    from everloop.policy.batching import sampled

    found = [1000 + offset + i for offset, length in sampled_runs(1000, 500, 0.3) for i in range(length)]
    assert found == [n for n in range(1000, 1500) if sampled(n, 0.3)]
