"""Registering, publishing, promoting, rolling back: each once, told once, and never half done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everloop.core.errors import ArtifactCorrupt, Conflict, InvalidInput, ModelNotFound, VersionNotFound
from everloop.core.schema import Schema, Target
from everloop.core.types import Label
from everloop.registry.catalog import Registry
from everloop.registry.deployment import desired
from everloop.stores.objects import FolderArtifacts
from everloop.stores.ports import Manifest
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.testing import ManualClock

from .conftest import House

REGRESSION = Target("regression")
MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), REGRESSION, metrics={"mae": 0.5})


def register(registry: Registry, name: str = "m", **changes: Any) -> Any:
    spec: dict[str, Any] = {"task": "regression", "parameters": {"with_bias": True, "sizes": (1, 2)}} | changes
    return registry.register(name, spec.pop("kind", "linear"), **spec)


def publish(registry: Registry, payload: bytes = b"a model", *, name: str = "m", live: bool = True) -> int:
    return registry.add_version(name, MANIFEST, payload, live=live).version


class TestRegister:
    def test_a_model_comes_back(self, house: House) -> None:
        made = register(house.registry, learning={"window": 500}, record=0.25)
        assert house.registry.get("m") == made
        assert house.registry.names() == ["m"]
        assert house.registry.list() == [made]
        assert (made.kind, made.task, made.record, made.created_at) == ("linear", "regression", 0.25, 1_000_000.0)
        assert house.kinds() == ["registered"]

    @pytest.mark.parametrize("name", ["a", "A9", "fraud-v2.eu_west", "0", "x" * 128])
    def test_names(self, registry: Registry, name: str) -> None:
        assert register(registry, name).name == name

    @pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "a b", "ä", "x" * 129, "a\n", None, 3, "../up"])
    def test_names_that_are_refused(self, house: House, name: Any) -> None:
        with pytest.raises(InvalidInput, match="name") as refused:
            register(house.registry, name)
        assert refused.value.field == "name"
        assert house.told == []

    @pytest.mark.parametrize("record", [-0.1, 1.1, float("nan"), "all", True, None])
    def test_a_share_that_is_refused(self, registry: Registry, record: Any) -> None:
        with pytest.raises(InvalidInput, match="record"):
            register(registry, record=record)

    def test_parameters_that_are_refused(self, registry: Registry) -> None:
        with pytest.raises(InvalidInput, match="parameters"):
            register(registry, parameters={"f": object()})

    def test_again_in_the_same_way_is_the_same_model(self, house: House) -> None:
        first = register(house.registry)
        house.clock.advance(100)
        assert register(house.registry) == first
        house.registry.fix_schema("m", Schema.unnamed(2), REGRESSION)
        assert register(house.registry).schema == Schema.unnamed(2)
        assert house.kinds() == ["registered", "schema"]

    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"kind": "ridge"}, "kind"),
            ({"parameters": {"with_bias": False}}, "parameters"),
            ({"task": "classification"}, "task"),
            ({"learning": {"window": 1}}, "learning"),
            ({"record": 0.5}, "record"),
            ({"schema": Schema.unnamed(5)}, "schema"),
            ({"template": b"an estimator"}, "template"),
        ],
    )
    def test_again_in_another_way_is_a_conflict(self, house: House, changes: dict[str, Any], word: str) -> None:
        register(house.registry, schema=Schema.unnamed(2))
        before = house.registry.get("m")
        with pytest.raises(Conflict, match=word):
            register(house.registry, **changes)
        assert house.registry.get("m") == before

    def test_what_was_open_may_be_settled_since(self, registry: Registry) -> None:
        register(registry, kind="auto", task=None)
        assert registry.fix_schema("m", Schema.unnamed(2), REGRESSION).task == "regression"
        assert register(registry, kind="auto", task=None).task == "regression"
        assert register(registry, kind="auto", task="regression").task == "regression"

    def test_templates_are_kept_and_not_compared_by_their_bytes(self, registry: Registry) -> None:
        register(registry, template=b"an estimator")
        assert registry.template("m") == b"an estimator"
        register(registry, template=b"the same, written in another order")
        assert registry.template("m") == b"an estimator"
        register(registry, "n")
        assert registry.template("n") is None


class TestSchema:
    def test_the_first_one_wins_and_is_told_once(self, house: House) -> None:
        register(house.registry)
        house.registry.fix_schema("m", Schema.of_names(["a", "b"]), None)
        house.registry.fix_schema("m", Schema.unnamed(7), REGRESSION)
        fixed = house.registry.fix_schema("m", Schema.unnamed(7), REGRESSION)
        assert fixed.schema == Schema.of_names(["a", "b"])
        assert fixed.target == REGRESSION
        assert house.kinds() == ["registered", "schema", "schema"]


class TestVersions:
    def test_publishing(self, house: House) -> None:
        register(house.registry)
        first = house.registry.add_version("m", MANIFEST, b"1", live=True, note="the first")
        assert (first.version, first.status, first.manifest, first.note) == (1, "live", MANIFEST, "the first")
        assert publish(house.registry, b"2", live=False) == 2
        assert publish(house.registry, b"3") == 3
        assert [v.status for v in house.registry.versions("m")] == ["retired", "staging", "live"]
        assert house.registry.live("m") == house.registry.version("m", 3)
        assert house.registry.payload(house.registry.version("m", 2)) == b"2"
        assert house.registry.get("m").schema == MANIFEST.schema
        assert house.kinds() == ["registered", "schema", "published", "published", "published"]
        assert house.told[2].message == "version 1 is live: the first"
        assert (house.told[3].version, house.told[3].data["live"], house.told[4].data["previous"]) == (2, False, 1)

    def test_what_does_not_fit_is_refused(self, house: House) -> None:
        register(house.registry, schema=Schema.unnamed(3))
        with pytest.raises(Conflict, match="3 features, this artifact 2"):
            publish(house.registry)
        register(house.registry, "c", kind="logistic", task="classification")
        with pytest.raises(Conflict, match="classification"):
            publish(house.registry, name="c")
        assert house.artifacts.digests() == []
        assert house.registry.versions("m") == house.registry.versions("c") == []

    def test_promoting(self, house: House) -> None:
        register(house.registry)
        publish(house.registry, b"1"), publish(house.registry, b"2", live=False)
        assert house.registry.promote("m", 2, note="looks good").status == "live"
        assert house.registry.promote("m", 2).status == "live"
        assert house.kinds()[-1] == "promoted"
        assert house.kinds().count("promoted") == 1
        assert house.told[-1].data == {"previous": 1, "from": "staging", "note": "looks good"}
        with pytest.raises(VersionNotFound):
            house.registry.promote("m", 3)

    def test_a_damaged_version_cannot_take_over(self, house: House) -> None:
        register(house.registry)
        publish(house.registry, b"1"), publish(house.registry, b"2", live=False)
        house.artifacts.delete(house.registry.version("m", 2).digest)
        with pytest.raises(ArtifactCorrupt):
            house.registry.promote("m", 2)
        assert house.registry.get("m").live_version == 1

    def test_rolling_back(self, house: House) -> None:
        register(house.registry)
        with pytest.raises(Conflict):
            house.registry.rollback("m")
        for payload in (b"1", b"2", b"3"):
            publish(house.registry, payload)
        assert house.registry.rollback("m", note="errors").version == 2
        assert house.told[-1].message == "back from version 3 to version 2: errors"
        assert house.registry.rollback("m").version == 1
        with pytest.raises(Conflict):
            house.registry.rollback("m")
        assert house.registry.get("m").live_version == 1

    def test_archiving(self, house: House) -> None:
        register(house.registry)
        publish(house.registry, b"1"), publish(house.registry, b"2")
        with pytest.raises(Conflict, match="live"):
            house.registry.archive("m", 2)
        assert house.registry.archive("m", 1).status == "archived"
        assert house.registry.archive("m", 1).status == "archived"
        assert house.kinds().count("archived") == 1
        with pytest.raises(Conflict):
            house.registry.rollback("m")


class TestUnregister:
    def test_everything_goes_but_the_timeline_and_the_numbers(self, house: House) -> None:
        registry = house.registry
        register(registry, template=b"t"), publish(registry, b"1"), publish(registry, b"2")
        house.journal.append_now([Label("m", 1.0, 0.0, row=[1.0, 2.0])])
        registry.unregister("m")
        assert registry.names() == []
        assert house.artifacts.digests() == []
        assert house.journal.examples("m") == []
        for act in (registry.get, registry.versions, registry.unregister, registry.template, registry.rollback):
            with pytest.raises(ModelNotFound):
                act("m")
        assert [e.kind for e in registry.timeline("m")][-1] == "unregistered"

        register(registry, kind="ridge")
        assert registry.get("m").live_version is None
        assert publish(registry, b"1") == 3
        with pytest.raises(Conflict):
            registry.rollback("m")

    def test_artifacts_that_others_use_stay(self, house: House) -> None:
        for name in ("m", "n"):
            register(house.registry, name)
            publish(house.registry, b"shared", name=name)
        house.registry.unregister("m")
        live = house.registry.live("n")
        assert live is not None
        assert house.registry.payload(live) == b"shared"


class TestTelling:
    def test_each_change_is_one_event_in_the_journal_and_on_the_bus(self, house: House) -> None:
        registry = house.registry
        register(registry)
        publish(registry, b"1"), publish(registry, b"2"), publish(registry, b"3", live=False)
        registry.promote("m", 3), registry.rollback("m"), registry.archive("m", 3), registry.unregister("m")
        kinds = [
            "registered",
            "schema",
            "published",
            "published",
            "published",
            "promoted",
            "rolled_back",
            "archived",
            "unregistered",
        ]
        assert house.kinds() == kinds
        timeline = registry.timeline("m")
        assert [e.kind for e in timeline] == kinds
        assert [e.message for e in timeline] == [e.message for e in house.told]
        assert registry.timeline("m", after=timeline[-3].id, limit=1) == timeline[-2:-1]

    def test_a_timeline_of_nobody(self, registry: Registry) -> None:
        with pytest.raises(ModelNotFound):
            registry.timeline("m")

    def test_watchers_are_woken_and_may_ask_the_registry(self, registry: Registry) -> None:
        seen: list[list[str]] = []
        unsubscribe = registry.subscribe_changes(lambda: seen.append(registry.names()))
        register(registry)
        assert seen == [["m"]]
        register(registry)
        assert seen == [["m"]]
        unsubscribe()
        registry.unregister("m")
        assert seen == [["m"]]

    @pytest.mark.parametrize(
        "act",
        [
            lambda r: r.promote("m", 9),
            lambda r: r.archive("m", 1),
            lambda r: register(r, kind="ridge"),
            lambda r: r.add_version(
                "m", MANIFEST.__class__("linear", "regression", Schema.unnamed(9), REGRESSION), b"", live=True
            ),
            lambda r: r.unregister("nobody"),
        ],
    )
    def test_what_failed_is_not_told(self, house: House, act: Callable[[Registry], Any]) -> None:
        register(house.registry), publish(house.registry)
        before, revision = len(house.told), house.registry.revision()
        with pytest.raises((Conflict, ModelNotFound, VersionNotFound)):
            act(house.registry)
        assert len(house.told) == before
        assert house.registry.revision() == revision


def test_desired(registry: Registry) -> None:
    register(registry, "a"), register(registry, "b"), register(registry, "c")
    publish(registry, b"1", name="a"), publish(registry, b"2", name="a"), publish(registry, b"3", name="b", live=False)
    assert {name: wanted.champion.version for name, wanted in desired(registry).items()} == {"a": 2}


OTHER_PROCESS = """
import sys
from pathlib import Path
from everloop.core.clock import SystemClock
from everloop.core.events import EventBus
from everloop.core.schema import Schema, Target
from everloop.registry.catalog import Registry
from everloop.runtime.artifact import Trust
from everloop.stores.objects import FolderArtifacts
from everloop.stores.ports import Manifest
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal

folder = Path(sys.argv[1])
clock = SystemClock()
journal = SqliteJournal(folder / "everloop.db", clock=clock)
catalog = SqliteCatalog(folder / "everloop.db")
registry = Registry(catalog, FolderArtifacts(folder / "artifacts"), journal, EventBus(), clock, Trust())
registry.register("m", "linear", task="regression")
registry.add_version("m", Manifest("linear", "regression", Schema.unnamed(2), Target("regression")), b"theirs", live=True)
print([v.version for v in registry.versions("m")])
catalog.close()
journal.close()
"""


def test_two_processes_see_each_others_changes(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "everloop.db"
    house = House(SqliteCatalog(path), FolderArtifacts(tmp_path / "artifacts"), SqliteJournal(path, clock=clock), clock)
    try:
        register(house.registry, parameters={}), publish(house.registry, b"ours")
        revision = house.registry.revision()
        told = subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert told.stderr == ""
        assert told.stdout.strip() == "[1, 2]"
        assert house.registry.revision() != revision
        assert desired(house.registry)["m"].champion.version == 2
        live = house.registry.live("m")
        assert live is not None
        assert house.registry.payload(live) == b"theirs"
        assert [e.kind for e in house.registry.timeline("m")][-1] == "published"
        assert publish(house.registry, b"ours again") == 3
    finally:
        house.journal.close()
        house.catalog.close()
