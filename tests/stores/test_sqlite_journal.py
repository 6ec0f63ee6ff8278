"""The durable journal's own manners: overload, a store that fails, several processes, closing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from everloop.core.errors import EverloopError, InvalidInput, Overloaded, StoreUnavailable
from everloop.core.events import Event
from everloop.core.types import Label, PredictionRecord, request_id
from everloop.stores.ports import Appended, Checkpoint
from everloop.stores.sqlite import SqliteJournal
from everloop.testing import ManualClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "everloop.db"


@contextmanager
def opened(path: Path, **options: object) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(path, clock=ManualClock(), **options)  # type: ignore[arg-type]
    try:
        yield journal
    finally:
        journal.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the file."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


def label(value: float = 1.0) -> Label:
    return Label("m", value, 0.0, row=[value])


def record(first: int, count: int = 1) -> PredictionRecord:
    features = np.arange(first, first + count, dtype="<f8").tobytes()
    return PredictionRecord("m", 1, "a", first, count, 1, 0.0, "f8", features, [0.0] * count)


class Told:
    """Collects outcomes; `wait` until there are so many."""

    def __init__(self) -> None:
        self.outcomes: list[Appended | EverloopError] = []
        self._some = threading.Condition()

    def __call__(self, outcome: Appended | EverloopError) -> None:
        with self._some:
            self.outcomes.append(outcome)
            self._some.notify_all()

    def wait(self, n: int) -> list[Appended | EverloopError]:
        with self._some:
            assert self._some.wait_for(lambda: len(self.outcomes) >= n, timeout=30)
            return self.outcomes


class TestReopening:
    def test_everything_is_there_again(self, path: Path) -> None:
        with opened(path) as journal:
            journal.record(record(0, 4))
            journal.append_now([Label("m", 1.0, 0.0, request_id=request_id("a", 2))], idempotency_key="k", body="b")
            journal.log(Event("m", "registered", 1.0, "hello"))
            journal.save_checkpoint("m", Checkpoint(1, b"state", 2.0))
            assert journal.acquire_lease("l", "me", now=0.0, ttl=100.0)
            before = (journal.examples("m"), journal.predictions("m"), journal.load_checkpoint("m"))
        with opened(path) as journal:
            assert (journal.examples("m"), journal.predictions("m"), journal.load_checkpoint("m")) == before
            assert journal.events()[0].message == "hello"
            assert not journal.acquire_lease("l", "you", now=1.0, ttl=100.0)
            assert journal.append_now([label()], idempotency_key="k", body="b").duplicate
            assert journal.append_now([Label("m", 1.0, 0.0, request_id=request_id("a", 2))]) == Appended(
                [1], duplicate=True
            )
            assert journal.append_now([Label("m", 1.0, 0.0, request_id=request_id("a", 3))]).outcomes == [2]

    def test_closing_commits_what_is_queued(self, path: Path) -> None:
        told = Told()
        with opened(path) as journal:
            for n in range(500):
                journal.record(record(n))
                journal.append([label()], told)
        assert len(told.outcomes) == 500
        with opened(path) as journal:
            assert journal.examples_total("m") == journal.stats().predictions == 500


class TestLeases:
    def test_those_of_a_killed_process_are_free_at_once(self, path: Path) -> None:
        script = (
            "import sys, os, signal; from pathlib import Path; from everloop.core.clock import SystemClock\n"
            "from everloop.stores.sqlite import SqliteJournal\n"
            "journal = SqliteJournal(Path(sys.argv[1]), clock=SystemClock())\n"
            "for name in 'ab': assert journal.acquire_lease(name, 'killed', now=0.0, ttl=100.0)\n"
            "print(flush=True); sys.stdin.read(1); os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        command = [sys.executable, "-c", script, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            with opened(path) as journal:
                assert not journal.acquire_lease("a", "next", now=1.0, ttl=100.0)
                process.communicate(b"x", timeout=30)
                assert journal.acquire_lease("a", "next", now=1.0, ttl=100.0)
                assert journal.acquire_lease("b", "next", now=1.0, ttl=100.0)
                assert len(list((path.parent / "owners").iterdir())) == 1
        assert list((path.parent / "owners").iterdir()) == []

    def test_those_of_whom_nothing_is_known_have_to_run_out(self, path: Path) -> None:
        with opened(path) as journal:
            assert journal.acquire_lease("a", "far away", now=0.0, ttl=100.0)
            for file in (path.parent / "owners").iterdir():
                file.unlink()
            with opened(path) as other:
                assert not other.acquire_lease("a", "next", now=99.0, ttl=100.0)
                assert other.acquire_lease("a", "next", now=101.0, ttl=100.0)


class TestOverload:
    def test_labels_beyond_the_queue_are_refused_and_harm_nothing(self, path: Path) -> None:
        told = Told()
        with opened(path, queue_size=10) as journal:
            with locked(path):
                for _ in range(10):
                    journal.append([label()], told)
                with pytest.raises(Overloaded, match="at most 10") as refused:
                    journal.append([label()], told)
                assert refused.value.retry_after
                assert journal.stats().pending == 10
            assert all(isinstance(outcome, Appended) for outcome in told.wait(10))
            assert journal.append_now([label()]).outcomes == [11]

    def test_one_append_larger_than_the_queue_is_taken_when_nothing_waits(self, path: Path) -> None:
        with opened(path, queue_size=10) as journal:
            assert len(journal.append_now([label()] * 25).outcomes) == 25

    def test_predictions_beyond_their_bytes_are_dropped_and_counted(self, path: Path) -> None:
        with opened(path, record_bytes=10_000) as journal:
            with locked(path):
                taken = [journal.record(record(n * 50, 50)) for n in range(30)]
            journal.flush()
            assert 5 < sum(taken) < 30
            stats = journal.stats()
            assert (stats.predictions, stats.dropped, stats.pending) == (50 * sum(taken), 30 - sum(taken), 0)
            assert journal.record(record(5000))

    def test_large_groups_are_split_and_stay_in_order(self, path: Path) -> None:
        told = Told()
        with opened(path, queue_size=100_000) as journal:
            with locked(path):
                for n in range(60):
                    journal.append([label(float(n))] * 300, told)
            journal.flush()
            assert [e.label for e in journal.examples("m", limit=20_000)] == [n for n in range(60) for _ in range(300)]
        ids = [id_ for outcome in told.outcomes if isinstance(outcome, Appended) for id_ in outcome.outcomes]
        assert ids == list(range(1, 18_001))


class TestAStoreThatFails:
    def test_a_locked_file_is_told_and_the_journal_lives_on(self, path: Path) -> None:
        with opened(path, busy_timeout=0.05) as journal:
            with locked(path):
                with pytest.raises(StoreUnavailable, match="another program holds it locked"):
                    journal.append_now([label()])
                journal.record(record(0))
                journal.log(Event("m", "drift", 0.0, "kept"))
                with pytest.raises(StoreUnavailable):
                    journal.flush()
                with pytest.raises(StoreUnavailable):
                    journal.save_checkpoint("m", Checkpoint(1, b"", 0.0))
                assert journal.examples("m") == []
            assert journal.append_now([Label("m", 1.0, 0.0, request_id=request_id("a", 0))]).outcomes == [1]
            assert [e.message for e in journal.events()] == ["kept"]
            stats = journal.stats()
            assert (stats.examples, stats.pending, stats.dropped) == (1, 0, 0)

    def test_what_is_left_over_is_written_without_anybody_asking(self, path: Path) -> None:
        with opened(path, busy_timeout=0.01) as journal:
            with locked(path):
                journal.record(record(0))
                with pytest.raises(StoreUnavailable):
                    journal.flush()
            until = threading.Event()
            for _ in range(500):
                if journal.stats().predictions:
                    break
                until.wait(0.02)
            assert journal.stats().predictions == 1

    def test_a_full_disk(self, path: Path) -> None:
        with opened(path) as journal:
            journal.append_now([label()])
            # The page limit belongs to a connection, so it is set where the journal itself writes.
            journal._writer.run(
                lambda c: c.execute(f"PRAGMA max_page_count={c.execute('PRAGMA page_count').fetchone()[0]}")
            )
            big = [Label("m", 1.0, 0.0, row=[1.0] * 4000)] * 10
            with pytest.raises(StoreUnavailable, match="the disk is full; free some space"):
                journal.append_now(big)
            assert journal.count_examples("m") == 1
            assert len(journal.append_now(big).outcomes) == 10  # the connection was opened anew: there is space again

    def test_closing_while_the_store_fails_tells_everybody(self, path: Path) -> None:
        told = Told()
        journal = SqliteJournal(path, clock=ManualClock(), busy_timeout=0.05)
        with locked(path):
            for _ in range(20):
                journal.append([label()] * 600, told)
            journal.record(record(0))
            journal.close()
        assert len(told.outcomes) == 20
        assert all(isinstance(outcome, StoreUnavailable) for outcome in told.outcomes)

    def test_only_the_entry_at_fault_is_refused(self, path: Path) -> None:
        """Something that no check foresaw: here a time that SQLite takes for a missing value."""
        told = Told()
        with opened(path) as journal:
            with locked(path):
                journal.append([label(1.0)], told)
                journal.append([Label("m", 2.0, float("nan"), row=[2.0])], told)
                journal.append([label(3.0)], told)
                journal.record(record(0))
            first, second, third = told.wait(3)
            assert isinstance(second, StoreUnavailable)
            assert isinstance(first, Appended)
            assert isinstance(third, Appended)
            journal.flush()
            assert [e.label for e in journal.examples("m")] == [1.0, 3.0]
            assert journal.stats().predictions == 1

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_callback_that_raises_is_reported_and_harms_no_neighbour(self, path: Path) -> None:
        def broken(outcome: Appended | EverloopError) -> None:
            raise RuntimeError("the callback is broken")

        told = Told()
        with opened(path) as journal:
            journal.append([label()], broken)
            journal.append([label()], told)
            assert told.wait(1) == [Appended([2])]


class TestBadInput:
    @pytest.mark.parametrize("value", [float, {"a": 1, 2: object()}])
    def test_labels_that_cannot_be_kept(self, path: Path, value: object) -> None:
        with opened(path) as journal:
            with pytest.raises(InvalidInput, match="label"):
                journal.append_now([Label("m", value, 0.0, row=[1.0])])  # type: ignore[arg-type]
            with pytest.raises(InvalidInput, match="features"):
                journal.append_now([Label("m", 1.0, 0.0, row=["a", object()])])
            assert journal.append_now([label()]).outcomes == [1]

    def test_events_and_predictions_that_cannot_be_kept(self, path: Path) -> None:
        with opened(path) as journal:
            with pytest.raises(InvalidInput, match="event"):
                journal.log(Event("m", "drift", 0.0, data={"f": object()}))
            with pytest.raises(InvalidInput, match="predictions"):
                journal.record(PredictionRecord("m", 1, "a", 0, 1, 1, 0.0, "f8", b"x" * 8, [object()]))
            with pytest.raises(InvalidInput, match="model"):
                journal.record(PredictionRecord("m\0", 1, "a", 0, 1, 1, 0.0, "f8", b"x" * 8, [1.0]))


def test_a_commit_interval_gathers_a_group(path: Path) -> None:
    told = Told()
    with opened(path, commit_interval=5.0) as journal:  # the clock is a manual one, so nobody really waits
        journal.append([label()], told)
        assert told.wait(1) == [Appended([1])]


def test_retention_shrinks_the_file(path: Path) -> None:
    with opened(path) as journal:
        for n in range(6000):
            journal.record(record(n * 64, 64))
        journal.flush()
        large = journal.stats().bytes
        journal.prune(now=0.0, max_age=None, max_bytes=200_000)
        assert journal.stats().bytes <= 200_000
    assert path.stat().st_size < large // 3
