"""The TypeScript client is generated from the very document that the server answers with."""

from __future__ import annotations

import json
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


def test_the_lock_names_no_registry() -> None:
    for lock in PACKAGE.parents[1].rglob("package-lock.json"):
        if "node_modules" not in lock.parts:
            assert '"resolved": "http' not in lock.read_text(), lock
