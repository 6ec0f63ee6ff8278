"""Every benchmark of this repository, one table of every bar, and the pictures of the README: `make bench`.

    python benchmarks/run.py                 all of it, some forty minutes
    python benchmarks/run.py --quick         all of it, noisy, some seven minutes
    python benchmarks/run.py http swaps      only these

What a user can rerun without this repository is in `everloop.app.bench` (`everloop bench`); here it is joined by what is too
long for them: drift on a hundred streams, recovery on some, crashes of the journal and of the registry alone, how well the
parallel engine knows how sure it may be, the peers of the Open Inference Protocol, what the built-in models are worth on rows that they
never saw, and ten thousand requests on both ways. Exit code 1 if a bar was missed.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

from everloop.app.bench.rows import Context, Result, Row, counted
from everloop.app.bench.runner import SUBJECTS, Subject, as_table, run_bench

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def of_rows(module: str, **more: Any) -> Subject:
    """A file beside this one whose `run(quick, **more)` gives rows: as they are, or as {what, bar, measured, ratio, pass, detail}."""

    def measure(context: Context, folder: Path) -> Result:
        from importlib import import_module

        context.say(f"{module}: this takes a while")
        found = import_module(module).run(quick=context.quick, **more)
        rows = [
            row
            if isinstance(row, Row)
            else Row(
                subject=module,
                what=str(row["what"]),
                bar=str(row["bar"]),
                measured=str(row["measured"]),
                ratio=row.get("ratio"),
                passed=row["pass"],
                detail=str(row.get("detail", "")),
            )
            for row in found
        ]
        return Result(rows)

    return measure


def journal_crash(context: Context, folder: Path) -> Result:
    """The journal alone, killed while several threads append."""
    from journal_crash import crash_rounds

    rounds = 5 if context.quick else 50
    context.say(f"journal alone: kill -9, {rounds} times")
    counts = crash_rounds(folder, rounds, random.Random(7))
    row = counted(
        "journal_crash",
        f"the journal alone: kill -9, {rounds} times: acknowledged labels lost, or there twice",
        "0, 0",
        f"{counts['lost']}, {counts['duplicated']}",
        passed=counts["lost"] == 0 and counts["duplicated"] == 0 and counts["acknowledged"] > 0,
        detail=f"{counts['acknowledged']:,} labels were acknowledged",
    )
    return Result([row])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = (
        "journal_crash",
        "registry_crash",
        "drift",
        "recovery",
        "parallel_calibration",
        "oip_peers",
        "identity",
        "bridge",
        "polyglot",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join((*SUBJECTS, *here))}")
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes; noisy, and the README's pictures stay"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the JSON goes")
    arguments = parser.parse_args()
    figures = None if arguments.quick or arguments.names else HERE.parent / "docs" / "figures"
    curve = (figures or arguments.out / "figures") / "calibration.png"
    subjects = {
        **SUBJECTS,
        "journal_crash": journal_crash,
        "registry_crash": of_rows("registry_crash"),
        "drift": of_rows("drift"),
        "recovery": of_rows("recovery"),
        "parallel_calibration": of_rows("parallel_calibration", figure=curve),
        "oip_peers": of_rows("oip_peers"),
        "identity": of_rows("identity"),
        "showcase_quality": of_rows("showcase_quality"),
        "bridge": of_rows("bridge"),
        "polyglot": of_rows("polyglot"),
    }
    report = run_bench(
        arguments.names,
        quick=arguments.quick,
        out=arguments.out,
        figures=figures,
        say=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
        subjects=subjects,
    )
    print(as_table(report))
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
