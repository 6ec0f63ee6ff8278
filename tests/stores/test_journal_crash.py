"""A short run of `benchmarks/journal_crash.py`: acknowledged labels survive `kill -9`, each exactly once."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "journal_crash.py"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_acknowledged_labels_survive_kill_9(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    database = request.getfixturevalue("postgres") if kind == "postgres" else ""
    spec = importlib.util.spec_from_file_location("journal_crash", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    counts = module.crash_rounds(tmp_path, 3, random.Random(7), longest=0.3, database=database)
    assert counts["acknowledged"] > 0
    assert (counts["rounds"], counts["lost"], counts["duplicated"]) == (3, 0, 0)
