PRAGMA application_id=1702259824;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE catalog_revision (revision INTEGER NOT NULL);
INSERT INTO "catalog_revision" VALUES(4);
CREATE TABLE checkpoints (
    model TEXT PRIMARY KEY,
    cursor INTEGER NOT NULL,
    at REAL NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID;
INSERT INTO "checkpoints" VALUES('m',1,12.0,X'007374617465');
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    message TEXT NOT NULL,
    version INTEGER,
    data TEXT NOT NULL
);
INSERT INTO "events" VALUES(1,'m','registered',9.0,'registered as linear',NULL,'{}');
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
INSERT INTO "examples" VALUES(1,'m','1.0',11.0,'lane',0,0,'0.5',1,0,1,'f8',X'000000000000F03F0000000000000040');
CREATE TABLE keys (
    model TEXT NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,
    outcomes TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (model, key)
) WITHOUT ROWID;
INSERT INTO "keys" VALUES('m','k','b','[1]',1000000.0);
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE models (
    name TEXT PRIMARY KEY,
    record TEXT NOT NULL,
    history TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO "models" VALUES('m','{"name":"m","kind":"linear","created_at":9.0,"parameters":{"with_bias":true},"task":"regression","learning":{},"record":1.0,"schema":{"fields":[{"name":"x0","kind":"number","nullable":false},{"name":"x1","kind":"number","nullable":false}],"named":false},"target":{"task":"regression","kind":"number"},"live_version":1,"template":null,"allocation":null,"shadow":null,"aliases":{},"rollout":{}}','[1]');
CREATE TABLE numbers (
    model TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO "numbers" VALUES('m',2);
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
    features BLOB NOT NULL
);
INSERT INTO "predictions" VALUES(1,'m',1,'lane',0,2,1,10.0,'f8','f8',X'000000000000E03F000000000000D03F',X'000000000000F03F000000000000004000000000000008400000000000001040');
CREATE TABLE tallies (
    what TEXT NOT NULL,
    model TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (what, model)
) WITHOUT ROWID;
INSERT INTO "tallies" VALUES('acknowledged','m',1);
INSERT INTO "tallies" VALUES('events','',1);
INSERT INTO "tallies" VALUES('examples','',1);
INSERT INTO "tallies" VALUES('predictions','',2);
CREATE TABLE versions (
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (model, version)
) WITHOUT ROWID;
INSERT INTO "versions" VALUES('m',1,'{"model":"m","version":1,"digest":"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd","status":"live","created_at":9.5,"manifest":{"runtime":"linear","task":"regression","schema":{"fields":[{"name":"x0","kind":"number","nullable":false},{"name":"x1","kind":"number","nullable":false}],"named":false},"target":{"task":"regression","kind":"number"},"classes":null,"metrics":{"mae":0.5},"lineage":{},"libraries":{}},"note":"the first","name":"","tags":{}}');
INSERT INTO "versions" VALUES('m',2,'{"model":"m","version":2,"digest":"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee","status":"staging","created_at":9.75,"manifest":{"runtime":"linear","task":"regression","schema":{"fields":[{"name":"x0","kind":"number","nullable":false},{"name":"x1","kind":"number","nullable":false}],"named":false},"target":{"task":"regression","kind":"number"},"classes":null,"metrics":{"mae":0.5},"lineage":{},"libraries":{}},"note":"","name":"","tags":{}}');
CREATE INDEX predictions_lane ON predictions (lane, first);
CREATE INDEX predictions_model ON predictions (model);
CREATE UNIQUE INDEX examples_address ON examples (lane, number, place) WHERE lane IS NOT NULL;
CREATE INDEX examples_model ON examples (model);
CREATE INDEX keys_at ON keys (at);
CREATE INDEX events_model ON events (model);
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
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('predictions',1);
INSERT INTO "sqlite_sequence" VALUES('examples',1);
INSERT INTO "sqlite_sequence" VALUES('events',1);
COMMIT;
