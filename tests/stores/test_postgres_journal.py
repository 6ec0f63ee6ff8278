"""What the PostgreSQL journal and catalog add to the contracts: lost connections, a server that is away, a bounded pool."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.postgres import Server

from everloop.core.errors import Closed, EverloopError, StoreUnavailable
from everloop.core.events import Event
from everloop.core.types import Label, PredictionRecord, request_id
from everloop.stores.ports import Appended, Checkpoint, ModelRecord
from everloop.stores.postgres import PostgresCatalog, PostgresJournal
from everloop.testing import ManualClock

KILL = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'everloop'"


@contextmanager
def opened(url: str, **options: object) -> Iterator[PostgresJournal]:
    journal = PostgresJournal(url, clock=ManualClock(), **options)  # type: ignore[arg-type]
    try:
        yield journal
    finally:
        journal.close()


def label(value: float = 1.0) -> Label:
    return Label("m", value, 0.0, row=[value])


def record(first: int, count: int = 1) -> PredictionRecord:
    features = np.arange(first, first + count, dtype="<f8").tobytes()
    return PredictionRecord("m", 1, "a", first, count, 1, 0.0, "f8", features, [0.0] * count)


def renamed(catalog: PostgresCatalog, kind: str) -> str:
    """A change of the model `m`; what is there afterwards."""
    with catalog.change("m") as shelf:
        shelf.put_model(msgspec.structs.replace(shelf.model, kind=kind))
    return catalog.get_model("m").kind


class TestLostConnections:
    def test_idle_ones_that_were_lost_are_replaced_unnoticed(self, postgres: str, postgres_server: Server) -> None:
        with opened(postgres) as journal:
            catalog = PostgresCatalog(postgres)
            journal.append_now([label(1.0)])
            assert journal.count_examples("m") == 1
            catalog.create_model(ModelRecord("m", "linear", 1.0))
            for turn in range(2, 5):
                postgres_server.execute(KILL)
                assert journal.append_now([label()]).outcomes == [turn]
                assert journal.count_examples("m") == turn
                assert journal.acquire_lease("l", "me", now=0.0, ttl=10.0)
                assert renamed(catalog, f"kind {turn}") == f"kind {turn}"
                assert journal.stats().failure == ""
            catalog.close()

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
    def test_a_server_that_is_away_is_told_and_all_works_when_it_is_back(
        self, postgres: str, postgres_server: Server, how: signal.Signals
    ) -> None:
        with opened(postgres) as journal:
            catalog = PostgresCatalog(postgres)
            catalog.create_model(ModelRecord("m", "linear", 1.0))
            journal.record(record(0))
            journal.append_now([Label("m", 1.0, 0.0, request_id=request_id("a", 0))], idempotency_key="k", body="b")
            postgres_server.stop(how)
            try:
                journal.record(record(1))
                journal.log(Event("m", "drift", 0.0, "kept"))
                for act in (
                    lambda: journal.append_now([label()]),
                    lambda: journal.examples("m"),
                    lambda: journal.acquire_lease("l", "me", now=0.0, ttl=1.0),
                    lambda: journal.save_checkpoint("m", Checkpoint(1, b"", 0.0)),
                    journal.flush,
                    catalog.revision,
                    lambda: renamed(catalog, "ridge"),
                ):
                    with pytest.raises(StoreUnavailable, match="PostgreSQL database 'test_"):
                        act()
            finally:
                postgres_server.start()
            again = journal.append_now(
                [Label("m", 1.0, 0.0, request_id=request_id("a", 0))], idempotency_key="k", body="b"
            )
            assert again == Appended([1], duplicate=True)
            assert journal.append_now([Label("m", 1.0, 0.0, request_id=request_id("a", 1))]).outcomes == [2]
            journal.flush()
            assert [event.message for event in journal.events()] == ["kept"]
            assert [r.first for _, r in journal.predictions("m")] == [0, 1]
            assert renamed(catalog, "ridge") == "ridge"
            assert journal.stats().failure == ""
            catalog.close()

    @pytest.mark.parametrize("lost", ["before", "after"])
    def test_a_commit_whose_answer_is_lost_is_looked_up(self, postgres: str, lost: str) -> None:
        """The connection breaks in the COMMIT itself, before or after the server has done it: either way it happens once."""
        with Wire(postgres) as wire, opened(wire.url) as journal:
            journal.append_now([label(1.0)])
            wire.cut(lost)
            journal.log(Event("m", "drift", 0.0, "once"))
            assert journal.append_now([label(2.0)]).outcomes == [2]
            journal.flush()
            assert wire.cuts == 1
            assert [e.label for e in journal.examples("m")] == [1.0, 2.0]
            assert [event.message for event in journal.events()] == ["once"]

    def test_a_change_that_is_cut_off_leaves_nothing(self, postgres: str, postgres_server: Server) -> None:
        catalog = PostgresCatalog(postgres)
        catalog.create_model(ModelRecord("m", "linear", 1.0))
        before = catalog.revision()

        def cut_off() -> None:
            with catalog.change("m") as shelf:
                shelf.put_model(ModelRecord("m", "ridge", 1.0))
                shelf.log(Event("m", "noted", 0.0))
                postgres_server.execute(KILL)

        with pytest.raises(StoreUnavailable):
            cut_off()
        assert (catalog.get_model("m").kind, catalog.revision()) == ("linear", before)
        with opened(postgres) as journal:
            assert journal.events() == []
        catalog.close()

    def test_closing_while_the_server_is_away_tells_everybody(self, postgres: str, postgres_server: Server) -> None:
        told: list[Appended | EverloopError] = []
        journal = PostgresJournal(postgres, clock=ManualClock())
        postgres_server.stop()
        try:
            for _ in range(20):
                journal.append([label()] * 600, told.append)
            journal.record(record(0))
            journal.close()
        finally:
            postgres_server.start()
        assert len(told) == 20
        assert all(isinstance(outcome, StoreUnavailable) for outcome in told)
        with pytest.raises(Closed):
            journal.examples("m")


def test_only_the_entry_at_fault_is_refused(postgres: str) -> None:
    """Something that no check foresaw: here a version beyond 64 bits."""
    with opened(postgres, commit_interval=1.0) as journal:
        journal.record(PredictionRecord("m", 2**70, "a", 0, 1, 1, 0.0, "f8", b"x" * 8, [0.0]))
        journal.record(record(1))
        assert journal.append_now([label()]).outcomes == [1]
        journal.flush()
        assert [r.first for _, r in journal.predictions("m")] == [1]
        stats = journal.stats()
        assert (stats.predictions, stats.dropped, stats.pending) == (1, 1, 0)


def test_the_pool_is_bounded(postgres: str, postgres_server: Server) -> None:
    with opened(postgres) as journal:
        most: list[int] = []

        def read() -> None:
            for _ in range(20):
                journal.examples("m")

        threads = [threading.Thread(target=read) for _ in range(16)]
        for thread in threads:
            thread.start()
        counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'everloop'"
        while any(thread.is_alive() for thread in threads):
            most.append(postgres_server.execute(counted)[0][0])
        for thread in threads:
            thread.join(60)
        assert max(most) <= 1 + 4 + 1  # the writer, the pool, and one that the server has not yet seen go


def test_totals_and_sizes_are_those_of_the_tables(postgres: str, postgres_server: Server) -> None:
    with opened(postgres) as journal:
        for n in range(30):
            journal.record(record(n * 10, 10))
            journal.log(Event("m", "drift", float(n), "x" * n))
        journal.append_now([Label("m", 1.0, float(n), request_id=request_id("a", n)) for n in range(100)])
        journal.save_checkpoint("m", Checkpoint(50, b"", 0.0))
        journal.prune(now=40.0, max_age=15.0, max_bytes=None)
        journal.forget_model("nobody")
        stats = journal.stats()
        predictions, examples, events, *sizes = (
            int(postgres_server.execute(f"SELECT coalesce({what}, 0) FROM everloop.{table}", postgres)[0][0])
            for what, table in (
                ("sum(count * rows)", "predictions"),
                ("count(*)", "examples"),
                ("count(*)", "events"),
                ("sum(everloop.prediction_size(predictions))", "predictions"),
                ("sum(everloop.example_size(examples))", "examples"),
                ("sum(everloop.event_size(events))", "events"),
            )
        )
        assert (stats.predictions, stats.examples, stats.events, stats.bytes) == (
            predictions,
            examples,
            events,
            sum(sizes),
        )
        assert 0 < stats.examples < 100


class Wire:
    """Between a client and the server: cuts the connection when the client says COMMIT, before or after the server hears it."""

    def __init__(self, url: str) -> None:
        head, _, folder = url.partition("?host=")
        self._server = f"{folder}/.s.PGSQL.5432"
        self._folder = Path(folder) / "wire"
        self._folder.mkdir(exist_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self.url = f"{head}?host={self._folder}"
        self.cuts = 0
        self._cut = ""
        self._deaf: socket.socket | None = None
        """What this server says next, nobody hears."""
        self._said = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def cut(self, when: str) -> None:
        self._cut = when

    def __enter__(self) -> Wire:
        self._listener.bind(str(self._folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._go(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            _end(each)
        for thread in self._threads:
            thread.join(30)
        (self._folder / ".s.PGSQL.5432").unlink()

    def _go(self, target: object, *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args))  # type: ignore[arg-type]
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._sockets += [client, server]
            self._go(self._forth, client, server)
            self._go(self._back, client, server)

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if self._cut and b"COMMIT" in data:
                    when, self._cut = self._cut, ""
                    self.cuts += 1
                    if when == "after":
                        self._deaf = server
                        server.sendall(data)
                        self._said.wait(30)
                    break
                server.sendall(data)
        _end(client)
        _end(server)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if self._deaf is server:
                    self._deaf = None
                    self._said.set()
                    continue
                client.sendall(data)
        _end(client)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
