"""`everloop score`: from what was typed to a job, its progress, and the summary."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import typer

from everloop.app.cli.group import UsageError
from everloop.app.cli.output import as_json as to_json
from everloop.app.cli.output import data, for_data_alone, say
from everloop.app.cli.serve import DATA_DIR
from everloop.app.cli.storage import storage_here
from everloop.app.scoring.job import Job, Summary
from everloop.app.scoring.progress import Progress, span
from everloop.app.scoring.run import score
from everloop.app.scoring.source import parse_types
from everloop.core.errors import InvalidInput
from everloop.runtime.artifact import Trust


def run(
    model: str,
    source: str,
    *,
    data_dir: Path | None,
    database: str | None,
    trust_pickle: bool,
    trust_types: list[str] | None,
    trust_code: list[str] | None,
    types: list[str] | None,
    keep: list[str] | None,
    features: list[str] | None,
    progress: bool | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Raises UsageError for options that contradict each other, EverloopError and OSError otherwise."""
    if as_json and options["output"] == "-":
        raise UsageError("--json prints a summary to stdout, so the rows need a file: say -o FILE")
    if options["dead_letter"] is not None and options["on_error"] == "fail":
        options["on_error"] = "skip"
    storage = storage_here(
        data_dir, database, trust_pickle=trust_pickle, trust_types=trust_types, trust_code=trust_code
    )
    try:
        kinds = parse_types(types or [])
    except InvalidInput as error:
        raise UsageError(error.message) from error
    job = Job(
        model=model,
        input=source,
        storage=storage.database or storage.data_dir or DATA_DIR,
        trust=Trust(storage.trust_pickle, storage.trust_types, storage.trust_code),
        types=kinds,
        keep=None if keep is None else tuple(_names(keep)),
        features=tuple(_names(features or [])),
        **options,
    )
    told = (lambda _: None) if quiet else say
    try:
        with for_data_alone() as stdout:
            summary = score(job, say=told, progress=Progress.chosen(progress, quiet=quiet), stdout=stdout)
    except KeyboardInterrupt as interrupt:  # what is kept was said
        raise typer.Exit(1) from interrupt
    if as_json:
        data(to_json({**msgspec.to_builtins(summary), "rows_per_second": summary.rate}))
    if not quiet:
        say(_told(summary))


def _names(texts: Iterable[str]) -> list[str]:
    """Of columns: given one by one, or with commas between."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def _told(summary: Summary) -> str:
    rows = summary.rows - summary.resumed
    parts = [f"{summary.output}: {_counted(summary.written, 'row')} by {summary.model}"]
    if summary.errors:
        where = f", told in {summary.dead_letter}" if summary.dead_letter else ""
        parts.append(f"{_counted(summary.errors, 'bad row')}{where}")
    how = f" on {summary.workers} {summary.executor} workers" if summary.workers > 1 else ""
    again = f", {summary.resumed:,} were there before" if summary.resumed else ""
    parts.append(f"{_counted(rows, 'row')} in {span(summary.seconds)} ({summary.rate:,.0f} rows/s{how}){again}")
    return "; ".join(parts)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
