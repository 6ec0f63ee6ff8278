"""The reference pages leave nothing out: every option, route, error code, command and public name is in them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from typer.main import get_command

import everloop
from everloop import parallel, registry, serving
from everloop.api.http.operations import OPERATIONS
from everloop.api.status import STATUSES
from everloop.app.settings import options

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("option", [name.partition(".")[2] for name, _, _ in options()])
def test_every_option_is_documented(option: str) -> None:
    assert f"| `{option}` |" in (DOCS / "configuration.md").read_text()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_every_operation_is_documented(operation: object) -> None:
    page = (DOCS / "http.md").read_text()
    assert f"| `{operation.method} {operation.path}` |" in page  # type: ignore[attr-defined]
    for code in operation.refusals:  # type: ignore[attr-defined]
        assert f"`{code}`" in page


@pytest.mark.parametrize("code", sorted(STATUSES))
def test_every_error_code_is_documented_with_its_status(code: str) -> None:
    assert f"| `{code}` | {STATUSES[code].http} |" in (DOCS / "http.md").read_text()


def test_every_command_is_documented() -> None:
    from everloop.app.cli.commands import app

    page = (DOCS / "cli.md").read_text()
    commands = get_command(app)
    for name, command in commands.commands.items():  # type: ignore[attr-defined]
        for inner in getattr(command, "commands", None) or [""]:
            assert f"`everloop {name} {inner}".rstrip() in page


@pytest.mark.parametrize("name", everloop.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert f"`{name}" in (DOCS / "python.md").read_text()


@pytest.mark.parametrize("name", parallel.__all__)
def test_every_public_name_of_the_parallel_engine_is_documented(name: str) -> None:
    assert hasattr(parallel, name)
    assert f"`{name}" in (DOCS / "python.md").read_text()


@pytest.mark.parametrize(
    "kind", [registry.ModelRegistry, registry.ModelInfo, serving.ModelRouter, serving.PredictionCache]
)
def test_every_method_of_registry_and_router_is_documented(kind: type) -> None:
    page = (DOCS / "python.md").read_text()
    methods = [name for name in vars(kind) if not name.startswith("_") and name not in ("plain", "state")]
    missing = [name for name in methods if not re.search(rf"[.`\s]{name}\b", page)]
    assert (f"`{kind.__name__}" in page, missing) == (True, [])


@pytest.mark.parametrize("option", [field.name for field in dataclasses.fields(parallel.RunOptions)])
def test_every_option_of_a_run_is_documented(option: str) -> None:
    assert f"`{option}`" in (DOCS / "parallel.md").read_text()


def test_every_public_method_of_continuum_is_documented() -> None:
    page = (DOCS / "python.md").read_text()
    methods = [n for n, v in vars(everloop.Continuum).items() if callable(v) and not n.startswith("_")]
    missing = [name for name in methods if f"{name}(" not in page]
    assert missing == []
