"""What every journal must do."""

from __future__ import annotations

import threading

import msgspec
import numpy as np
import pytest

from everloop.core.errors import Closed, Conflict, EverloopError, InvalidInput, PredictionNotFound
from everloop.core.events import Event
from everloop.core.types import Label, PredictionRecord, Row, Scalar, request_id
from everloop.stores.ports import Appended, Checkpoint, Journal


def batch(
    first: int = 0,
    count: int = 1,
    rows: int = 1,
    *,
    model: str = "m",
    lane: str = "a0b1",
    encoding: str = "f8",
    at: float = 100.0,
    version: int = 1,
) -> PredictionRecord:
    """Row j of request n has the features [n, j, n + j / 8]; its prediction is n + j / 100."""
    values = [[float(n), float(j), n + j / 8] for n in range(first, first + count) for j in range(rows)]
    if encoding == "msgpack":
        features = msgspec.msgpack.encode([[*v[:2], f"text {v[2]}"] for v in values])
    else:
        features = np.array(values, "<" + encoding).tobytes()
    predictions = [v[0] + v[1] / 100 for v in values]
    return PredictionRecord(model, version, lane, first, count, rows, at, encoding, features, predictions)  # type: ignore[arg-type]


def by_id(number: int, label: Scalar = 1.0, *, index: int = 0, model: str = "m", lane: str = "a0b1") -> Label:
    return Label(model, label, 200.0, request_id=request_id(lane, number), index=index)


def with_row(row: Row, label: Scalar = 1.0, *, model: str = "m", at: float = 200.0, validation: bool = False) -> Label:
    return Label(model, label, at, row=row, validation=validation)


class TestJoin:
    @pytest.mark.parametrize("encoding", ["f4", "f8", "msgpack"])
    @pytest.mark.parametrize(("first", "count", "rows"), [(0, 1, 1), (7, 64, 1), (5, 1, 9), (250, 3, 4)])
    def test_each_label_finds_its_own_row(
        self, journal: Journal, encoding: str, first: int, count: int, rows: int
    ) -> None:
        journal.record(batch(first, count, rows, encoding=encoding, version=3))
        places = [(n, j) for n in range(first, first + count) for j in range(rows)]
        appended = journal.append_now([by_id(n, float(n), index=j) for n, j in reversed(places)])

        assert not appended.duplicate
        examples = journal.examples("m")
        assert [e.id for e in examples] == appended.outcomes
        for example, (n, j) in zip(examples, reversed(places), strict=True):
            third = n + j / 8
            assert example.row == [n, j, f"text {float(third)}" if encoding == "msgpack" else third]
            assert (example.prediction, example.version, example.label) == (n + j / 100, 3, float(n))
            assert (example.request_id, example.index, example.at) == (request_id("a0b1", n), j, 200.0)

    def test_what_was_recorded_before_an_append_is_visible_to_it(self, journal: Journal) -> None:
        for n in range(200):
            journal.record(batch(n))
            assert journal.append_now([by_id(n)]).outcomes == [n + 1]

    def test_lanes_and_gaps_between_records_are_told_apart(self, journal: Journal) -> None:
        journal.record(batch(10, 5))
        journal.record(batch(20, 5))
        journal.record(batch(12, 2, lane="other"))
        outcomes = journal.append_now(
            [by_id(9), by_id(10), by_id(14), by_id(15), by_id(19), by_id(20), by_id(25), by_id(12, lane="other")]
        ).outcomes
        assert [isinstance(o, int) for o in outcomes] == [False, True, True, False, False, True, False, True]
        assert {type(o) for o in outcomes if not isinstance(o, int)} == {PredictionNotFound}

    def test_records_may_arrive_out_of_order(self, journal: Journal) -> None:
        for first in (30, 0, 20, 10):
            journal.record(batch(first, 10))
        appended = journal.append_now([by_id(n, float(n)) for n in range(40)])
        assert [e.row[0] for e in journal.examples("m")] == [float(n) for n in range(40)]
        assert len(set(map(str, appended.outcomes))) == 40

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "nonsense",
            "a0b1-",
            "-1",
            "a0b1-zz",
            "a0b1--1",
            "a0b1-ffffffffffffffffffffff",
            "ä-1",
            "\ud800-1",
            "a\0-1",
        ],
    )
    def test_an_unreadable_request_id_is_not_found(self, journal: Journal, text: str) -> None:
        journal.record(batch())
        (outcome,) = journal.append_now([Label("m", 1.0, 0.0, request_id=text)]).outcomes
        assert isinstance(outcome, PredictionNotFound)
        assert outcome.field == "request_id"

    @pytest.mark.parametrize("index", [2, 3, -1, 2**70])
    def test_an_index_outside_the_request_never_reaches_its_neighbour(self, journal: Journal, index: int) -> None:
        journal.record(batch(0, 3, 2))
        (outcome,) = journal.append_now([by_id(1, index=index)]).outcomes
        assert isinstance(outcome, PredictionNotFound)

    def test_another_models_prediction_is_not_found(self, journal: Journal) -> None:
        journal.record(batch(model="m"))
        (outcome,) = journal.append_now([by_id(0, model="other")]).outcomes
        assert isinstance(outcome, PredictionNotFound)

    def test_a_missing_feature_comes_back_as_none(self, journal: Journal) -> None:
        features = np.array([[1.0, np.nan]], "<f4").tobytes()
        journal.record(PredictionRecord("m", 1, "ab", 0, 1, 1, 0.0, "f4", features, ["yes"]))
        journal.append_now(
            [by_id(0, "no", lane="ab"), with_row([None, 2.0], "yes"), with_row([None, "blue", 3.0], "no")]
        )
        examples = journal.examples("m")
        assert [e.row for e in examples] == [[1.0, None], [None, 2.0], [None, "blue", 3.0]]
        assert [e.prediction for e in examples] == ["yes", None, None]

    @pytest.mark.parametrize("label", [0.1, -1e300, 3, True, False, "spam", "", "Käse \u2713", 2**60])
    def test_labels_keep_value_and_type(self, journal: Journal, label: Scalar) -> None:
        journal.append_now([with_row([1.0], label)])
        (example,) = journal.examples("m")
        assert example.label == label
        assert type(example.label) is type(label)

    @pytest.mark.parametrize("at", [0.0, 1795232827.4079735, 1e-3, 1_000_000.1])
    def test_times_keep_every_bit(self, journal: Journal, at: float) -> None:
        journal.append_now([with_row([1.0], at=at)])
        assert journal.examples("m")[0].at == at


class TestOnce:
    def test_the_same_label_again_is_the_same_example(self, journal: Journal) -> None:
        journal.record(batch(0, 2))
        assert journal.append_now([by_id(0)]) == Appended([1])
        assert journal.append_now([by_id(0)]) == Appended([1], duplicate=True)
        assert journal.append_now([by_id(0), by_id(1)]) == Appended([1, 2])
        assert journal.examples_total("m") == 2

    def test_another_label_is_a_conflict_and_harms_no_neighbour(self, journal: Journal) -> None:
        journal.record(batch(0, 2))
        journal.append_now([by_id(0, 1.0)])
        refused, accepted = journal.append_now([by_id(0, 2.0), by_id(1, 2.0)]).outcomes
        assert isinstance(refused, Conflict)
        assert accepted == 2
        assert [e.label for e in journal.examples("m")] == [1.0, 2.0]

    def test_what_another_model_was_told_is_not_told(self, journal: Journal) -> None:
        """As of an id that nobody has labelled: neither that there is a label, nor which."""
        journal.record(batch(0, 2))
        journal.append_now([by_id(0, 1.0)])
        asked = [msgspec.structs.replace(by_id(i, y), model="other") for i, y in ((0, 1.0), (0, 2.0), (1, 1.0))]
        outcomes = journal.append_now(asked).outcomes
        assert [type(o) for o in outcomes] == [PredictionNotFound] * 3
        assert "1.0" not in str(outcomes[1])
        assert journal.examples_total("other") == 0

    def test_twice_in_one_append(self, journal: Journal) -> None:
        journal.record(batch(0, 2))
        first, again, other = journal.append_now([by_id(0, 1.0), by_id(0, 1.0), by_id(0, 2.0)]).outcomes
        assert first == again == 1
        assert isinstance(other, Conflict)
        assert journal.count_examples("m") == 1

    def test_an_idempotency_key_counts_once(self, journal: Journal) -> None:
        labels = [with_row([1.0]), by_id(9)]
        first = journal.append_now(labels, idempotency_key="k", body="b")
        again = journal.append_now(labels, idempotency_key="k", body="b")
        assert first.outcomes[0] == 1
        assert not first.duplicate
        assert again.duplicate
        assert [str(o) for o in again.outcomes] == [str(o) for o in first.outcomes]
        assert isinstance(again.outcomes[1], PredictionNotFound)
        assert journal.examples_total("m") == 1

    def test_a_key_with_another_body_is_a_conflict(self, journal: Journal) -> None:
        journal.append_now([with_row([1.0])], idempotency_key="k", body="b")
        outcomes = journal.append_now([with_row([2.0]), with_row([3.0])], idempotency_key="k", body="c").outcomes
        assert [type(o) for o in outcomes] == [Conflict, Conflict]
        assert journal.examples_total("m") == 1

    def test_keys_are_scoped_by_model(self, journal: Journal) -> None:
        journal.append_now([with_row([1.0])], idempotency_key="k", body="b")
        assert not journal.append_now([with_row([1.0], model="n")], idempotency_key="k", body="b").duplicate

    def test_a_key_of_which_nothing_was_accepted_may_be_used_again(self, journal: Journal) -> None:
        journal.append_now([by_id(0)], idempotency_key="k", body="b")
        journal.record(batch())
        assert journal.append_now([by_id(0)], idempotency_key="k", body="b") == Appended([1])

    def test_keys_with_any_text(self, journal: Journal) -> None:
        for key in ("'; DROP TABLE keys; --", '{"a": [1]}', "ключ", "k" * 5000):
            assert not journal.append_now([with_row([1.0])], idempotency_key=key, body="b").duplicate
            assert journal.append_now([with_row([1.0])], idempotency_key=key, body="b").duplicate

    @pytest.mark.parametrize("key", ["a\0b", "\ud800"])
    def test_keys_that_cannot_be_kept_are_refused(self, journal: Journal, key: str) -> None:
        with pytest.raises(InvalidInput, match="Idempotency-Key"):
            journal.append_now([with_row([1.0])], idempotency_key=key, body="b")

    def test_from_many_threads(self, journal: Journal) -> None:
        """Eight threads send the same labels, by id and by key; each counts once, for whichever came first."""
        journal.record(batch(0, 50))
        ids: list[list[int | EverloopError]] = []

        def send() -> None:
            mine: list[int | EverloopError] = []
            for n in range(50):
                mine += journal.append_now([by_id(n)]).outcomes
                mine += journal.append_now([with_row([float(n)])], idempotency_key=str(n), body="b").outcomes
            ids.append(mine)

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(ids) == 8
        assert all(mine == ids[0] for mine in ids)
        assert journal.examples_total("m") == 100


class TestInput:
    @pytest.mark.parametrize("label", [Label("m", 1.0, 0.0), Label("m", 1.0, 0.0, request_id="a-1", row=[1.0])])
    def test_a_label_comes_by_id_or_with_its_row(self, journal: Journal, label: Label) -> None:
        with pytest.raises(InvalidInput, match="request_id"):
            journal.append_now([label])

    @pytest.mark.parametrize(
        "record",
        [
            PredictionRecord("m", 1, "a", 0, 0, 1, 0.0, "f8", b"", []),
            PredictionRecord("m", 1, "a", -1, 1, 1, 0.0, "f8", b"x" * 8, [1.0]),
            PredictionRecord("m", 1, "a", 0, 2, 1, 0.0, "f8", b"x" * 16, [1.0]),
            PredictionRecord("m", 1, "a", 0, 2, 1, 0.0, "f8", b"x" * 12, [1.0, 2.0]),
        ],
    )
    def test_a_record_whose_parts_do_not_fit_is_refused(self, journal: Journal, record: PredictionRecord) -> None:
        with pytest.raises(InvalidInput):
            journal.record(record)

    def test_no_labels(self, journal: Journal) -> None:
        assert journal.append_now([], idempotency_key="k", body="b") == Appended([])

    def test_done_is_called_once(self, journal: Journal) -> None:
        called = threading.Event()
        told: list[Appended | EverloopError] = []

        def done(outcome: Appended | EverloopError) -> None:
            told.append(outcome)
            called.set()

        journal.append([with_row([1.0])], done)
        assert called.wait(10)
        journal.flush()
        assert told == [Appended([1])]


class TestReading:
    def test_examples_by_id(self, journal: Journal) -> None:
        for n in range(10):
            journal.append_now([with_row([float(n)], model="m" if n % 2 else "n", validation=n > 6)])
        assert [e.id for e in journal.examples("m")] == [2, 4, 6, 8, 10]
        assert [e.id for e in journal.examples("m", after=4, limit=2)] == [6, 8]
        assert [e.id for e in journal.examples("m", limit=2, latest=True)] == [8, 10]
        assert [e.id for e in journal.examples("m", after=8, limit=3, latest=True)] == [10]
        assert [e.validation for e in journal.examples("m")] == [False, False, False, True, True]
        assert journal.examples("m", limit=0) == journal.examples("unknown") == []
        assert journal.count_examples("m", after=4) == 3
        assert journal.examples_total("n") == 5
        assert journal.examples_total("unknown") == 0

    def test_predictions_come_back_whole(self, journal: Journal) -> None:
        records = [batch(0, 3, 2), batch(3, 1, 2, encoding="msgpack"), batch(0, 2, model="n", lane="c", encoding="f4")]
        records[1] = msgspec.structs.replace(records[1], shadow=True)
        for record in records:
            journal.record(record)
        journal.flush()
        assert [r for _, r in journal.predictions("m")] == records[:2]
        (first, _), (second, _) = journal.predictions("m")
        assert journal.predictions("m", after=first) == [(second, records[1])]
        assert journal.stats().predictions == 10

    def test_events(self, journal: Journal) -> None:
        for n in range(6):
            journal.log(
                Event("m" if n % 2 else "n", "drift", float(n), f"event {n}", n, {"n": n, "list": [1.5, None, "ä"]})
            )
        journal.flush()
        assert [e.id for e in journal.events()] == [1, 2, 3, 4, 5, 6]
        assert [e.version for e in journal.events(model="m", after=2, limit=1)] == [3]
        assert [e.id for e in journal.events(limit=2, latest=True)] == [5, 6]
        assert journal.events(model="n")[0] == Event(
            "n", "drift", 0.0, "event 0", 0, {"n": 0, "list": [1.5, None, "ä"]}, 1
        )

    def test_stats(self, journal: Journal) -> None:
        journal.record(batch(0, 4, 2))
        journal.append_now([by_id(0), with_row([1.0])])
        journal.log(Event("m", "registered", 1.0))
        journal.flush()
        stats = journal.stats()
        assert (stats.predictions, stats.examples, stats.events, stats.dropped, stats.pending) == (8, 2, 1, 0, 0)
        assert stats.bytes > 0


class TestLearnersMemory:
    def test_checkpoints(self, journal: Journal) -> None:
        assert journal.load_checkpoint("m") is None
        for n in range(3):
            checkpoint = Checkpoint(n, bytes([n]) * 100_000, float(n))
            journal.save_checkpoint("m", checkpoint)
            assert journal.load_checkpoint("m") == checkpoint
        assert journal.load_checkpoint("n") is None

    def test_a_lease_is_held_by_one_owner_until_it_runs_out(self, journal: Journal) -> None:
        assert journal.acquire_lease("learner:m", "a", now=0.0, ttl=10.0)
        assert not journal.acquire_lease("learner:m", "b", now=9.9, ttl=10.0)
        assert journal.acquire_lease("learner:m", "a", now=9.9, ttl=10.0)
        assert not journal.acquire_lease("learner:m", "b", now=15.0, ttl=10.0)
        assert journal.acquire_lease("learner:m", "b", now=19.9, ttl=10.0)
        assert not journal.acquire_lease("learner:m", "a", now=20.0, ttl=10.0)

    def test_a_lease_is_released_by_its_owner_only(self, journal: Journal) -> None:
        assert journal.acquire_lease("l", "a", now=0.0, ttl=10.0)
        journal.release_lease("l", "b")
        assert not journal.acquire_lease("l", "b", now=1.0, ttl=10.0)
        journal.release_lease("l", "a")
        journal.release_lease("unknown", "a")
        assert journal.acquire_lease("l", "b", now=1.0, ttl=10.0)


class TestForgetting:
    def test_by_age(self, journal: Journal) -> None:
        for n in range(10):
            journal.record(batch(n, at=float(n)))
            journal.append_now(
                [Label("m", 1.0, float(n), request_id=request_id("a0b1", n))], idempotency_key=f"k{n}", body="b"
            )
            journal.log(Event("m", "drift", float(n)))
        journal.save_checkpoint("m", Checkpoint(8, b"", 0.0))
        journal.flush()

        assert journal.prune(now=105.0, max_age=100.0, max_bytes=None) == 15
        assert [r.at for _, r in journal.predictions("m")] == [5.0, 6.0, 7.0, 8.0, 9.0]
        assert [e.id for e in journal.examples("m")] == [6, 7, 8, 9, 10]
        assert [e.at for e in journal.events()] == [5.0, 6.0, 7.0, 8.0, 9.0]
        assert journal.examples_total("m") == 10
        assert journal.stats().predictions == journal.stats().examples == journal.stats().events == 5

    def test_an_unlearned_example_stays(self, journal: Journal) -> None:
        journal.append_now([with_row([float(n)], at=0.0, model="m") for n in range(5)])
        journal.append_now([with_row([float(n)], at=0.0, model="n") for n in range(5)])
        journal.save_checkpoint("m", Checkpoint(2, b"", 0.0))
        assert journal.prune(now=1e9, max_age=1.0, max_bytes=1) == 2
        assert [e.id for e in journal.examples("m")] == [3, 4, 5]
        assert journal.count_examples("n") == 5

    def test_by_size_the_oldest_go(self, journal: Journal) -> None:
        for n in range(1500):
            journal.record(batch(n * 64, 64, at=float(n)))
        labels = [Label("m", 1.0, n + 0.5, request_id=request_id("a0b1", n * 64)) for n in range(1500)]
        journal.append_now(labels)
        journal.save_checkpoint("m", Checkpoint(1400, b"", 0.0))
        before = journal.stats()
        assert journal.prune(now=0.0, max_age=None, max_bytes=before.bytes // 2) > 0
        after = journal.stats()
        assert after.bytes <= before.bytes // 2
        predictions, examples = journal.predictions("m", limit=5000), journal.examples("m", limit=5000)
        assert 0 < len(predictions) < 1500
        assert 100 <= len(examples) < 1500
        assert predictions[-1][1].at == 1499.0
        assert examples[-1].id == 1500
        assert abs(predictions[0][1].at - examples[0].at) < 400  # both kinds lost what was oldest
        assert journal.prune(now=0.0, max_age=None, max_bytes=before.bytes // 2) == 0

    def test_a_forgotten_example_never_counts_twice(self, journal: Journal) -> None:
        """The label was late and dated early: the prediction must go with its example."""
        journal.record(batch(0, at=500.0))
        journal.append_now([Label("m", 1.0, 1.0, request_id=request_id("a0b1", 0))])
        journal.save_checkpoint("m", Checkpoint(1, b"", 0.0))
        journal.prune(now=502.0, max_age=100.0, max_bytes=None)
        assert journal.examples("m") == []
        (outcome,) = journal.append_now([by_id(0)]).outcomes
        assert isinstance(outcome, PredictionNotFound)

    def test_ids_go_on_after_everything_was_forgotten(self, journal: Journal) -> None:
        journal.append_now([with_row([1.0])])
        journal.save_checkpoint("m", Checkpoint(1, b"", 0.0))
        journal.prune(now=1e9, max_age=1.0, max_bytes=None)
        assert journal.append_now([with_row([1.0])]).outcomes == [2]

    def test_keys_are_forgotten_with_age(self, journal: Journal) -> None:
        journal.append_now([with_row([1.0])], idempotency_key="k", body="b")
        journal.prune(now=1_000_000.0 + 50, max_age=100.0, max_bytes=None)
        assert journal.append_now([with_row([1.0])], idempotency_key="k", body="b").duplicate
        journal.prune(now=1_000_000.0 + 200, max_age=100.0, max_bytes=None)
        assert not journal.append_now([with_row([1.0])], idempotency_key="k", body="b").duplicate

    def test_a_forgotten_model_leaves_its_events(self, journal: Journal) -> None:
        for model, lane in (("m", "aa"), ("n", "bb")):
            journal.record(batch(0, 2, model=model, lane=lane))
            journal.append_now([by_id(0, model=model, lane=lane)], idempotency_key="k", body="b")
            journal.save_checkpoint(model, Checkpoint(1, b"", 0.0))
            journal.log(Event(model, "registered", 0.0))
        journal.forget_model("m")
        assert journal.examples("m") == journal.predictions("m") == []
        assert journal.examples_total("m") == 0
        assert journal.load_checkpoint("m") is None
        assert len(journal.events(model="m")) == 1
        assert isinstance(journal.append_now([by_id(0, lane="aa")]).outcomes[0], PredictionNotFound)
        assert not journal.append_now([with_row([1.0])], idempotency_key="k", body="b").duplicate
        assert journal.count_examples("n") == 1
        assert journal.append_now([by_id(0, model="n", lane="bb")]).duplicate


def test_closing(journal: Journal) -> None:
    journal.append_now([with_row([1.0])])
    journal.close()
    journal.close()
    with pytest.raises(Closed):
        journal.append_now([with_row([1.0])])
    with pytest.raises(Closed):
        journal.record(batch())
    with pytest.raises(Closed):
        journal.log(Event("m", "drift", 0.0))
