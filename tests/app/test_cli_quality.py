"""`everloop models quality`: how figures are shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from everloop.app.cli import calls
from everloop.app.cli.commands import app

FIGURES = {"n": 1200, "accuracy": 0.831, "baseline_accuracy": 0.71, "correct": 997, "log_loss": 0.41234, "auc": 0.9}
NEWEST = FIGURES | {"n": 1000, "accuracy": 0.9}
VERSION = {"version": 2, "name": "v2.0", "status": "live", "share": 1.0, "overall": FIGURES, "window": NEWEST}
FOUND = {
    "model": "fraud",
    "task": "classification",
    "learns_here": True,
    "overall": FIGURES,
    "window": NEWEST,
    "versions": [VERSION],
}


class Answering:
    """A server that says what it is to say."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def get(self, path: str) -> dict[str, Any]:
        self.asked.append(path)
        return self.answer


def run(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], *arguments: str) -> tuple[str, str]:
    server = Answering(answer)
    monkeypatch.setattr(calls, "connect", lambda _url: server)
    done = CliRunner().invoke(app, ["models", "quality", "fraud", *arguments])
    assert done.exit_code == 0, done.output
    assert server.asked == ["/v1/models/fraud/quality"]
    return done.stdout, done.stderr


def test_a_row_for_the_newest_and_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    out, talk = run(monkeypatch, FOUND)
    head, first, second, *_, last = (line.split() for line in out.splitlines())
    assert head == ["version", "name", "status", "labels", "accuracy", "log", "loss", "AUC"]
    assert first == ["2", "v2.0", "live", "newest", "1,000", "90.0%", "(71.0%)", "0.4123", "0.9"]
    assert second[3:7] == ["all", "1,200", "83.1%", "(71.0%)"]
    assert last[0] == "all"
    assert "no-change" in talk


def test_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    out, talk = run(monkeypatch, FOUND | {"versions": []})
    assert (out, "no answer has been judged" in talk) == ("", True)
    _, talk = run(monkeypatch, FOUND | {"versions": [], "learns_here": False})
    assert "does not learn" in talk


def test_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = run(monkeypatch, FOUND, "--json")
    assert json.loads(out) == FOUND
