"""The statistics of rollouts, by simulation: how often a gate acts on nothing, and how soon on something.

    python benchmarks/rollout_simulation.py [--quick]

Prints a table with confidence intervals, in a few minutes on one core; no server is started. What is simulated, and what it is
compared with, is in `everloop.app.bench.rollout_simulation`, which `everloop bench rollout_simulation` and `make bench` run, too.
"""

from __future__ import annotations

import argparse
import sys

from everloop.app.bench.runner import as_table, run_bench


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="250 simulations instead of 2,000")
    report = run_bench(
        ["rollout_simulation"],
        quick=parser.parse_args().quick,
        say=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
    )
    print(as_table(report))
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
