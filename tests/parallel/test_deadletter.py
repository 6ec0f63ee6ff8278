"""The dead-letter file, and what it says of odd items and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from everloop.core.errors import StoreUnavailable
from everloop.parallel.api import execute
from everloop.parallel.deadletter import short_repr


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("not me")


class array:  # reprlib goes by the name
    pass


HUGE = 10**5000
"""More digits than Python writes down."""


def repr_of(item: Any) -> str:
    return type(item).__name__


@pytest.mark.parametrize(
    "item", [HUGE, {1: HUGE}, Shy(), array(), [Shy()], "\ud800", float("nan"), b"x" * 10_000], ids=repr_of
)
def test_any_item_can_fail(item: Any, tmp_path: Path) -> None:
    def refuse(item: Any) -> None:
        raise Speechless

    letters = tmp_path / "letters.ndjson"
    assert execute(refuse, [item, item], executor="serial", on_error="skip", dead_letter=letters) == []
    lines = [json.loads(line) for line in letters.read_text().splitlines()]
    assert [(line["index"], line["error"]) for line in lines] == [(0, "Speechless"), (1, "Speechless")]
    assert "RuntimeError" in lines[0]["message"]
    assert len(short_repr(item)) < 200
    with pytest.raises(Speechless) as raised:
        execute(refuse, [item], executor="serial")
    assert raised.value.__notes__[0].startswith("item 0: ")


@pytest.mark.parametrize("where", ["", "missing/letters.ndjson"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_lost(where: str, tmp_path: Path) -> None:
    ran: list[int] = []
    with pytest.raises(StoreUnavailable, match="dead_letter") as raised:
        execute(ran.append, [1, 2], executor="serial", on_error="skip", dead_letter=tmp_path / where)
    assert raised.value.field == "dead_letter"
    assert ran == []
