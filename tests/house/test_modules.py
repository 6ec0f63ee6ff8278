"""What every module of the house has, and what no file of it says."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/everloop"
MODULES = sorted(SOURCE.rglob("*.py"))
GENERATED = "clients/typescript/src/client/schema.ts"
TYPESCRIPT = [p for p in sorted((ROOT / "clients/typescript/src").rglob("*.ts")) if p != ROOT / GENERATED]
LONGEST = 420


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_one_subject(path: Path, text: str) -> None:
    assert len(text.splitlines()) <= LONGEST, f"{name_of(path)} has over {LONGEST} lines: is it still one subject?"
    assert not path.stem.startswith(("utils", "helpers", "misc", "common"))


def files() -> list[Path]:
    """What belongs to the project: what git knows, or everything where this is not a clone."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        listed = [
            name_of(p) for part in ("src", "tests", "docs", "benchmarks", "examples") for p in (ROOT / part).rglob("*")
        ]
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_owns_and_stays_short(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{name_of(path)} opens with no docstring"
    is_one_subject(path, text)


@pytest.mark.parametrize("path", TYPESCRIPT, ids=name_of)
def test_a_typescript_module_says_what_it_owns_and_stays_short(path: Path) -> None:
    text = path.read_text()
    assert re.match(r"/\*\*\s+(?:\* )?[\w`]", text), f"{name_of(path)} opens with no comment"
    is_one_subject(path, text)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_keeps_no_left_overs_and_no_silences(path: Path) -> None:
    text = path.read_text()
    assert not re.findall(r"\b(?:TODO|FIXME|XXX)\b|raise NotImplementedError|pragma: no cover", text)
    silent = [
        handler.lineno
        for attempt in ast.walk(ast.parse(text))
        if isinstance(attempt, ast.Try) and not attempt.orelse  # with an `else`, an error is what was hoped for
        for handler in attempt.handlers
        if (
            handler.type is None
            or (isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException"))
        )
        and all(isinstance(statement, (ast.Pass, ast.Continue)) for statement in handler.body)
    ]
    assert silent == [], f"{name_of(path)} swallows every error at lines {silent}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_classes_and_functions_of_the_front_door_are_documented(path: Path) -> None:
    if path.relative_to(SOURCE).as_posix() not in (
        "app/continuum.py",
        "runtime/artifact.py",
        "learning/config.py",
        "app/build.py",
    ):
        return
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}: {node.name} has no docstring"


def test_the_version_stands_in_one_place() -> None:
    import everloop

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/everloop/__init__.py"
    again = [
        name_of(path)
        for path in MODULES
        if re.search(rf"[\"']{re.escape(everloop.__version__)}[\"']", path.read_text())
    ]
    assert again == ["src/everloop/__init__.py"]


def test_no_file_names_a_path_of_this_machine() -> None:
    places = {f"{ROOT}", f"{Path.home()}/", f"{ROOT.parent}/"} - {"/", "//", "/tmp/", "/home/"}
    found = []
    for path in files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(path)}: {place}" for place in places if place in text]
    assert found == []


def test_every_pin_is_exact_and_from_nowhere_in_particular() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", line)] == []


def test_every_dependency_is_pinned() -> None:
    def canonical(requirement: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {canonical(r) for r in project["project"]["dependencies"] + project["dependency-groups"]["dev"]}
    wanted |= {canonical(r) for extra in project["project"]["optional-dependencies"].values() for r in extra} - {
        "everloop"
    }
    pinned = {canonical(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert wanted - pinned == set()
