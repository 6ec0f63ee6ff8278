"""The fast lane and the app on ten thousand generated requests, valid and invalid: the same status, headers and bytes.

    python benchmarks/identity.py [--quick]

It is `tests/api/test_identity.py`, which asks some hundred times in every run of the tests, and tells a difference with the
smallest request that shows it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TEST = "tests/api/test_identity.py"


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows for `benchmarks/run.py`."""
    count = 1_000 if quick else 10_000
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", TEST]
    environ = {**os.environ, "IDENTITY_EXAMPLES": str(count)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    same = done.returncode == 0
    return [
        {
            "what": f"fast lane and ordinary route: {count:,} generated requests answered differently",
            "bar": "none",
            "measured": "none" if same else "some",
            "ratio": None,
            "pass": same,
            "detail": "" if same else done.stdout[-1500:],
        }
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a thousand")
    (found,) = run(parser.parse_args().quick)
    print(f"{found['what']}: {found['measured']}\n{found['detail']}")
    sys.exit(0 if found["pass"] else 1)
