"""How names, numbers and spans are told."""

from __future__ import annotations

import ast
from pathlib import Path

import everloop
from everloop.core.wording import near_names


def test_near_names_are_those_that_were_meant() -> None:
    assert near_names("featurs", ["label", "features"]) == ["features"]
    assert near_names("xyz", ["label", "features"]) == []
    assert near_names("ab", ["ab" * 5_000_000, "abc"]) == ["abc"]


def test_a_name_of_megabytes_is_not_compared() -> None:
    assert near_names("ab" * 4_500_000, ["ab" * 30]) == []
    assert len(near_names("name", (f"name{i}" for i in range(10**6)), n=3)) == 3


def test_nobody_else_compares_names() -> None:
    """What a caller sends is compared in the one place where that is bounded."""
    root = Path(everloop.__file__).parent
    importing = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and any(name.name == "difflib" for name in node.names)
    ]
    assert importing == ["core/wording.py"]
