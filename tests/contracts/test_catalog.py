"""What every catalog must do."""

from __future__ import annotations

import threading

import pytest

from everloop.core.errors import Closed, Conflict, InvalidInput, ModelNotFound, VersionNotFound
from everloop.core.schema import Schema, Target
from everloop.stores.ports import Catalog, Manifest, ModelRecord

REGRESSION = Target("regression")
MANIFEST = Manifest(
    "linear",
    "classification",
    Schema.of_names(["a", "b"]),
    Target("classification", "text"),
    classes=["no", "yes"],
    metrics={"accuracy": 0.1 + 0.2},
    lineage={"examples": [1, 100], "reason": "drift"},
    libraries={"numpy": "2.0"},
)


def add(catalog: Catalog, name: str = "m", *, live: bool = False) -> int:
    return catalog.add_version(name, "d" * 64, MANIFEST, now=5.0, status="live" if live else "staging").version


@pytest.fixture
def model(catalog: Catalog) -> ModelRecord:
    record = ModelRecord("m", "linear", 1.0, parameters={"with_bias": True}, learning={"window": 50}, record=0.5)
    catalog.create_model(record)
    return record


class TestModels:
    def test_created_models_come_back(self, catalog: Catalog, model: ModelRecord) -> None:
        other = ModelRecord(
            "a", "estimator", 2.0, task="regression", schema=Schema.unnamed(3), target=REGRESSION, template="d"
        )
        catalog.create_model(other)
        assert catalog.get_model("m") == model
        assert catalog.list_models() == [other, model]

    def test_a_name_is_taken_once(self, catalog: Catalog, model: ModelRecord) -> None:
        with pytest.raises(Conflict, match="'m'"):
            catalog.create_model(model)

    def test_an_unknown_name_proposes_near_ones(self, catalog: Catalog) -> None:
        with pytest.raises(ModelNotFound, match="no model is registered yet"):
            catalog.get_model("fraud")
        catalog.create_model(ModelRecord("fraud", "linear", 1.0))
        for act in (
            lambda: catalog.get_model("frua"),
            lambda: catalog.delete_model("frua"),
            lambda: catalog.versions("frua"),
            lambda: catalog.get_version("frua", 1),
            lambda: catalog.set_live("frua", 1),
            lambda: catalog.roll_back("frua"),
            lambda: catalog.set_schema("frua", Schema.unnamed(1), None),
            lambda: add(catalog, "frua"),
        ):
            with pytest.raises(ModelNotFound, match="did you mean 'fraud'"):
                act()


class TestSchema:
    def test_the_first_schema_wins(self, catalog: Catalog, model: ModelRecord) -> None:
        first = catalog.set_schema("m", Schema.unnamed(2), None)
        assert first.schema == Schema.unnamed(2)
        second = catalog.set_schema("m", Schema.unnamed(3), REGRESSION)
        assert (second.schema, second.target, second.task) == (Schema.unnamed(2), REGRESSION, "regression")
        third = catalog.set_schema("m", Schema.unnamed(3), REGRESSION)
        assert third == second == catalog.get_model("m")

    def test_a_target_of_another_task_is_refused(self, catalog: Catalog, model: ModelRecord) -> None:
        catalog.set_schema("m", Schema.unnamed(2), REGRESSION)
        with pytest.raises(InvalidInput, match="regression"):
            catalog.set_schema("m", Schema.unnamed(2), Target("classification", "text"))


class TestVersions:
    def test_numbers_ascend_and_records_come_back(self, catalog: Catalog, model: ModelRecord) -> None:
        first = catalog.add_version("m", "d" * 64, MANIFEST, now=5.0, note="why")
        assert (first.version, first.status, first.note, first.manifest) == (1, "staging", "why", MANIFEST)
        assert add(catalog) == 2
        assert catalog.get_version("m", 1) == first
        assert [v.version for v in catalog.versions("m")] == [1, 2]

    def test_numbers_are_never_reused(self, catalog: Catalog, model: ModelRecord) -> None:
        add(catalog), add(catalog)
        catalog.delete_model("m")
        with pytest.raises(ModelNotFound):
            catalog.versions("m")
        catalog.create_model(model)
        assert catalog.versions("m") == []
        assert add(catalog) == 3

    def test_an_unknown_version(self, catalog: Catalog, model: ModelRecord) -> None:
        with pytest.raises(VersionNotFound, match="none yet"):
            catalog.get_version("m", 1)
        add(catalog), add(catalog)
        with pytest.raises(VersionNotFound, match="1 to 2"):
            catalog.set_live("m", 3)

    def test_one_version_is_live(self, catalog: Catalog, model: ModelRecord) -> None:
        add(catalog), add(catalog)
        assert catalog.set_live("m", 1).status == "live"
        assert catalog.get_model("m").live_version == 1
        assert catalog.set_live("m", 2).status == "live"
        assert add(catalog, live=True) == 3
        assert [v.status for v in catalog.versions("m")] == ["retired", "retired", "live"]
        assert catalog.get_model("m").live_version == 3

    def test_rolling_back_goes_further_back_and_never_forth(self, catalog: Catalog, model: ModelRecord) -> None:
        for _ in range(3):
            add(catalog, live=True)
        add(catalog)
        catalog.set_live("m", 1)
        assert [catalog.roll_back("m").version for _ in range(3)] == [3, 2, 1]
        with pytest.raises(Conflict, match="no earlier"):
            catalog.roll_back("m")
        assert [v.status for v in catalog.versions("m")] == ["live", "retired", "retired", "staging"]

    def test_rolling_back_passes_over_what_was_put_away(self, catalog: Catalog, model: ModelRecord) -> None:
        for _ in range(4):
            add(catalog, live=True)
        catalog.set_status("m", 3, "archived")
        catalog.set_status("m", 2, "rejected")
        assert catalog.roll_back("m").version == 1

    def test_nothing_to_roll_back_to(self, catalog: Catalog, model: ModelRecord) -> None:
        with pytest.raises(Conflict):
            catalog.roll_back("m")
        add(catalog, live=True)
        catalog.set_live("m", 1)
        with pytest.raises(Conflict):
            catalog.roll_back("m")

    def test_statuses(self, catalog: Catalog, model: ModelRecord) -> None:
        add(catalog, live=True), add(catalog)
        assert catalog.set_status("m", 2, "rejected").status == "rejected"
        with pytest.raises(Conflict, match="live"):
            catalog.set_status("m", 1, "archived")
        with pytest.raises(Conflict, match="promot"):
            catalog.set_status("m", 2, "live")
        assert [v.status for v in catalog.versions("m")] == ["live", "rejected"]


def test_the_revision_changes_with_every_change_and_only_then(catalog: Catalog) -> None:
    seen = [catalog.revision()]

    def changed() -> bool:
        seen.append(catalog.revision())
        return seen[-1] != seen[-2]

    catalog.create_model(ModelRecord("m", "linear", 1.0))
    assert changed()
    catalog.set_schema("m", Schema.unnamed(2), REGRESSION)
    assert changed()
    catalog.set_schema("m", Schema.unnamed(2), REGRESSION)
    assert not changed()
    add(catalog)
    assert changed()
    catalog.set_live("m", 1)
    assert changed()
    catalog.set_live("m", 1)
    assert not changed()
    add(catalog, live=True)
    assert changed()
    catalog.set_status("m", 1, "archived")
    assert changed()
    catalog.set_status("m", 1, "archived")
    assert not changed()
    with pytest.raises(Conflict):
        catalog.roll_back("m")
    catalog.get_model("m"), catalog.versions("m")
    assert not changed()
    catalog.delete_model("m")
    assert changed()
    assert len(set(seen)) == 1 + 7


def test_many_threads_get_numbers_of_their_own(catalog: Catalog, model: ModelRecord) -> None:
    numbers: list[int] = []

    def publish() -> None:
        for _ in range(10):
            numbers.append(add(catalog, live=True))

    threads = [threading.Thread(target=publish) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(numbers) == list(range(1, 61))
    live = [v.version for v in catalog.versions("m") if v.status == "live"]
    assert live == [catalog.get_model("m").live_version]


def test_closing(catalog: Catalog, model: ModelRecord) -> None:
    catalog.close()
    catalog.close()
    with pytest.raises(Closed):
        catalog.create_model(ModelRecord("n", "linear", 1.0))
