"""A short run of `benchmarks/registry_crash.py`: after `kill -9` a model is as before a change or as after it, events included."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "registry_crash.py"


@pytest.fixture(scope="module")
def crash() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registry_crash", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_no_change_is_ever_half_done(
    crash: ModuleType, store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = request.getfixturevalue("postgres") if store == "postgres" else ""
    counts = crash.crash_rounds(tmp_path, 10, random.Random(7), longest=0.2, database=database)
    assert counts["faults"] == []
    assert counts["rounds"] == 10 == counts["before"] + counts["after"]
    assert counts["changes"] > 0
