"""What versions are called: numbers, names, aliases, parts; tags and notes."""

from __future__ import annotations

from typing import Any

import pytest

from everloop.core.errors import Conflict, InvalidInput, ModelNotFound, ModelUntrained, VersionNotFound
from everloop.core.schema import Schema, Target
from everloop.registry.references import split_reference
from everloop.stores.ports import Manifest

from .conftest import House

MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), Target("regression"))


@pytest.fixture
def house(house: House) -> House:
    house.registry.register("fraud", "linear", task="regression")
    house.registry.add_version("fraud", MANIFEST, b"1", live=True, version_name="v1.0", tags={"who": "CI"})
    house.registry.add_version("fraud", MANIFEST, b"2", live=False)
    house.registry.set_alias("fraud", "best", 2)
    house.told.clear()
    return house


@pytest.mark.parametrize(
    ("reference", "number"),
    [
        (2, 2),
        ("2", 2),
        ("v1.0", 1),
        ("best", 2),
        ("champion", 1),
        ("fraud@champion", 1),
        ("fraud@best", 2),
        ("fraud@v1.0", 1),
        ("fraud@2", 2),
    ],
)
def test_resolving(house: House, reference: int | str, number: int) -> None:
    assert house.registry.resolve("fraud", reference) == number


@pytest.mark.parametrize(
    "reference", [3, 0, -1, "3", "nobody", "", "v1", "fraud@", "9" * 30, 10**30, "challenger", "fraud@fraud@best"]
)
def test_what_nothing_is_called(house: House, reference: int | str) -> None:
    with pytest.raises(VersionNotFound):
        house.registry.resolve("fraud", reference)


def test_hints(house: House) -> None:
    with pytest.raises(VersionNotFound, match=r"did you mean 'v1\.0'"):
        house.registry.resolve("fraud", "v1.00")
    with pytest.raises(VersionNotFound, match="it has 1 to 2"):
        house.registry.resolve("fraud", "zzzz")
    with pytest.raises(ModelNotFound, match="did you mean 'fraud'"):
        house.registry.resolve("frau", "v1.0")


@pytest.mark.parametrize("reference", [True, 1.0, None, b"1", "spam@best"])
def test_what_is_no_reference(house: House, reference: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        house.registry.resolve("fraud", reference)
    assert refused.value.field == "version"


def test_no_champion_yet(house: House) -> None:
    house.registry.register("new", "linear", task=None)
    with pytest.raises(ModelUntrained):
        house.registry.resolve("new", "champion")


def test_splitting_a_reference() -> None:
    assert split_reference("fraud@champion") == ("fraud", "champion")
    assert split_reference("fraud") == ("fraud", None)


class TestAliases:
    def test_they_point_where_they_were_last_set_to(self, house: House) -> None:
        assert house.registry.set_alias("fraud", "best", "v1.0", by="me").aliases == {"best": 1}
        assert house.told[-1].message == "best is version 1, no longer version 2"
        assert house.told[-1].data == {"alias": "best", "previous": 2, "by": "me"}
        house.registry.set_alias("fraud", "best", 1)
        assert house.kinds() == ["aliased"]
        house.registry.set_alias("fraud", "old", "best")
        house.registry.promote("fraud", 2)
        assert house.registry.resolve("fraud", "best") == 1
        assert house.registry.remove_alias("fraud", "best").aliases == {"old": 1}
        with pytest.raises(VersionNotFound, match="no alias 'best'"):
            house.registry.remove_alias("fraud", "best")

    @pytest.mark.parametrize("alias", ["", "a b", "-x", "7", "champion", "challenger", "x" * 129, "a@b", None])
    def test_what_cannot_be_one(self, house: House, alias: Any) -> None:
        with pytest.raises(InvalidInput) as refused:
            house.registry.set_alias("fraud", alias, 1)
        assert refused.value.field == "alias"

    def test_a_versions_name_is_its_own(self, house: House) -> None:
        with pytest.raises(Conflict, match="name of version 1"):
            house.registry.set_alias("fraud", "v1.0", 2)
        with pytest.raises(VersionNotFound):
            house.registry.set_alias("fraud", "new", 9)


class TestNames:
    def test_renaming(self, house: House) -> None:
        assert house.registry.rename("fraud", 2, "v2.0").name == "v2.0"
        assert house.registry.resolve("fraud", "v2.0") == 2
        assert house.registry.rename("fraud", 2, "v2.0").name == "v2.0"
        assert house.registry.rename("fraud", "v2.0", "").name == ""
        assert [e.message for e in house.told] == ["version 2 is called v2.0", "version 2 is no longer called v2.0"]

    def test_taken_ones(self, house: House) -> None:
        revision = house.registry.revision()
        for name, match in (("v1.0", "version 1"), ("best", "alias")):
            with pytest.raises(Conflict, match=match):
                house.registry.rename("fraud", 2, name)
            with pytest.raises(Conflict, match=match):
                house.registry.add_version("fraud", MANIFEST, b"3", live=True, version_name=name)
        assert (house.registry.revision(), house.told) == (revision, [])
        assert house.registry.rename("fraud", 1, "v1.0").name == "v1.0"

    @pytest.mark.parametrize("name", ["3", "champion", "a b", "x" * 129, None, 5])
    def test_what_cannot_be_one(self, house: House, name: Any) -> None:
        with pytest.raises(InvalidInput) as refused:
            house.registry.rename("fraud", 2, name)
        assert refused.value.field == "version_name"


class TestTagsAndNotes:
    def test_tags_are_set_beside_others_and_taken_away(self, house: House) -> None:
        assert house.registry.version("fraud", 1).tags == {"who": "CI"}
        assert house.registry.tag("fraud", "v1.0", {"set": "2024", "who": None}, by="me").tags == {"set": "2024"}
        assert house.told[-1].data == {"tags": {"set": "2024"}, "previous": {"who": "CI"}, "by": "me"}
        house.registry.tag("fraud", 1, {"set": "2024", "none": None})
        assert house.kinds() == ["tagged"]

    @pytest.mark.parametrize(
        "tags", [{"a": 1}, {"": "x"}, {"a": ["b"]}, {"a": "x" * 1001}, {str(i): "x" for i in range(101)}]
    )
    def test_tags_that_are_refused(self, house: House, tags: Any) -> None:
        with pytest.raises(InvalidInput, match="tags"):
            house.registry.tag("fraud", 1, tags)
        with pytest.raises(InvalidInput, match="tags"):
            house.registry.add_version("fraud", MANIFEST, b"3", live=False, tags=tags)

    def test_notes(self, house: House) -> None:
        assert house.registry.note("fraud", "best", "looks fine").note == "looks fine"
        house.registry.note("fraud", 2, "looks fine")
        assert house.registry.version("fraud", 2).note == "looks fine"
        assert [(e.kind, e.message) for e in house.told] == [("noted", "version 2: looks fine")]

    def test_tags_do_not_pile_up(self, house: House) -> None:
        house.registry.tag("fraud", 1, {str(number): "x" for number in range(99)})
        with pytest.raises(InvalidInput, match="at most 100"):
            house.registry.tag("fraud", 1, {"one": "more"})
        assert len(house.registry.tag("fraud", 1, {"0": None, "one": "more"}).tags) == 100

    @pytest.mark.parametrize("note", [None, 5, b"bytes", "x" * 10_001])
    def test_notes_that_are_refused(self, house: House, note: Any) -> None:
        with pytest.raises(InvalidInput, match="note: expected a text"):
            house.registry.note("fraud", 1, note)
        with pytest.raises(InvalidInput, match="note: expected a text"):
            house.registry.add_version("fraud", MANIFEST, b"3", live=False, note=note)
        assert house.registry.version("fraud", 1).note == ""
