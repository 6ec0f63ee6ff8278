"""The TypeScript client is generated from the very document that the server answers with."""

from __future__ import annotations

import json
import re
from pathlib import Path

from everloop.api.http.openapi import document

PACKAGE = Path(__file__).parents[2] / "clients" / "typescript"


def test_the_client_is_generated_from_this_servers_document() -> None:
    """That the types are those of the document, the package's own lint checks."""
    kept = json.loads((PACKAGE / "openapi.json").read_text())
    assert kept == json.loads(json.dumps(document())), "the server's operations have changed: run `make schema`"


def test_package_and_server_have_one_version() -> None:
    from everloop import __version__

    assert json.loads((PACKAGE / "package.json").read_text())["version"] == __version__


def test_no_lock_names_a_registry() -> None:
    root = PACKAGE.parents[1]
    locks = [*root.glob("clients/*/package-lock.json"), *root.glob("examples/*/package-lock.json")]
    assert locks
    assert [lock for lock in locks if '"resolved": "http' in lock.read_text()] == []


def test_the_readme_stands_alone() -> None:
    """What npm shows has no repository around it."""
    assert re.findall(r"\]\((\.[^)]*)\)", (PACKAGE / "README.md").read_text()) == []
