"""How rollouts and timelines look: sentences, columns, shares; what needs no server."""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import Any

import pytest

from everloop.app.cli.group import UsageError
from everloop.app.cli.output import story_line, table
from everloop.app.cli.rollout_view import show_rollout, standing
from everloop.app.cli.versions import read_shares


def rollout(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": "fraud",
        "id": 3,
        "state": "running",
        "champion": 6,
        "challenger": 7,
        "summary": "canary 5 % → 25 % → 100 %",
        "plan": {
            "strategy": "canary",
            "steps": [
                {"share": 0.05, "seconds": 60.0, "samples": 500, "labels": 0},
                {"share": 0.25, "seconds": 60.0, "samples": 500, "labels": 50},
            ],
        },
        "step": 1,
        "share": 0.25,
        "verdict": "continue",
        "reason": "step 2 of 2 (25 %): 120 of 500 requests",
        "started_at": 0.0,
        "step_at": 60.0,
        "paused_at": None,
        "ended_at": None,
        "by": "http",
        "note": "spring",
        "revision": 4,
        "evidence": None,
    }
    return found | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "fraud: version 7 (canary) is running, step 2 of 2 (25 %): 120 of 500 requests"),
        ({"reason": "started", "step": 0}, "fraud: version 7 (canary) is running, step 1 of 2 (5 %): started"),
        ({"reason": ""}, "fraud: version 7 (canary) is running, step 2 of 2 (25 %)"),
        ({"state": "paused", "reason": "lunch"}, "fraud: version 7 (canary) is paused, step 2 of 2 (25 %): lunch"),
        ({"state": "rolled_back", "reason": "it raised"}, "fraud: version 7 (canary) is rolled back: it raised"),
        ({"state": "promoted", "reason": ""}, "fraud: version 7 (canary) is promoted"),
        (
            {"plan": {"strategy": "blue_green", "steps": []}, "reason": "warm"},
            "fraud: version 7 (blue-green) is running: warm",
        ),
    ],
)
def test_where_a_rollout_stands_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    assert standing(rollout(**changes)) == said


def test_a_rollout_is_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    arm = {"version": 6, "requests": 900, "failed": 2, "failures": {}, "p50_seconds": 0.0012, "p99_seconds": None}
    gate = {
        "gate": "errors",
        "verdict": "roll_back",
        "e_value": 4512.3,
        "needed": 60.0,
        "text": "errors: version 7 fails more; worse",
    }
    evidence = {
        "step": {"seconds": 30.0, "samples": 1200, "labels": 7},
        "champion": arm,
        "challenger": arm | {"version": 7, "failed": 9, "failures": {"raised": 8, "timeout": 1}},
        "gates": [gate],
        "shadow": {"answered": 12, "agreement": 0.5},
        "split": {"broken": False, "e_value": 0.2, "needed": 1000.0, "text": "the split: 5 % of 2,100: as intended"},
    }
    show_rollout(rollout(evidence=evidence))
    page = capsys.readouterr().out
    for words in (
        "3 of fraud",
        "7 against 6",
        "step 2 of 2 (25 %)",
        "1,200 of 500 requests, 7 of 50 labels, 30 s of 1 min",
        "9 (8 raised, 1 timeout)",
        "4,512",
        "by http spring",
        "shadow.agreement",
        "5 % of 2,100: as intended",
    ):
        assert words in page, page
    assert "errors: version 7" not in page, "the gate's name has a column of its own"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["champion=95%", "v2.0=5%"], {"champion": 0.95, "v2.0": 0.05}),
        (["1=0.9", " 2 =0.1"], {"1": 0.9, "2": 0.1}),
        (["7=100%"], {"7": 1.0}),
        (["a=b=0.5"], {"a=b": 0.5}),
    ],
)
def test_shares_are_percents_or_parts_of_one(texts: list[str], expected: dict[str, float]) -> None:
    assert read_shares(texts) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["7", "=5%", "7=", "7=5", "7=-1%", "7=101%", "7=nan", "7=many"])
def test_what_is_no_share_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="expected VERSION=SHARE"):
        read_shares([text])


class Screen(io.StringIO):
    """A terminal, as far as anybody asks."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "indent"), [(120, 43), (70, 4)])
def test_a_long_message_keeps_its_column(monkeypatch: pytest.MonkeyPatch, columns: int, indent: int) -> None:
    monkeypatch.setattr(sys, "stdout", Screen())
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    event = {"at": 0.0, "kind": "rollout_advanced", "version": 12, "message": "it goes on and on " * 12}
    first, *rest = story_line(event).splitlines()
    assert len(rest) >= 2
    assert all(len(line) <= columns for line in [first, *rest])
    assert first[21:].startswith("rollout_advanced v12  it goes on")
    assert {len(line) - len(line.lstrip()) for line in rest} == {indent}


def test_in_a_pipe_an_event_is_one_line() -> None:
    event = {"at": 0.0, "kind": "drift", "version": None, "message": "x " * 500}
    assert "\n" not in story_line(event)


def test_a_sparse_table_has_no_empty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table(("version", "name", "note"), [(1, "", None), (2, "", "why")], sparse=True)
    assert capsys.readouterr().out.split("\n")[0].split() == ["version", "note"]
