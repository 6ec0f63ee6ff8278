"""What only shows in long runs: that a stream's memory stays flat, and that killed workers lose nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from everloop.app.bench.rows import Context, Result, against, counted

GROWTH_BAR = 10.0
"""MiB between the second tenth of the stream and the last that still is flat: an allocator breathes."""


def memory(context: Context, folder: Path) -> Result:
    """10,000,000 small results, then 10,000 of 1 MB; a tenth of each in a quick run."""
    rows = []
    data: dict[str, Any] = {}
    for kind, count, told in (
        ("small", context.rounds(10_000_000, 1_000_000), "small items"),
        ("megabyte", context.rounds(10_000, 1_000), "results of 1 MB"),
    ):
        context.say(f"stream: {count:,} {told}")
        found = data[kind] = child(folder, "memory", kind, str(count))
        for who in ("parent", "worker"):
            early, late = found[who]
            rows.append(
                against(
                    "parallel_memory",
                    f"stream of {count:,} {told}: memory of the {'caller' if who == 'parent' else 'largest worker'}, "
                    "last tenth against the second",
                    late - early,
                    "at most",
                    GROWTH_BAR,
                    "MB more",
                    detail=f"{told}: caller {found['parent'][0]:.1f} to {found['parent'][1]:.1f} MiB, worker "
                    f"{found['worker'][0]:.1f} to {found['worker'][1]:.1f}, at most {found['peak'][0]:.1f} and "
                    f"{found['peak'][1]:.1f}; {found['items'] / found['seconds']:,.0f} items/s"
                    + (f", {found['bytes'] / found['seconds'] / 1e6:,.0f} MB/s" if found["bytes"] else ""),
                )
            )
    return Result(rows, data)


def kills(context: Context, folder: Path) -> Result:
    """Twenty workers killed while a stream goes through two."""
    times = context.rounds(20, 20)
    context.say(f"stream: kill -9 of a random worker, {times} times")
    found = child(folder, "kills", str(times))
    row = counted(
        "parallel_kills",
        f"{times} SIGKILLs of random workers during one run: items missing, items twice",
        "0, 0",
        f"{found['missing']}, {found['twice']}",
        passed=found["killed"] == times and found["missing"] == found["twice"] == 0 and found["in_order"],
        detail=f"{found['items']:,} items of 1 ms, {found['killed']} killed, {found['deaths']} of them with items in hand, in "
        f"{found['seconds']:.1f} s; in order: {found['in_order']}",
    )
    return Result([row], found)


def child(folder: Path, *arguments: str) -> dict[str, Any]:
    """What `parallel_child` printed. Raises RuntimeError with the end of its stderr if it failed."""
    run = subprocess.run(
        [sys.executable, "-m", "everloop.app.bench.parallel_child", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if run.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit {run.returncode}: {run.stderr[-1500:]}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found
