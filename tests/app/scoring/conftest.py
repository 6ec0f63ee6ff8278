"""A model, a function module, and a way to score without a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import everloop
from everloop.app.scoring.job import Job, Summary
from everloop.app.scoring.progress import Progress
from everloop.app.scoring.run import score
from everloop.parallel import set_history_folder

FUNCTIONS = """
def double(row):
    return row["x"] * 2

def echo(row):
    return row

def kind(row):
    return type(row["x"]).__name__

def pick(row):
    if row["x"] == 13:
        raise ValueError("thirteen")
    return row["x"]

def doubles(rows):
    if any(row["x"] == 13 for row in rows):
        raise ValueError("thirteen")
    return [row["x"] * 2 for row in rows]

def short(rows):
    return [1]

def answer(row):
    return eval(row["answer"])
"""
Score = Callable[..., Summary]


@pytest.fixture(autouse=True)
def _own_history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    set_history_folder(tmp_path_factory.mktemp("history"))
    yield
    set_history_folder(None)


@pytest.fixture(scope="session")
def skops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class "yes" where a + 2b > 0, else "no"."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 2))
    y = np.where(X @ [1.0, 2.0] > 0, "yes", "no")
    path = tmp_path_factory.mktemp("model") / "m.skops"
    everloop.save_model(LogisticRegression(C=100).fit(X, y), path, feature_names=["a", "b"])
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a module `fn` of functions in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fn.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def run(folder: Path) -> Score:
    """`score(Job(…))`, here and serially."""

    def scored(model: str, source: str, output: str, *, said: list[str] | None = None, **options: Any) -> Summary:
        job = Job(model, source, output, **{"executor": "serial", **options})
        told: list[str] = [] if said is None else said
        return score(job, say=told.append, progress=Progress(bar=False, lines=False))

    return scored
