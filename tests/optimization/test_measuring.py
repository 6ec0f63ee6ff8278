"""How forms are timed: all in turns, each call another input, nothing timed that a server does not do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.optimization.forms import WIDTH, Spoken, given_rows, linear_artifact, sigmoid

from everloop.optimization.asking import ask, one_row
from everloop.optimization.measuring import FEWEST, calls, contenders, measure, medians
from everloop.optimization.opening import measure_opening
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.source import read_source


def test_every_form_is_timed_at_every_size_in_every_round() -> None:
    sizes: list[int] = []

    def count(X: Any) -> Any:
        sizes.append(len(X))
        return sigmoid(X)

    taken = measure({"a": Spoken(count), "b": Spoken(sigmoid)}, given_rows(20), (1, 8, 64), seconds=1e-6, rounds=9)
    assert {name: [len(each) for each in by_size] for name, by_size in taken.items()} == {
        "a": [FEWEST] * 3,
        "b": [FEWEST] * 3,
    }
    assert set(sizes) == {1, 8, 64}
    assert all(seconds > 0 for by_size in taken.values() for each in by_size for seconds in each)
    assert medians({"a": [[3.0, 1.0, 2.0]]}) == {"a": [2.0]}


def test_calls_differ() -> None:
    seen: list[Any] = []

    def look(X: Any) -> Any:
        seen.append(X)
        return sigmoid(X)

    for call in calls(Spoken(look), given_rows(64), 8):
        call()
    assert len(seen) == 8
    assert len({X.tobytes() for X in seen}) == 8


def test_a_form_out_of_reach_is_not_measured_again() -> None:
    assert contenders({"a": [1.0, 4.0], "b": [9.0, 3.0], "c": [2.0, 9.0]}) == ["a", "b"]


def test_one_row_is_asked_as_a_server_asks_it() -> None:
    session = load_session(*linear_artifact(), trust=Trust())
    row = [1.0, 0.0, 0.0, 0.0]
    assert one_row(session, row)(row) == 1
    assert type(one_row(session, row)(row)) is int
    gap: list[Any] = [None, 0.0, 0.0, 0.0]  # which the function of a row refuses, and an array takes
    assert one_row(session, gap)(gap) == 1
    assert one_row(Spoken(sigmoid), row)(row) == 1


def test_answers_of_another_shape_are_none() -> None:
    with pytest.raises(ValueError, match="shape"):
        ask(Spoken(lambda X: np.zeros((len(X), 2)), regression=True), [[0.0] * WIDTH])


def test_what_opening_costs_is_measured_where_nothing_is_loaded() -> None:
    manifest, payload = linear_artifact()
    cost = measure_opening(manifest, payload, given_rows(3), trust=Trust())
    assert cost.error == ""
    assert cost.load_seconds > 0
    assert cost.first_seconds > 0
    broken = measure_opening(manifest, payload[:-8], given_rows(3), trust=Trust())
    assert "weights" in broken.error


def test_files_of_the_current_folder_are_found_last_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "psutil.py").write_text("raise SystemExit('this file was run')")
    (tmp_path / "aside.py").write_text("ANSWER = 2.0")
    (tmp_path / "mine.py").write_text(
        "from aside import ANSWER\n"
        "class Model:\n    features, task = 4, 'regression'\n    def predict(self, rows): return [ANSWER] * len(rows)"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    trust = Trust(code=("*",))
    manifest, payload = read_source("mine:Model", trust=trust)
    cost = measure_opening(manifest, payload, given_rows(3), trust=trust)
    sys.modules.pop("aside", None)
    assert cost.error == ""
