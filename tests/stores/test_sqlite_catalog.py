"""Several processes on one file: no change is lost, and each sees whole ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from everloop.core.events import Event
from everloop.stores.ports import ModelRecord
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
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
