"""The other examples run, and show what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.e2e
def test_a_users_own_pipeline_learns_behind_http(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / "sklearn_server.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    months = [(float(e), int(v)) for e, v in re.findall(r"mean error +(\S+), version (\d+)", ran.stdout)]
    assert len(months) > 5
    assert max(error for error, _ in months[:4]) < 10
    assert months[4][0] > 100, "prices changed, and nobody can know yet"
    assert months[-1][0] < 10, "the new prices were learned"
    assert months[-1][1] > months[4][1]
    assert re.search(r"^ +drift ", ran.stdout, re.MULTILINE)
    assert re.search(r"^ +swapped ", ran.stdout, re.MULTILINE)
