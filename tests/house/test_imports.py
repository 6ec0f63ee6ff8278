"""Who may import whom, and what an import costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "cloudpickle", "fastapi", "httptools", "joblib", "jinja2", "loky", "matplotlib", "numpy", "onnx", "onnxruntime", "pandas",
    "prometheus_client", "psutil", "psycopg", "pydantic", "rich", "river", "scipy", "skl2onnx", "sklearn", "skops", "sqlalchemy",
    "starlette", "structlog", "typer", "uvicorn", "uvloop",
}  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after `code`."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(ran.stdout.splitlines()[-1]))


def test_rooms_import_only_from_those_below() -> None:
    ran = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_importing_everloop_loads_nothing_heavy() -> None:
    assert loaded_by("import everloop, everloop.registry, everloop.serving") & HEAVY == set()


@pytest.mark.parametrize("name", ["Continuum", "LearningConfig", "ModelParameters", "EverloopError"])
def test_the_public_names_are_there(name: str) -> None:
    import everloop

    assert name in dir(everloop)
    assert getattr(everloop, name).__name__ == name


def test_policy_is_pure() -> None:
    """No clock, no thread, no input or output, no logging, in what decides."""
    forbidden = {
        "time",
        "threading",
        "asyncio",
        "logging",
        "structlog",
        "socket",
        "subprocess",
        "os",
        "pathlib",
    }
    offenders = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "src/everloop/policy").rglob("*.py"))
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import ", "from ")) and line.split()[1].partition(".")[0] in forbidden
    ]
    assert offenders == []


def test_only_the_app_reads_the_environment() -> None:
    """A child process may set its own (how many threads a library starts); nobody below `app` reads any."""
    reads = re.compile(r"os\.getenv|os\.environ(?:\.get\b|\.items\b|\[[^\]]+\](?!\s*=[^=])|\s+as\b)")
    offenders = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "src/everloop").rglob("*.py"))
        if path.relative_to(ROOT / "src/everloop").parts[0] != "app" and reads.search(path.read_text())
    ]
    assert offenders == []
