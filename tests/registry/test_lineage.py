"""Where versions come from."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from everloop.core.errors import VersionNotFound
from everloop.core.events import Event
from everloop.core.schema import Schema, Target
from everloop.stores.ports import Manifest

from .conftest import House

MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), Target("regression"), metrics={"mae": 0.5})


def publish(house: House, payload: bytes, by: str = "", **lineage: Any) -> int:
    manifest = msgspec.structs.replace(MANIFEST, lineage=lineage)
    return house.registry.add_version("m", manifest, payload, live=True, by=by).version


def test_the_whole_descent(house: House) -> None:
    house.registry.register("m", "linear", task="regression")
    publish(house, b"1", by="cli")
    publish(house, b"2", parent=1, reason="scheduled", first_id=1, last_id=500, count=480)
    house.journal.log(Event("m", "drift", 5.0, "the error rose", 2, {"cut_id": 700, "before": 0.1, "after": 0.3}))
    publish(house, b"3", by="learning", parent=2, reason="drift", first_id=700, last_id=900, count=200, cut_id=700)
    publish(house, b"4", parent=2)

    told = house.registry.lineage("m", 3)
    assert (told.model, told.version, told.children) == ("m", 3, [])
    assert [ancestor.version for ancestor in told.chain] == [3, 2, 1]
    third, second, first = told.chain
    assert (third.parent, third.reason, third.by, third.metrics) == (2, "drift", "learning", {"mae": 0.5})
    assert (third.first_example, third.last_example, third.examples) == (700, 900, 200)
    assert third.alarm is not None
    assert third.alarm.data["after"] == 0.3
    assert (second.alarm, second.by, second.examples) == (None, "", 480)
    assert (first.parent, first.by, first.reason, first.examples) == (None, "cli", "", None)
    assert house.registry.lineage("m", "1").children == [2]
    assert house.registry.lineage("m", 2).children == [3, 4]


@pytest.mark.parametrize("parent", [2, 3, 9, "1", None])
def test_what_cannot_be_a_parent_ends_it(house: House, parent: Any) -> None:
    house.registry.register("m", "linear", task="regression")
    publish(house, b"1"), publish(house, b"2", parent=parent), publish(house, b"3", parent=2)
    assert [ancestor.version for ancestor in house.registry.lineage("m", 2).chain] == [2]


def test_of_nobody(house: House) -> None:
    house.registry.register("m", "linear", task="regression")
    with pytest.raises(VersionNotFound):
        house.registry.lineage("m", 1)
