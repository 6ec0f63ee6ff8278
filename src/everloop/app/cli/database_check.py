"""What `everloop doctor` looks at in a PostgreSQL database. Nothing is changed there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from everloop.app.cli.checks import Finding
from everloop.core.errors import InvalidInput, MissingExtra, StoreUnavailable

SLOW_COMMIT = 0.02
ROUNDS = 9
_SERVER = """
SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('max_connections')::int,
       has_database_privilege(current_database(), 'CREATE')
"""
_WRITE = "SELECT pg_logical_emit_message(true, 'everloop', 'doctor')"
"""Something to commit that leaves nothing: a message in the server's log of what it does, which nobody reads."""


def database(url: str) -> Iterator[Finding]:
    """Can be reached and written, is ours or can become so, and how long a commit takes."""
    from everloop.stores.postgres import Database
    from everloop.stores.postgres.tables import LAYOUT, layout_of

    try:
        there = Database(url)
        with there.opened("use") as connection:
            version, standby, most, may_create = _row(connection, _SERVER)
            layout = layout_of(there, connection)
    except (InvalidInput, MissingExtra, StoreUnavailable) as error:
        yield Finding("database", "broken", error.message, "correct --database, or the server")
        return
    value = f"{there.name}, PostgreSQL {version}, {most} connections at most"
    if standby:
        yield Finding("database", "broken", f"{value}, a standby", "connect to the primary")
        return
    if layout == 0 and not may_create:
        yield Finding("database", "broken", f"{value}, nothing of everloop's in it", "grant the user CREATE on it")
        return
    state = "empty: laid out by the first server" if layout == 0 else f"layout {layout} of {LAYOUT}"
    yield Finding("database", "ok", f"{value}; {state}")
    try:
        seconds = commit_seconds(there)
    except StoreUnavailable as error:
        yield Finding("commit", "broken", error.message, "everloop has to write there")
        return
    slow = seconds > SLOW_COMMIT
    yield Finding(
        "commit",
        "note" if slow else "ok",
        f"{seconds * 1e3:.2f} ms",
        "labels are acknowledged after a commit, many at once; a nearer server or a faster disk answers single ones sooner"
        if slow
        else "",
    )


def commit_seconds(there: Any) -> float:
    """Median seconds of a small transaction, over the network and onto the disk. Raises StoreUnavailable."""
    taken = []
    with there.errors("write"):
        connection = there.connect(autocommit=True)
        try:
            for _ in range(ROUNDS):
                began = time.perf_counter()
                connection.execute(_WRITE)
                taken.append(time.perf_counter() - began)
        finally:
            connection.close()
    return sorted(taken)[ROUNDS // 2]


def _row(connection: Any, statement: str) -> Any:
    return connection.execute(statement).fetchone()
