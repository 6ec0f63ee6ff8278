"""How the database is recognised and laid out: the schema `everloop`, made whole or not at all, by the first who comes.

Theory of operation. Whoever reads by `id > after` must never miss a row, so ids have to become visible in their order. A sequence
cannot promise that: two transactions draw 1 and 2, and 2 may commit first. So ids are counted in the one row of `journal_state`, which
every transaction that adds to the journal locks first and until its end. Thus writers of the journal take turns, over all
processes and machines; ids have no gaps; and running totals need no locks of their own. The server makes a commit visible before
it lets go of the row, and each statement of the next writer sees what was committed before it (READ COMMITTED, the default).

A turn lasts as long as a commit, so what one deployment writes is bounded by groups, not by labels: hundreds of groups a second,
each of up to thousands of labels. The catalog logs its events in the same table, in its own transactions; it takes its own lock
before the journal's, and the journal never takes the catalog's, so nobody waits in a circle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everloop.core.errors import StoreUnavailable
from everloop.stores.postgres.database import SCHEMA, Database

if TYPE_CHECKING:
    import psycopg

LAYOUT = 2
"""Raise it with every change of a table, together with the step in `STEPS` that brings older databases there."""
_KEYS = """
CREATE TABLE api_keys (
    id text COLLATE "C" PRIMARY KEY,
    record text NOT NULL,
    used_at double precision
);
"""
STEPS: dict[int, str] = {1: _KEYS}
"""Layout -> what makes the next one of it. What an older everloop that still runs writes must remain valid."""

_LOCK = 0x65766C70
"""`evlp`: the advisory lock of whoever lays out."""

# Features and artifacts are packed numbers: compressing them costs more than it saves, and a part of them is read at once (EXTERNAL).
_JOURNAL = """
CREATE TABLE layout (version integer NOT NULL);
INSERT INTO layout VALUES (1);

CREATE TABLE journal_state (
    last_prediction bigint NOT NULL,
    last_example bigint NOT NULL,
    last_event bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO journal_state VALUES (0, 0, 0);

CREATE TABLE tallies (
    what text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (what, model)
) WITH (fillfactor = 50);

CREATE TABLE predictions (
    id bigint PRIMARY KEY,
    model text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    lane text COLLATE "C" NOT NULL,
    first bigint NOT NULL,
    count bigint NOT NULL,
    rows bigint NOT NULL,
    at double precision NOT NULL,
    encoding text NOT NULL,
    coding text NOT NULL,
    answers bytea NOT NULL,
    features bytea NOT NULL,
    shadow boolean NOT NULL DEFAULT false
);
ALTER TABLE predictions ALTER answers SET STORAGE EXTERNAL, ALTER features SET STORAGE EXTERNAL;
CREATE INDEX predictions_lane ON predictions (lane, first, id);
CREATE INDEX predictions_model ON predictions (model, id);

CREATE TABLE examples (
    id bigint PRIMARY KEY,
    model text COLLATE "C" NOT NULL,
    label text NOT NULL,
    at double precision NOT NULL,
    lane text COLLATE "C",
    number bigint,
    place bigint NOT NULL,
    prediction text,
    version bigint,
    validation boolean NOT NULL,
    record bigint NOT NULL,
    encoding text NOT NULL,
    row bytea NOT NULL
);
CREATE UNIQUE INDEX examples_address ON examples (lane, number, place) WHERE lane IS NOT NULL;
CREATE INDEX examples_model ON examples (model, id);

CREATE TABLE keys (
    model text COLLATE "C" NOT NULL,
    hash bytea NOT NULL,
    key text NOT NULL,
    body text NOT NULL,
    outcomes text NOT NULL,
    at double precision NOT NULL,
    PRIMARY KEY (model, hash)
);
CREATE INDEX keys_at ON keys (at);

CREATE FUNCTION next_event() RETURNS bigint LANGUAGE sql VOLATILE AS
    'UPDATE everloop.journal_state SET last_event = last_event + 1 RETURNING last_event';
CREATE TABLE events (
    id bigint PRIMARY KEY DEFAULT next_event(),
    model text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    at double precision NOT NULL,
    message text NOT NULL,
    version bigint,
    data text NOT NULL
);
CREATE INDEX events_model ON events (model, id);

CREATE TABLE checkpoints (
    model text COLLATE "C" PRIMARY KEY,
    cursor bigint NOT NULL,
    at double precision NOT NULL,
    state bytea NOT NULL
);

CREATE TABLE leases (
    name text COLLATE "C" PRIMARY KEY,
    owner text NOT NULL,
    until double precision NOT NULL
) WITH (fillfactor = 50);
"""
_CATALOG = """
CREATE TABLE models (
    name text COLLATE "C" PRIMARY KEY,
    record text NOT NULL,
    history text NOT NULL
);
CREATE TABLE versions (
    model text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    record text NOT NULL,
    PRIMARY KEY (model, version)
);
-- The highest numbers a name ever had; they outlive the model.
CREATE TABLE numbers (
    model text COLLATE "C" PRIMARY KEY,
    last bigint NOT NULL,
    rollout bigint NOT NULL DEFAULT 0
);
CREATE TABLE rollouts (
    model text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    active bigint NOT NULL,
    revision bigint NOT NULL,
    record text NOT NULL,
    findings bytea,
    PRIMARY KEY (model, id)
);
CREATE INDEX rollouts_active ON rollouts (model, id) WHERE active = 1;
CREATE TABLE reports (
    model text COLLATE "C" NOT NULL,
    rollout bigint NOT NULL,
    source text COLLATE "C" NOT NULL,
    at double precision NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (model, rollout, source)
);
CREATE TABLE catalog_revision (revision bigint NOT NULL) WITH (fillfactor = 10);
INSERT INTO catalog_revision VALUES (0);

CREATE TABLE artifacts (
    digest text COLLATE "C" PRIMARY KEY,
    size bigint NOT NULL,
    put_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE artifact_chunks (
    digest text COLLATE "C" NOT NULL REFERENCES artifacts ON DELETE CASCADE,
    n integer NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (digest, n)
);
ALTER TABLE artifact_chunks ALTER bytes SET STORAGE EXTERNAL;
"""

_COUNTED = """
CREATE FUNCTION {one}_size({table}) RETURNS bigint LANGUAGE sql IMMUTABLE AS
    'SELECT 200 + octet_length($1.{first})::bigint + octet_length($1.{second})';
CREATE FUNCTION {table}_in() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE everloop.journal_state SET last_{one} = greatest(last_{one}, (SELECT max(id) FROM changed));
    INSERT INTO everloop.tallies
        SELECT '{table}', '', {number} FROM changed HAVING count(*) > 0
        UNION ALL SELECT 'bytes', '', sum(everloop.{one}_size(changed)) FROM changed HAVING count(*) > 0
        {more}
        ON CONFLICT (what, model) DO UPDATE SET n = tallies.n + excluded.n;
    RETURN NULL;
END $$;
CREATE FUNCTION {table}_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE everloop.tallies SET n = tallies.n - gone.n
        FROM (SELECT '{table}' AS what, {number} AS n FROM changed HAVING count(*) > 0
              UNION ALL SELECT 'bytes', sum(everloop.{one}_size(changed)) FROM changed HAVING count(*) > 0) gone
        WHERE tallies.what = gone.what AND tallies.model = '';
    RETURN NULL;
END $$;
CREATE TRIGGER {table}_in AFTER INSERT ON {table} REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION {table}_in();
CREATE TRIGGER {table}_out AFTER DELETE ON {table} REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION {table}_out();
"""
"""Ids and running totals of a table, kept by triggers: counting it on every look would read all of it."""
_ACKNOWLEDGED = "UNION ALL SELECT 'acknowledged', model, count(*) FROM changed GROUP BY model"

TABLES = "".join(
    (
        _JOURNAL,
        _COUNTED.format(
            table="predictions",
            one="prediction",
            number="sum(count * rows)",
            first="answers",
            second="features",
            more="",
        ),
        _COUNTED.format(
            table="examples", one="example", number="count(*)", first="label", second="row", more=_ACKNOWLEDGED
        ),
        _COUNTED.format(table="events", one="event", number="count(*)", first="message", second="data", more=""),
        _CATALOG,
        _KEYS,
    )
)

_WHAT_IT_IS = """
SELECT current_setting('server_encoding'), current_setting('server_version_num')::int, to_regclass('everloop.layout') IS NOT NULL,
       (SELECT count(*) FROM pg_tables WHERE schemaname = 'everloop')
"""
OLDEST_SERVER = 130_000
"""PostgreSQL 13."""


def prepare(database: Database) -> None:
    """Lay the database out if nobody has, and make sure that it is of a layout we know. Raises StoreUnavailable."""
    with database.opened("open") as connection:
        if layout_of(database, connection) == LAYOUT:
            return
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        layout = layout_of(database, connection)
        if layout == 0:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            _run(connection, TABLES)
        for step in range(layout, LAYOUT) if layout else ():
            _run(connection, STEPS[step])
        connection.execute("UPDATE layout SET version = %s", (LAYOUT,))


def layout_of(database: Database, connection: psycopg.Connection[Any]) -> int:
    """0 where there is nothing yet. Raises StoreUnavailable if it is not ours, or from the future."""
    row = connection.execute(_WHAT_IT_IS).fetchone()
    assert row is not None
    encoding, server, there, tables = row
    if encoding != "UTF8":
        raise StoreUnavailable(
            f"{database.name} is encoded as {encoding}; everloop needs one made with ENCODING 'UTF8'"
        )
    if server < OLDEST_SERVER:
        raise StoreUnavailable(f"{database.name} is on PostgreSQL {server // 10_000}; everloop needs 13 or newer")
    if not there:
        if tables:
            raise StoreUnavailable(
                f"the schema {SCHEMA!r} of {database.name} belongs to another program; choose another database"
            )
        return 0
    found = connection.execute("SELECT version FROM layout").fetchone()
    layout = 0 if found is None else int(found[0])
    if layout > LAYOUT:
        raise StoreUnavailable(
            f"{database.name} was laid out by a newer everloop (layout {layout}, this one knows up to {LAYOUT}); upgrade everloop"
        )
    return layout


def _run(connection: psycopg.Connection[Any], script: str) -> None:
    """All statements of the script at once: without parameters the driver sends them as one text."""
    connection.execute(script)
