"""`everloop doctor`: the findings of `checks`, one line each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from everloop.app.cli.checks import Finding, data_folder, everything
from everloop.app.cli.group import UsageError
from everloop.app.cli.output import as_json as to_json
from everloop.app.cli.output import data, say, show
from everloop.app.cli.serve import DATA_DIR

STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


def run(data_dir: Path | None, database: str | None, host: str, port: int, *, as_json: bool) -> int:
    """Prints what was found; 1 if something is broken, 0 otherwise."""
    found = list(everything(lambda: _storage(data_dir, database), host, port))
    broken = [finding for finding in found if finding.status == "broken"]
    if as_json:
        data(to_json({"healthy": not broken, "findings": [finding._asdict() for finding in found]}))
        return 1 if broken else 0
    _show(found)
    notes = sum(finding.status == "note" for finding in found)
    if broken:
        say(f"{len(broken)} broken: {', '.join(finding.what for finding in broken)}", style="red")
    else:
        say("everything works here" + (f"; {notes} worth a look" if notes else ""))
    return 1 if broken else 0


def _storage(data_dir: Path | None, database: str | None) -> Iterator[Finding]:
    """What was said, else what `everloop serve` would keep everything in here."""
    from everloop.app.cli import database_check
    from everloop.app.cli.storage import storage_here

    if data_dir is None and database is None:
        with contextlib.suppress(UsageError):  # `checks.configuration` has told it
            here = storage_here(None, None)
            data_dir, database = here.data_dir, here.database
    if database is not None:
        yield from database_check.database(database)
    if data_dir is not None or database is None:
        yield from data_folder(data_dir or DATA_DIR)


def _show(found: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = Table(box=None, show_header=False, pad_edge=False)
    out.add_column(no_wrap=True)
    out.add_column(no_wrap=True)
    out.add_column()
    for finding in found:
        said = Text(finding.value)
        if finding.advice:
            said.append(f"\n→ {finding.advice}", style="italic")
        out.add_row(Text(finding.status, style=STYLES[finding.status]), Text(finding.what, style="bold"), said)
    show(out)
