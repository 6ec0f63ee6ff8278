"""The database file: how it is opened, recognised and laid out, and what its errors mean to a person.

Write-ahead log with `synchronous=FULL`: a commit that returned is on the disk. `application_id` tells an everloop file from
a foreign one, `user_version` tells which layout it has; a newer one is refused, never guessed at.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from everloop.core.errors import StoreUnavailable

APPLICATION_ID = 0x65766C70
"""`evlp`, at byte 68 of the file."""
LAYOUT = 3
"""Raise it with every change of a table, together with the step in `STEPS` that brings older files there."""

ROLLOUT_TABLES = """
CREATE TABLE rollouts (
    model TEXT NOT NULL,
    id INTEGER NOT NULL,
    active INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    record TEXT NOT NULL,
    findings BLOB,
    PRIMARY KEY (model, id)
);
CREATE INDEX rollouts_active ON rollouts (model, id) WHERE active;
CREATE TABLE reports (
    model TEXT NOT NULL,
    rollout INTEGER NOT NULL,
    source TEXT NOT NULL,
    at REAL NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (model, rollout, source)
);
"""
KEY_TABLES = """
-- Of callers; `keys` are those of feedback that must count once.
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    record TEXT NOT NULL,
    used_at REAL
) WITHOUT ROWID;
"""
TABLES = """
CREATE TABLE predictions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    lane TEXT NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    at REAL NOT NULL,
    encoding TEXT NOT NULL,
    coding TEXT NOT NULL,
    answers BLOB NOT NULL,
    features BLOB NOT NULL,
    shadow INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX predictions_lane ON predictions (lane, first);
CREATE INDEX predictions_model ON predictions (model);

CREATE TABLE examples (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    label TEXT NOT NULL,
    at REAL NOT NULL,
    lane TEXT,
    number INTEGER,
    place INTEGER NOT NULL,
    prediction TEXT,
    version INTEGER,
    validation INTEGER NOT NULL,
    record INTEGER NOT NULL,
    encoding TEXT NOT NULL,
    row BLOB NOT NULL
);
CREATE UNIQUE INDEX examples_address ON examples (lane, number, place) WHERE lane IS NOT NULL;
CREATE INDEX examples_model ON examples (model);

CREATE TABLE keys (
    model TEXT NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,
    outcomes TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (model, key)
) WITHOUT ROWID;
CREATE INDEX keys_at ON keys (at);

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    message TEXT NOT NULL,
    version INTEGER,
    data TEXT NOT NULL
);
CREATE INDEX events_model ON events (model);

CREATE TABLE checkpoints (
    model TEXT PRIMARY KEY,
    cursor INTEGER NOT NULL,
    at REAL NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;

-- Running totals, kept by triggers: counting a table on every look would read all of it.
CREATE TABLE tallies (
    what TEXT NOT NULL,
    model TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (what, model)
) WITHOUT ROWID;
CREATE TRIGGER prediction_in AFTER INSERT ON predictions BEGIN
    INSERT INTO tallies VALUES ('predictions', '', NEW.count * NEW.rows)
        ON CONFLICT DO UPDATE SET n = n + excluded.n;
END;
CREATE TRIGGER prediction_out AFTER DELETE ON predictions BEGIN
    UPDATE tallies SET n = n - OLD.count * OLD.rows WHERE what = 'predictions' AND model = '';
END;
CREATE TRIGGER example_in AFTER INSERT ON examples BEGIN
    INSERT INTO tallies VALUES ('acknowledged', NEW.model, 1), ('examples', '', 1)
        ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER example_out AFTER DELETE ON examples BEGIN
    UPDATE tallies SET n = n - 1 WHERE what = 'examples' AND model = '';
END;
CREATE TRIGGER event_in AFTER INSERT ON events BEGIN
    INSERT INTO tallies VALUES ('events', '', 1) ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER event_out AFTER DELETE ON events BEGIN
    UPDATE tallies SET n = n - 1 WHERE what = 'events' AND model = '';
END;

CREATE TABLE models (
    name TEXT PRIMARY KEY,
    record TEXT NOT NULL,
    history TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE versions (
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (model, version)
) WITHOUT ROWID;
-- The highest numbers a name ever had; they outlive the model.
CREATE TABLE numbers (
    model TEXT PRIMARY KEY,
    last INTEGER NOT NULL,
    rollout INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE catalog_revision (revision INTEGER NOT NULL);
INSERT INTO catalog_revision VALUES (0);
"""
TABLES += ROLLOUT_TABLES + KEY_TABLES

STEPS = {
    1: """
ALTER TABLE predictions ADD COLUMN shadow INTEGER NOT NULL DEFAULT 0;
ALTER TABLE numbers ADD COLUMN rollout INTEGER NOT NULL DEFAULT 0;
"""
    + ROLLOUT_TABLES,
    2: KEY_TABLES,
}
"""Layout -> what makes the next one of it. What an older everloop that still has the file open writes must remain valid."""

_WHAT_IT_IS = """
SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
       (SELECT count(*) FROM sqlite_master)
"""
_ADVICE = {
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_BUSY": "another program holds it locked",
    "SQLITE_CORRUPT": "the file is damaged; restore it from a backup or start with an empty data folder",
    "SQLITE_NOTADB": "it is not a SQLite database; move it away or choose another data folder",
    "SQLITE_READONLY": "it cannot be written; check the permissions of the file and its folder",
    "SQLITE_CANTOPEN": "it cannot be opened; check that the folder exists and may be written",
    "SQLITE_IOERR": "the disk reports an error",
    "SQLITE_PERM": "it cannot be opened; check its permissions",
}


def unavailable(path: Path, doing: str, error: BaseException) -> StoreUnavailable:
    """What a failed statement means to the person who runs the server."""
    name = getattr(error, "sqlite_errorname", None) or ""
    advice = next((text for prefix, text in _ADVICE.items() if name.startswith(prefix)), "")
    return StoreUnavailable(f"cannot {doing} {path}: {advice + ' (' + str(error) + ')' if advice else error}")


@contextlib.contextmanager
def store_errors(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise unavailable(path, doing, error) from error


def connect(path: Path, *, busy_timeout: float, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any one thread at a time."""
    connection = sqlite3.connect(
        _read_only_uri(path) if read_only else path,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=400,
        uri=read_only,
    )
    if read_only:
        return connection
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
    except BaseException:
        connection.close()
        raise
    return connection


def _read_only_uri(path: Path) -> str:
    """In a folder that nobody may write, the write-ahead log cannot be opened: the file is then taken as one that does not change."""
    frozen = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if frozen else ''}"


def prepare(path: Path, *, busy_timeout: float = 5.0, read_only: bool = False) -> None:
    """Create the file if it is not there, and make sure that it is ours and of a layout we know. Raises StoreUnavailable."""
    if read_only:
        with (
            store_errors(path, "open"),
            contextlib.closing(connect(path, busy_timeout=busy_timeout, read_only=True)) as found,
        ):
            if _layout(path, found) == 0:
                raise StoreUnavailable(f"{path} holds no models")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"cannot create the data folder {path.parent}: {error.strerror or error}") from error
    with store_errors(path, "open"):
        connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
        try:
            _lay_out(path, connection, deadline=time.monotonic() + busy_timeout)
        finally:
            connection.close()


def _lay_out(path: Path, connection: sqlite3.Connection, *, deadline: float) -> None:
    while (layout := _layout(path, connection)) < LAYOUT:
        try:
            if layout == 0:
                # Both only take before the first table; changing the mode of a file does not wait for others by itself.
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            layout = _layout(path, connection)
            if layout == 0:
                _run(connection, TABLES)
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            else:
                for step in range(layout, LAYOUT):
                    _run(connection, STEPS[step])
            connection.execute(f"PRAGMA user_version={LAYOUT}")
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # another process is laying out the same file


def _layout(path: Path, connection: sqlite3.Connection) -> int:
    """Which layout the file has, 0 if it is still empty. Raises StoreUnavailable if it is not ours, or from the future."""
    # One statement sees one state: another process may be laying out the file between two.
    application, layout, tables = connection.execute(_WHAT_IT_IS).fetchone()
    if application == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise StoreUnavailable(
            f"{path} is a SQLite database of another program; choose another data folder or move the file away"
        )
    if layout > LAYOUT:
        raise StoreUnavailable(
            f"{path} was written by a newer everloop (layout {layout}, this one knows up to {LAYOUT}); upgrade everloop"
        )
    return int(layout)


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Statement by statement: `executescript` would commit the transaction they belong to."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            if statement.strip():
                connection.execute(statement)
            statement = ""
