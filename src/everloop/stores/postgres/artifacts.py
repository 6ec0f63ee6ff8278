"""Artifacts in the database: immutable bytes named by their SHA-256, in chunks, so that no message and no value is large.

An artifact is written in one transaction, so a digest names all of its bytes or nothing, and what is read is verified every time.
Each call has a connection of its own: artifacts are loaded when a model is swapped, not when it answers.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from everloop.core.errors import ArtifactCorrupt, TooLarge
from everloop.core.hashing import artifact_digest
from everloop.stores.postgres.database import Database
from everloop.stores.postgres.tables import prepare

if TYPE_CHECKING:
    import psycopg

CHUNK = 4 << 20
MAX_BYTES = 2 << 30


class PostgresArtifacts:
    """The `ArtifactStore` port in a database."""

    def __init__(self, url: str | Database, *, max_bytes: int = MAX_BYTES) -> None:
        """`max_bytes`: of one artifact. Raises StoreUnavailable, InvalidInput, MissingExtra."""
        self._database = url if isinstance(url, Database) else Database(url)
        self._max_bytes = max_bytes
        prepare(self._database)

    def put(self, payload: bytes) -> str:
        """Raises TooLarge."""
        if len(payload) > self._max_bytes:
            raise TooLarge(f"an artifact of {len(payload)} bytes is over the {self._max_bytes} that the database takes")
        digest = artifact_digest(payload)
        chunks = [payload[start : start + CHUNK] for start in range(0, max(len(payload), 1), CHUNK)]
        with self._database.opened(f"store artifact {digest[:12]}… in") as connection:
            # Whoever stores the same bytes at the same time waits here, and then finds them.
            connection.execute(
                "INSERT INTO artifacts (digest, size) VALUES (%s, %s) ON CONFLICT (digest) DO UPDATE SET put_at = clock_timestamp()",
                (digest, len(payload)),
            )
            if not self._intact(connection, digest, chunks):
                connection.execute("DELETE FROM artifact_chunks WHERE digest = %s", (digest,))
                for n, chunk in enumerate(chunks):
                    connection.execute("INSERT INTO artifact_chunks VALUES (%s, %s, %b)", (digest, n, chunk))
        return digest

    def renew(self, digest: str) -> bool:
        with self._database.opened(f"renew artifact {digest[:12]}… in") as connection:
            renewed = connection.execute("UPDATE artifacts SET put_at = clock_timestamp() WHERE digest = %s", (digest,))
            return renewed.rowcount > 0

    def get(self, digest: str) -> bytes:
        with self._database.opened(f"read artifact {digest[:12]}… from") as connection:
            cursor = connection.cursor(binary=True)
            rows = cursor.stream("SELECT bytes FROM artifact_chunks WHERE digest = %s ORDER BY n", (digest,))
            chunks = [chunk for (chunk,) in rows]
        if not chunks:
            raise ArtifactCorrupt(f"artifact {digest[:12]}… is missing from the store")
        payload = b"".join(chunks)
        if artifact_digest(payload) != digest:
            raise ArtifactCorrupt(
                f"artifact {digest[:12]}… is damaged: the {len(payload)} bytes in {self._database.name} are not those that were "
                "stored; restore them from a backup or promote another version"
            )
        return payload

    def now(self) -> float:
        with self._database.opened("ask the time of") as connection:
            row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        assert row is not None
        return float(row[0])

    def delete(self, digest: str, *, before: float | None = None) -> int | None:
        with self._database.opened(f"delete artifact {digest[:12]}… from") as connection:
            gone = connection.execute(
                "DELETE FROM artifacts WHERE digest = %s AND put_at < coalesce(to_timestamp(%s), 'infinity') RETURNING size",
                (digest, before),
            ).fetchone()
        return None if gone is None else int(gone[0])

    def sweep(self, *, idle: float) -> int:  # noqa: ARG002 - the port's
        """Nothing is ever half written: a transaction that was not committed leaves nothing that anybody sees."""
        return 0

    def digests(self) -> list[str]:
        with self._database.opened("list the artifacts of") as connection:
            return [digest for (digest,) in connection.execute("SELECT digest FROM artifacts ORDER BY digest")]

    def _intact(self, connection: psycopg.Connection[Any], digest: str, chunks: list[bytes]) -> bool:
        """Damaged bytes are written anew by `put`, not trusted for their name. The server hashes, so nothing travels."""
        found = connection.cursor(binary=True).execute(
            "SELECT sha256(bytes) FROM artifact_chunks WHERE digest = %s ORDER BY n", (digest,)
        )
        return [there for (there,) in found] == [hashlib.sha256(chunk).digest() for chunk in chunks]
