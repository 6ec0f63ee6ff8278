"""The journal that several machines share: one writer thread a process, group commit, PostgreSQL. See `tables`, `group`, `reads`.

Leases are rows that only one statement may take at a time; that statement does not wait behind what is queued. Nobody can tell here
whether another machine's process lives, so a lease that is not given back has to run out; clocks have to agree to a fraction of it.
"""

from __future__ import annotations

from everloop.core.clock import Clock
from everloop.stores.joining import storable
from everloop.stores.ports import Checkpoint
from everloop.stores.postgres.backend import PostgresBackend, Session
from everloop.stores.postgres.database import Database
from everloop.stores.postgres.reads import PostgresReader
from everloop.stores.postgres.tables import prepare
from everloop.stores.retention import forget_model, prune_age, prune_bytes
from everloop.stores.writer import Writer
from everloop.stores.written import WrittenJournal

_KEEP_CHECKPOINT = """
INSERT INTO checkpoints (model, cursor, at, state) VALUES (?, ?, ?, ?)
ON CONFLICT (model) DO UPDATE SET cursor = excluded.cursor, at = excluded.at, state = excluded.state
"""
_ACQUIRE = """
INSERT INTO leases (name, owner, until) VALUES (%(name)s, %(owner)s, %(until)s)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
WHERE leases.owner = excluded.owner OR leases.until <= %(now)s
RETURNING true
"""
_RELEASE = "DELETE FROM leases WHERE name = %s AND owner = %s RETURNING true"


class PostgresJournal(WrittenJournal[Session]):
    """The `Journal` port in a database."""

    _reader: PostgresReader

    def __init__(
        self,
        url: str | Database,
        *,
        clock: Clock,
        queue_size: int = 100_000,
        record_bytes: int = 64 << 20,
        commit_interval: float = 0.0,
    ) -> None:
        """`queue_size` bounds the labels that wait to be written, `record_bytes` the predictions. `commit_interval`: seconds
        to wait for more before each commit, trading latency for fewer flushes. Raises StoreUnavailable for a database that cannot
        be reached, or is from the future; InvalidInput, MissingExtra."""
        database = url if isinstance(url, Database) else Database(url)
        prepare(database)
        writer = Writer(
            PostgresBackend(database),
            clock=clock,
            queue_size=queue_size,
            record_bytes=record_bytes,
            commit_interval=commit_interval,
        )
        super().__init__(clock, writer, PostgresReader(database))

    def save_checkpoint(self, model: str, checkpoint: Checkpoint) -> None:
        values = (storable(model, "model"), checkpoint.cursor, checkpoint.at, checkpoint.state)
        self._writer.run(lambda connection: connection.execute(_KEEP_CHECKPOINT, values))

    def acquire_lease(self, name: str, owner: str, *, now: float, ttl: float) -> bool:
        wanted = {"name": name, "owner": owner, "now": float(now), "until": float(now + ttl)}
        return bool(self._reader.rows("write", _ACQUIRE, wanted))

    def release_lease(self, name: str, owner: str) -> None:
        self._reader.rows("write", _RELEASE, (name, owner))

    def prune(self, *, now: float, max_age: float | None, max_bytes: int | None) -> int:
        gone = 0
        if max_age is not None:
            gone += prune_age(self._writer.run, horizon=now - max_age)
        if max_bytes is not None:
            gone += prune_bytes(self._writer.run, most=max_bytes, used=_used_bytes)
        return gone

    def forget_model(self, model: str) -> None:
        forget_model(self._writer.run, model)


def _used_bytes(connection: Session) -> int:
    """Of what is kept; the space of what was deleted is the server's to use again."""
    row = connection.execute("SELECT n FROM tallies WHERE what = 'bytes' AND model = ''").fetchone()
    return int(row[0]) if row else 0
