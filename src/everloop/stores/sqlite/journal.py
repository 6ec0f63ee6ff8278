"""The durable journal: SQLite, one writer thread, group commit. See `group`, `reads`, `owners`, and `stores.writer`."""

from __future__ import annotations

from pathlib import Path
from sqlite3 import Connection

from everloop.core.clock import Clock
from everloop.stores.joining import storable
from everloop.stores.ports import Checkpoint
from everloop.stores.retention import forget_model, prune_age, prune_bytes
from everloop.stores.sqlite.file import prepare
from everloop.stores.sqlite.group import SqliteBackend
from everloop.stores.sqlite.owners import Owners
from everloop.stores.sqlite.reads import Reader
from everloop.stores.sqlite.space import give_back, used_bytes
from everloop.stores.writer import Writer
from everloop.stores.written import WrittenJournal


class SqliteJournal(WrittenJournal[Connection]):
    """The `Journal` port in a file."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        queue_size: int = 100_000,
        record_bytes: int = 64 << 20,
        commit_interval: float = 0.0,
        busy_timeout: float = 5.0,
    ) -> None:
        """`queue_size` bounds the labels that wait to be written, `record_bytes` the predictions. `commit_interval`: seconds
        to wait for more before each commit, trading latency for fewer flushes. `busy_timeout`: seconds to wait for
        another process that writes. Raises StoreUnavailable for a file that is foreign, damaged or from the future."""
        path = Path(path)
        prepare(path, busy_timeout=busy_timeout)
        writer = Writer(
            SqliteBackend(path, busy_timeout=busy_timeout),
            clock=clock,
            queue_size=queue_size,
            record_bytes=record_bytes,
            commit_interval=commit_interval,
        )
        super().__init__(clock, writer, Reader(path, busy_timeout=busy_timeout))
        self._owners = Owners(path.parent / "owners")

    def save_checkpoint(self, model: str, checkpoint: Checkpoint) -> None:
        values = (storable(model, "model"), checkpoint.cursor, checkpoint.at, checkpoint.state)
        self._writer.run(
            lambda c: c.execute(
                "INSERT OR REPLACE INTO checkpoints (model, cursor, at, state) VALUES (?, ?, ?, ?)", values
            )
        )

    def acquire_lease(self, name: str, owner: str, *, now: float, ttl: float) -> bool:
        def acquire(connection: Connection) -> bool:
            held = connection.execute("SELECT owner, until FROM leases WHERE name = ?", (name,)).fetchone()
            if held is not None and held[0] != owner and not self._owners.bury(connection, held[0]) and held[1] > now:
                return False
            self._owners.show(owner)
            connection.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (name, owner, now + ttl))
            return True

        return self._writer.run(acquire)

    def release_lease(self, name: str, owner: str) -> None:
        self._writer.run(lambda c: c.execute("DELETE FROM leases WHERE name = ? AND owner = ?", (name, owner)))

    def prune(self, *, now: float, max_age: float | None, max_bytes: int | None) -> int:
        gone = 0
        if max_age is not None:
            gone += prune_age(self._writer.run, horizon=now - max_age)
        if max_bytes is not None:
            gone += prune_bytes(self._writer.run, most=max_bytes, used=used_bytes)
            while self._writer.run(give_back):
                pass
        return gone

    def forget_model(self, model: str) -> None:
        forget_model(self._writer.run, model)

    def close(self) -> None:
        super().close()
        self._owners.close()
