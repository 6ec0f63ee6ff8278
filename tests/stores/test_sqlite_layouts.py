"""A data folder of an older release goes on where it was. `layout_1.sql` is the dump of a file that such a release has written."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import threading
from pathlib import Path

import pytest

from everloop.core.errors import StoreUnavailable
from everloop.core.types import Label, PredictionRecord
from everloop.policy.rollout import Plan, Rollout
from everloop.stores.ports import Report
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.stores.sqlite.file import LAYOUT, STEPS
from everloop.testing import ManualClock

DUMP = Path(__file__).with_name("layout_1.sql")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "everloop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(DUMP.read_text())
    assert layout(path) == 1
    return path


def layout(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def shape(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table and index with its columns, in order."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
        return {name: connection.execute(f"SELECT * FROM pragma_table_xinfo('{name}')").fetchall() for name in names}


def test_there_is_a_step_from_every_layout() -> None:
    assert sorted(STEPS) == list(range(1, LAYOUT))


def test_all_is_there_and_goes_on(old: Path) -> None:
    journal, catalog = SqliteJournal(old, clock=ManualClock()), SqliteCatalog(old)
    try:
        assert layout(old) == LAYOUT
        model = catalog.get_model("m")
        assert (model.live_version, model.parameters, model.allocation) == (1, {"with_bias": True}, None)
        assert [(v.version, v.status, v.name, v.tags) for v in catalog.versions("m")] == [
            (1, "live", "", {}),
            (2, "staging", "", {}),
        ]
        assert catalog.revision() == 4
        assert [e.kind for e in journal.events(model="m")] == ["registered"]
        assert [(e.label, e.row) for e in journal.examples("m")] == [(1.0, [1.0, 2.0])]
        checkpoint = journal.load_checkpoint("m")
        assert checkpoint is not None
        assert checkpoint.state == b"\x00state"
        ((_, record),) = journal.predictions("m")
        assert (record.predictions, record.shadow) == ([0.5, 0.25], False)

        assert journal.append_now([Label("m", 2.0, 12.0, request_id="lane-1")]).outcomes == [2]
        assert journal.append_now([Label("m", 1.0, 11.0, request_id="lane-0")], idempotency_key="k", body="b").duplicate
        journal.record(PredictionRecord("m", 2, "shade", 0, 1, 1, 13.0, "f8", struct.pack("<2d", 1, 2), [0.75], True))
        journal.flush()
        assert [record.shadow for _, record in journal.predictions("m")] == [False, True]
        with catalog.change("m") as shelf:
            assert (shelf.next_number(), shelf.next_rollout()) == (3, 1)
            shelf.put_rollout(Rollout("m", 1, Plan("shadow"), 1, 2, "running", 0, 1.0, 1.0))
        catalog.put_report("m", 1, Report("a", 1.0, b"x"))
        assert catalog.reports("m", 1) == [Report("a", 1.0, b"x")]
    finally:
        journal.close()
        catalog.close()


def test_it_is_then_like_a_new_one(old: Path, tmp_path: Path) -> None:
    SqliteCatalog(old).close()
    new = tmp_path / "new.db"
    SqliteCatalog(new).close()
    assert shape(old) == shape(new)


def test_an_older_release_that_still_has_it_open_can_go_on(old: Path) -> None:
    theirs = sqlite3.connect(old, isolation_level=None)
    SqliteCatalog(old).close()
    try:
        theirs.execute("INSERT INTO numbers (model, last) VALUES ('n', 1)")
        theirs.execute(
            "INSERT INTO predictions (model, version, lane, first, count, rows, at, encoding, coding, answers, features) "
            "SELECT model, version, lane, first + 2, count, rows, at, encoding, coding, answers, features FROM predictions"
        )
        journal = SqliteJournal(old, clock=ManualClock())
        assert [record.shadow for _, record in journal.predictions("m")] == [False, False]
        journal.close()
    finally:
        theirs.close()


def test_many_may_bring_it_up_to_date_at_once(old: Path) -> None:
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            SqliteCatalog(old).close()
        except BaseException as error:  # told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert layout(old) == LAYOUT


def test_a_step_that_fails_leaves_the_file_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shape(old)
    monkeypatch.setitem(STEPS, 1, STEPS[1] + "INSERT INTO nowhere VALUES (1);\n")
    with pytest.raises(StoreUnavailable, match="nowhere"):
        SqliteCatalog(old)
    assert (layout(old), shape(old)) == (1, before)


def test_reading_only_changes_nothing(old: Path) -> None:
    catalog = SqliteCatalog(old, read_only=True)
    try:
        assert [v.version for v in catalog.versions("m")] == [1, 2]
    finally:
        catalog.close()
    assert layout(old) == 1
