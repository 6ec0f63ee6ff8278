"""Which files are opened, and what is said of those that are not."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from everloop.core.errors import StoreUnavailable
from everloop.core.types import Label
from everloop.stores.ports import ModelRecord
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.testing import ManualClock


def open_both(path: Path) -> None:
    SqliteCatalog(path).close()
    SqliteJournal(path, clock=ManualClock()).close()


def use(path: Path) -> None:
    journal = SqliteJournal(path, clock=ManualClock())
    try:
        journal.append_now([Label("m", 1.0, 0.0, row=[1.0])])
    finally:
        journal.close()


@pytest.mark.parametrize("make", [SqliteCatalog, lambda path: SqliteJournal(path, clock=ManualClock())])
class TestRefused:
    def refused(self, make: object, path: Path, match: str) -> None:
        with pytest.raises(StoreUnavailable, match=match):
            make(path)  # type: ignore[operator]

    def test_not_a_database(self, make: object, tmp_path: Path) -> None:
        path = tmp_path / "everloop.db"
        path.write_text("this is somebody's notes, long enough to look like something\n" * 100)
        self.refused(make, path, "not a SQLite database; move it away")
        assert path.read_text().startswith("this is somebody's notes")

    def test_another_programs_database(self, make: object, tmp_path: Path) -> None:
        path = tmp_path / "everloop.db"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE cookies (name TEXT)")
        connection.close()
        self.refused(make, path, "another program")

    def test_a_newer_layout(self, make: object, tmp_path: Path) -> None:
        path = tmp_path / "everloop.db"
        open_both(path)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version=99")
        connection.close()
        self.refused(make, path, "newer everloop.*99.*upgrade everloop")

    def test_a_folder_that_cannot_be_made(self, make: object, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("a file")
        self.refused(make, tmp_path / "data" / "everloop.db", "data folder")

    def test_a_folder_in_its_place(self, make: object, tmp_path: Path) -> None:
        (tmp_path / "everloop.db").mkdir()
        self.refused(make, tmp_path / "everloop.db", "cannot be opened")


def test_a_file_and_its_folder_are_made_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "everloop.db"
    journal = SqliteJournal(path, clock=ManualClock())
    journal.append_now([Label("m", 1.0, 0.0, row=[1.0])])
    journal.close()
    open_both(path)
    journal = SqliteJournal(path, clock=ManualClock())
    assert journal.examples_total("m") == 1
    journal.close()


def test_a_damaged_file_is_told_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "everloop.db"
    journal = SqliteJournal(path, clock=ManualClock())
    journal.append_now([Label("m", float(n), 0.0, row=[1.0] * 50) for n in range(500)])
    journal.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(size - 8192))
    with pytest.raises(StoreUnavailable, match="damaged; restore it"):
        use(path)


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            open_both(tmp_path / "everloop.db")
        except BaseException as error:  # told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


class TestReadOnly:
    def test_nothing_is_made_where_nothing_is(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            SqliteCatalog(tmp_path / "data" / "everloop.db", read_only=True)
        assert not (tmp_path / "data").exists()
        (tmp_path / "everloop.db").touch()
        with pytest.raises(StoreUnavailable, match="holds no models"):
            SqliteCatalog(tmp_path / "everloop.db", read_only=True)

    def test_nothing_can_be_changed(self, tmp_path: Path) -> None:
        path = tmp_path / "everloop.db"
        open_both(path)
        catalog = SqliteCatalog(path, read_only=True)
        try:
            assert catalog.list_models() == []
            with pytest.raises(StoreUnavailable, match="cannot be written"):
                catalog.create_model(ModelRecord("m", "linear", 0.0))
        finally:
            catalog.close()

    def test_what_another_process_adds_is_seen(self, tmp_path: Path) -> None:
        path = tmp_path / "everloop.db"
        writer = SqliteCatalog(path)
        reader = SqliteCatalog(path, read_only=True)
        try:
            writer.create_model(ModelRecord("m", "linear", 0.0))
            assert [model.name for model in reader.list_models()] == ["m"]
        finally:
            reader.close()
            writer.close()
