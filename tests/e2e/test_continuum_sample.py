"""The sample that the project promises to run as printed learns both slopes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parents[2] / "examples/continuum_sample.py"
LINE = re.compile(r"Input: (\S+), Prediction: (\S+), Version: (\d+)")


@pytest.mark.e2e
def test_the_sample_learns_both_slopes(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(SAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, ran.stderr
    answers = [(float(x), float(y), int(version)) for x, y, version in LINE.findall(ran.stdout)]
    assert len(answers) == 20
    for x, y, _ in answers[:10]:
        assert y == pytest.approx(1.0 * x, abs=0.3)
    for x, y, _ in answers[10:]:
        assert y == pytest.approx(2.0 * x, abs=0.3)
    versions = [version for _, _, version in answers]
    assert versions == sorted(versions)
    assert versions[10] > versions[9], "the second slope was learned without a new version"
    assert ran.stderr == "", "the sample says nothing but its answers"
    assert list(tmp_path.iterdir()) == [], "in memory means in memory"
