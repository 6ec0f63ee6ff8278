"""`everloop cache`: what is shown, and what is asked of the server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from everloop.app.cli import calls
from everloop.app.cli.commands import app

MODEL = {
    "model": "price",
    "on": True,
    "ttl_sec": 60.0,
    "hits": 6,
    "shared": 1,
    "joined": 1,
    "misses": 2,
    "versions": [{"version": 1, "entries": 2}],
}
FOUND = {
    "bytes": 900,
    "capacity": 64_000_000,
    "entries": 2,
    "evicted": 0,
    "expired": 0,
    "shared": None,
    "models": [MODEL],
}
SHARED = {"name": "redis://cache:6379/0", "trouble": "it does not answer (refused)", "skipped": 7}


class Answering:
    """A server that says what it is to say."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def get(self, path: str) -> dict[str, Any]:
        self.asked.append(path)
        return self.answer

    def call(self, method: str, path: str, body: Any) -> dict[str, Any]:
        self.asked.append((method, path, body))
        return self.answer


def run(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], *arguments: str) -> tuple[str, str, list[Any]]:
    server = Answering(answer)
    monkeypatch.setattr(calls, "connect", lambda _url: server)
    done = CliRunner().invoke(app, ["cache", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr, server.asked


def test_what_it_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    out, talk, asked = run(monkeypatch, FOUND, "show")
    head, row = (line.split() for line in out.splitlines())
    assert head == ["model", "cache", "ttl", "answers", "hits", "shared", "joined", "misses", "hit", "rate"]
    assert row == ["price", "on", "60", "s", "2", "6", "1", "1", "2", "80%"]
    assert "2 answers in 900 of 64,000,000 bytes" in talk
    assert asked == ["/v1/cache"]
    assert json.loads(run(monkeypatch, FOUND, "show", "--json")[0]) == FOUND


def test_what_is_wrong_and_what_to_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _, talk, _ = run(monkeypatch, FOUND | {"models": [], "shared": SHARED}, "show")
    assert "everloop models set NAME cache=true" in talk
    assert "shared in redis://cache:6379/0: it does not answer (refused)" in talk


def test_clearing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, talk, asked = run(
        monkeypatch, {"models": ["price"], "entries": 2, "shared": 3}, "clear", "price", "--version", "2"
    )
    assert "price: 2 answers forgotten here" in talk
    assert asked == [("POST", "/v1/cache/clear", {"model": "price", "version": 2})]
    assert (
        "could not be reached"
        in run(monkeypatch, {"models": ["a", "b"], "entries": 0, "shared": None}, "clear", "*")[1]
    )
    assert "no model's name matches z*" in run(monkeypatch, {"models": [], "entries": 0, "shared": 0}, "clear", "z*")[1]
