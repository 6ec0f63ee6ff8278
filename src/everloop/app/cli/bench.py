"""`everloop bench`: the table on stdout, progress on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from everloop.app.bench import as_table, run_bench
from everloop.app.cli.output import data, say


def run(names: Sequence[str], *, quick: bool, out: Path | None, plots: bool, as_json: bool) -> int:
    """The exit code: 1 if a bar was missed. Raises InvalidInput for an unknown name."""
    folder = Path("everloop-bench") if out is None and plots else out
    report = run_bench(names, quick=quick, out=folder, plots=plots, say=lambda text: say(f"  {text}"))
    data(msgspec.json.encode(report).decode() if as_json else as_table(report))
    for figure in report.figures:
        say(figure)
    return 1 if report.missed else 0
