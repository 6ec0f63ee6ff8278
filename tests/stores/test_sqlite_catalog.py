"""Several processes on one file: no change is lost, and each sees whole ones."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everloop.core.errors import StoreUnavailable
from everloop.core.events import Event
from everloop.stores.ports import ModelRecord
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.stores.sqlite.file import connect
from everloop.testing import ManualClock

CHANGES = 25
OTHER = f"""
import sys
from pathlib import Path
import msgspec
from everloop.core.events import Event
from everloop.stores.sqlite import SqliteCatalog

catalog = SqliteCatalog(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range({CHANGES}):
    with catalog.change("m") as shelf:
        n = shelf.model.parameters["n"] + 1
        shelf.put_model(msgspec.structs.replace(shelf.model, parameters={{"n": n}}))
        shelf.log(Event("m", "noted", 1.0, data={{"n": n}}))
catalog.close()
"""


def test_processes_change_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "everloop.db"
    catalog, journal = SqliteCatalog(path), SqliteJournal(path, clock=ManualClock())
    catalog.create_model(ModelRecord("m", "linear", 1.0, parameters={"n": 0}))
    others = [
        subprocess.Popen(
            [sys.executable, "-c", OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdin is not None
            assert other.stdout.readline() == "ready\n"
        for other in others:
            assert other.stdin is not None
            other.stdin.write("go\n")
            other.stdin.flush()
        for _ in range(CHANGES):
            with catalog.change("m") as shelf:
                n = shelf.model.parameters["n"] + 1
                shelf.put_model(msgspec.structs.replace(shelf.model, parameters={"n": n}))
                shelf.log(Event("m", "noted", 1.0, data={"n": n}))
        assert [other.wait(60) for other in others] == [0, 0]
        assert catalog.get_model("m").parameters == {"n": 3 * CHANGES}
        assert [e.data["n"] for e in journal.events(model="m", limit=1000)] == list(range(1, 3 * CHANGES + 1))
        assert catalog.revision() == 1 + 3 * CHANGES
    finally:
        for other in others:
            other.kill()
            other.communicate()
        catalog.close()
        journal.close()


def test_a_full_disk_is_told_as_one_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "everloop.db"
    SqliteCatalog(path).close()

    def small(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count=60")
        return connection

    monkeypatch.setattr("everloop.stores.sqlite.catalog.connect", small)
    catalog = SqliteCatalog(path)
    try:
        catalog.create_model(ModelRecord("m", "linear", 1.0))
        with pytest.raises(StoreUnavailable, match="the disk is full"), catalog.change("m") as shelf:  # noqa: PT012 - fails
            for _ in range(100):
                shelf.put_model(msgspec.structs.replace(shelf.model, parameters={"big": "x" * 1_000_000}))
        assert catalog.get_model("m").parameters == {}
        with catalog.change("m") as shelf:
            shelf.put_model(msgspec.structs.replace(shelf.model, shadow=1))
        assert catalog.get_model("m").shadow == 1
    finally:
        catalog.close()
