"""What every catalog must do with changes: whole or not at all, one after the other, with their events, and with rollouts."""

from __future__ import annotations

import threading

import msgspec
import pytest

from everloop.core.errors import Closed, Conflict, InvalidInput, ModelNotFound, VersionNotFound
from everloop.core.events import Event
from everloop.core.schema import Schema, Target
from everloop.policy.rollout import Plan, Rollout, Step
from everloop.policy.routing import allocate
from everloop.stores.ports import Catalog, Journal, Manifest, ModelRecord, Report, Shelf, VersionRecord

MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), Target("regression"))
PLAN = Plan("canary", (Step(0.05, samples=10), Step(0.5)))


def version(number: int, name: str = "", model: str = "m") -> VersionRecord:
    return VersionRecord(model, number, "d" * 64, "staging", 5.0, MANIFEST, name=name, tags={"who": "CI"})


def rollout(shelf: Shelf, state: str = "running") -> Rollout:
    made = Rollout(shelf.model.name, shelf.next_rollout(), PLAN, 1, 2, state, 0, 5.0, 5.0, by="test")  # type: ignore[arg-type]
    shelf.put_rollout(made)
    return made


def started(catalog: Catalog, model: str = "m") -> Rollout:
    with catalog.change(model) as shelf:
        return rollout(shelf)


class Stop(Exception):
    """What goes wrong inside a change."""


@pytest.fixture
def model(catalog: Catalog) -> ModelRecord:
    record = ModelRecord("m", "linear", 1.0)
    catalog.create_model(record)
    return record


def unreadable_versions() -> list[VersionRecord]:
    good = version(1)
    return [
        msgspec.structs.replace(good, note=None),
        msgspec.structs.replace(good, note="\ud800"),
        msgspec.structs.replace(good, tags={"a": 1}),
        msgspec.structs.replace(good, manifest=msgspec.structs.replace(MANIFEST, metrics={"r2": float("nan")})),
        msgspec.structs.replace(good, manifest=msgspec.structs.replace(MANIFEST, lineage={"at": object()})),
    ]


class TestReadable:
    """What could not be read again would take the whole model with it."""

    @pytest.mark.parametrize("record", unreadable_versions())
    def test_versions(self, catalog: Catalog, model: ModelRecord, record: VersionRecord) -> None:
        with pytest.raises(InvalidInput, match="version cannot be stored"), catalog.change("m") as shelf:
            shelf.put_version(record)
        assert catalog.versions("m") == []

    def test_models_and_rollouts(self, catalog: Catalog, model: ModelRecord) -> None:
        with pytest.raises(InvalidInput, match="model cannot be stored"), catalog.change("m") as shelf:
            shelf.put_model(msgspec.structs.replace(model, aliases={"best": None}))
        with pytest.raises(InvalidInput, match="rollout cannot be stored"), catalog.change("m") as shelf:
            shelf.put_rollout(msgspec.structs.replace(rollout(shelf), by=None))
        with pytest.raises(InvalidInput, match="model cannot be stored"):
            catalog.create_model(ModelRecord("n", "linear", 1.0, task="juggling"))  # type: ignore[arg-type]
        assert (catalog.list_models(), catalog.rollouts("m")) == ([model], [])


class TestNew:
    """A model that is made by the first change of it."""

    def test_it_is_made_once(self, catalog: Catalog, timeline: Journal) -> None:
        record = ModelRecord("m", "linear", 1.0)
        for created in (True, False):
            with catalog.change("m", record) as shelf:
                assert (shelf.created, shelf.model) == (created, record)
                shelf.put_version(version(shelf.next_number()))
                shelf.log(Event("m", "published", 1.0))
        assert [v.version for v in catalog.versions("m")] == [1, 2]
        assert (catalog.revision(), len(timeline.events(model="m"))) == (2, 2)

    def test_not_if_the_change_fails(self, catalog: Catalog) -> None:
        with pytest.raises(Stop), catalog.change("m", ModelRecord("m", "linear", 1.0)):
            raise Stop
        with pytest.raises(InvalidInput), catalog.change("m", ModelRecord("m", None, 1.0)):  # type: ignore[arg-type]
            pass
        assert (catalog.list_models(), catalog.revision()) == ([], 0)
        with pytest.raises(ModelNotFound), catalog.change("m"):
            pass

    def test_a_change_that_only_makes_it_counts(self, catalog: Catalog) -> None:
        with catalog.change("m", ModelRecord("m", "linear", 1.0)):
            pass
        assert (len(catalog.list_models()), catalog.revision()) == (1, 1)

    def test_one_goes_only_as_it_was_seen(self, catalog: Catalog, model: ModelRecord) -> None:
        with catalog.change("m") as shelf:
            shelf.put_version(version(shelf.next_number()))
        for others in ([], [2], [1, 2]):
            with pytest.raises(Conflict, match="other versions"):
                catalog.delete_model("m", versions=others)
        catalog.delete_model("m", versions=[1])
        assert catalog.list_models() == []


class TestWhole:
    def test_what_is_put_is_read_inside_and_afterwards(
        self, catalog: Catalog, timeline: Journal, model: ModelRecord
    ) -> None:
        rich = msgspec.structs.replace(
            model,
            allocation=allocate({1: 0.9, 2: 0.1}, salt="m"),
            shadow=3,
            aliases={"best": 1},
            rollout={"strategy": "canary"},
        )
        with catalog.change("m") as shelf:
            assert shelf.model == model
            assert (shelf.history, shelf.versions(), shelf.rollout(), shelf.rollouts()) == ([], [], None, [])
            number = shelf.next_number()
            shelf.put_version(version(number, "v1.0"))
            shelf.put_model(rich, [1])
            first = rollout(shelf)
            assert shelf.version(number) == version(1, "v1.0")
            assert (shelf.model, shelf.history) == (rich, [1])
            assert shelf.rollout() == first
            shelf.put_rollout(msgspec.structs.replace(first, state="promoted"))
            second = rollout(shelf)
            shelf.log(Event("m", "published", 5.0, "a version", 1, {"x": [1, None]}))
            shelf.log(Event("m", "rollout_started", 5.0))
        assert catalog.get_model("m") == rich
        assert catalog.versions("m") == [version(1, "v1.0")]
        assert catalog.rollout("m") == second
        assert [r.state for r in catalog.rollouts("m")] == ["promoted", "running"]
        told = timeline.events(model="m")
        assert [(e.kind, e.message, e.version, e.data) for e in told] == [
            ("published", "a version", 1, {"x": [1, None]}),
            ("rollout_started", "", None, {}),
        ]
        assert 0 < told[0].id < told[1].id

    def test_history_is_kept_unless_it_is_given(self, catalog: Catalog, model: ModelRecord) -> None:
        with catalog.change("m") as shelf:
            shelf.put_model(model, [1, 2, 1])
        with catalog.change("m") as shelf:
            shelf.put_model(msgspec.structs.replace(model, shadow=2))
            assert shelf.history == [1, 2, 1]
        with catalog.look("m") as shelf:
            assert (shelf.history, shelf.model.shadow) == ([1, 2, 1], 2)

    def test_nothing_is_left_of_a_change_that_fails(
        self, catalog: Catalog, timeline: Journal, model: ModelRecord
    ) -> None:
        catalog.add_version("m", "d" * 64, MANIFEST, now=1.0)
        before, revision = catalog.versions("m"), catalog.revision()
        with pytest.raises(Stop), catalog.change("m") as shelf:  # noqa: PT012 - the block is what fails
            shelf.put_model(msgspec.structs.replace(model, shadow=1), [1])
            shelf.put_version(msgspec.structs.replace(shelf.version(1), status="live"))
            shelf.put_version(version(shelf.next_number()))
            rollout(shelf)
            shelf.log(Event("m", "traffic", 5.0))
            raise Stop
        assert catalog.get_model("m") == model
        assert catalog.versions("m") == before
        assert catalog.rollouts("m") == [] == catalog.active_rollouts()
        assert timeline.events(model="m") == []
        assert catalog.revision() == revision
        with catalog.change("m") as shelf:  # and it holds no lock
            assert shelf.history == []
            assert (shelf.next_number(), shelf.next_rollout()) == (2, 1)

    def test_nothing_is_seen_outside_before_it_ends(
        self, catalog: Catalog, timeline: Journal, model: ModelRecord
    ) -> None:
        seen: list[object] = []

        def look() -> None:
            seen.extend((catalog.get_model("m").shadow, catalog.versions("m"), catalog.rollouts("m")))
            seen.extend((catalog.list_models(), timeline.events(model="m")))

        with catalog.change("m") as shelf:
            shelf.put_model(msgspec.structs.replace(model, shadow=1))
            shelf.put_version(version(shelf.next_number()))
            rollout(shelf)
            shelf.log(Event("m", "traffic", 5.0))
            reader = threading.Thread(target=look)
            reader.start()
            reader.join(60)
        assert seen == [None, [], [], [model], []]
        assert catalog.get_model("m").shadow == 1

    def test_a_look_is_one_state(self, catalog: Catalog, model: ModelRecord) -> None:
        def change() -> None:
            with catalog.change("m") as shelf:
                shelf.put_version(version(shelf.next_number()))
                shelf.put_model(msgspec.structs.replace(model, live_version=1))

        with catalog.look("m") as shelf:
            assert shelf.model.live_version is None
            other = threading.Thread(target=change)
            other.start()
            other.join(60)
            assert shelf.versions() == []
        assert catalog.get_model("m").live_version == 1

    def test_a_change_of_nobody(self, catalog: Catalog, model: ModelRecord) -> None:
        with pytest.raises(ModelNotFound, match="did you mean 'm'"), catalog.change("mm"):
            raise AssertionError("entered")
        for act in (catalog.rollout, catalog.rollouts):
            with pytest.raises(ModelNotFound):
                act("n")
        with pytest.raises(ModelNotFound), catalog.look("n"):
            raise AssertionError("entered")

    def test_a_change_inside_a_change_is_refused(self, catalog: Catalog, model: ModelRecord) -> None:
        with catalog.change("m") as shelf:
            with pytest.raises(RuntimeError, match="inside another"), catalog.change("m"):
                raise AssertionError("entered")
            with pytest.raises(RuntimeError, match="inside another"):
                catalog.set_live("m", 1)
            shelf.put_version(version(shelf.next_number()))
        assert catalog.set_live("m", 1).status == "live"

    def test_closed(self, catalog: Catalog, model: ModelRecord) -> None:
        catalog.close()
        with pytest.raises(Closed), catalog.change("m"):
            raise AssertionError("entered")


class TestVersionsOfAShelf:
    def test_names_are_unique(self, catalog: Catalog, model: ModelRecord) -> None:
        catalog.create_model(ModelRecord("n", "linear", 1.0))
        assert catalog.add_version("m", "d" * 64, MANIFEST, now=1.0, name="v1").name == "v1"
        catalog.add_version("n", "d" * 64, MANIFEST, now=1.0, name="v1")
        catalog.add_version("m", "d" * 64, MANIFEST, now=1.0), catalog.add_version("m", "d" * 64, MANIFEST, now=1.0)
        with pytest.raises(Conflict, match="version 1 of 'm' is already named 'v1'"):
            catalog.add_version("m", "d" * 64, MANIFEST, now=1.0, name="v1")
        with pytest.raises(Conflict, match="v1"), catalog.change("m") as shelf:
            shelf.put_version(msgspec.structs.replace(shelf.version(2), name="v1"))
        assert [v.name for v in catalog.versions("m")] == ["v1", "", ""]
        with catalog.change("m") as shelf:  # the name of a version that is gone is free
            shelf.put_version(msgspec.structs.replace(shelf.version(1), name="v1", note="itself"))
            shelf.delete_version(1)
            shelf.put_version(msgspec.structs.replace(shelf.version(2), name="v1"))
        assert [(v.version, v.name) for v in catalog.versions("m")] == [(2, "v1"), (3, "")]

    def test_a_deleted_number_is_not_given_again(self, catalog: Catalog, model: ModelRecord) -> None:
        catalog.add_version("m", "d" * 64, MANIFEST, now=1.0)
        with catalog.change("m") as shelf:
            shelf.delete_version(1)
            with pytest.raises(VersionNotFound):
                shelf.delete_version(1)
            with pytest.raises(VersionNotFound, match="none yet"):
                shelf.version(1)
        assert catalog.add_version("m", "d" * 64, MANIFEST, now=1.0).version == 2

    @pytest.mark.parametrize("number", [0, -1, 2**63, 10**40])
    def test_numbers_that_no_version_has(self, catalog: Catalog, model: ModelRecord, number: int) -> None:
        with pytest.raises(VersionNotFound):
            catalog.get_version("m", number)

    def test_going_live_ends_a_split(self, catalog: Catalog, model: ModelRecord) -> None:
        for _ in range(3):
            catalog.add_version("m", "d" * 64, MANIFEST, now=1.0)
        catalog.set_live("m", 1)
        with catalog.change("m") as shelf:
            split = allocate({1: 0.5, 2: 0.5}, salt="m")
            shelf.put_model(msgspec.structs.replace(shelf.model, allocation=split, shadow=3))
        assert catalog.set_live("m", 1).status == "live"
        after = catalog.get_model("m")
        assert (after.live_version, after.allocation, after.shadow) == (1, None, 3)
        with catalog.look("m") as shelf:
            assert shelf.history == [1]
        catalog.set_live("m", 3)
        assert catalog.get_model("m").shadow is None

    def test_rolling_back_passes_over_what_was_collected(self, catalog: Catalog, model: ModelRecord) -> None:
        for _ in range(3):
            catalog.add_version("m", "d" * 64, MANIFEST, now=1.0, status="live")
        with catalog.change("m") as shelf:
            shelf.put_version(msgspec.structs.replace(shelf.version(2), collected=True))
        assert catalog.roll_back("m").version == 1


class TestEvents:
    def test_creating_and_deleting_tell_of_themselves(self, catalog: Catalog, timeline: Journal) -> None:
        catalog.create_model(ModelRecord("m", "linear", 1.0), Event("m", "registered", 1.0, "hello"))
        with pytest.raises(Conflict):
            catalog.create_model(ModelRecord("m", "linear", 1.0), Event("m", "registered", 1.0, "again"))
        catalog.delete_model("m", Event("m", "unregistered", 2.0, "bye"))
        with pytest.raises(ModelNotFound):
            catalog.delete_model("m", Event("m", "unregistered", 2.0, "again"))
        assert [e.message for e in timeline.events(model="m")] == ["hello", "bye"]

    def test_an_event_that_cannot_be_kept_is_the_end_of_its_change(
        self, catalog: Catalog, timeline: Journal, model: ModelRecord
    ) -> None:
        with pytest.raises(ValueError, match="cannot be stored"), catalog.change("m") as shelf:  # noqa: PT012 - as above
            shelf.put_model(msgspec.structs.replace(model, shadow=1))
            shelf.log(Event("m", "traffic", 5.0, data={"what": object()}))
        assert catalog.get_model("m") == model
        assert timeline.events(model="m") == []

    def test_they_stand_in_the_order_of_the_changes(
        self, catalog: Catalog, timeline: Journal, model: ModelRecord
    ) -> None:
        def change(which: str) -> None:
            for n in range(20):
                with catalog.change("m") as shelf:
                    number = shelf.next_number()
                    shelf.log(Event("m", "published", 1.0, which, number, {"n": n}))

        threads = [threading.Thread(target=change, args=(which,)) for which in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        told = timeline.events(model="m", limit=1000)
        assert [e.version for e in told] == list(range(1, 61))
        assert sorted(e.id for e in told) == [e.id for e in told]


class TestOneAfterTheOther:
    def test_no_change_is_lost(self, catalog: Catalog, model: ModelRecord) -> None:
        catalog.create_model(ModelRecord("n", "linear", 1.0))

        def count(name: str) -> None:
            for _ in range(25):
                with catalog.change(name) as shelf:
                    seen = shelf.model.parameters.get("n", 0)
                    shelf.put_model(msgspec.structs.replace(shelf.model, parameters={"n": seen + 1}))

        threads = [threading.Thread(target=count, args=(name,)) for name in ("m", "m", "n", "m")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert catalog.get_model("m").parameters == {"n": 75}
        assert catalog.get_model("n").parameters == {"n": 25}


class TestRollouts:
    def test_ids_are_taken_one_by_one_and_outlive_the_model(self, catalog: Catalog, model: ModelRecord) -> None:
        assert started(catalog).id == 1
        assert started(catalog).id == 2
        with pytest.raises(Conflict, match="rollout 3"), catalog.change("m") as shelf:
            shelf.put_rollout(msgspec.structs.replace(catalog.rollouts("m")[0], id=3))
        with catalog.change("m") as shelf:
            shelf.next_number()
        catalog.delete_model("m")
        with pytest.raises(ModelNotFound):
            catalog.rollouts("m")
        catalog.create_model(model)
        assert catalog.rollouts("m") == []
        assert started(catalog).id == 3
        with catalog.change("m") as shelf:
            assert shelf.next_number() == 2

    def test_active_ones_of_all_models(self, catalog: Catalog, model: ModelRecord) -> None:
        for name in ("b", "a"):
            catalog.create_model(ModelRecord(name, "linear", 1.0))
            started(catalog, name)
        first = started(catalog)
        with catalog.change("m") as shelf:
            shelf.put_rollout(msgspec.structs.replace(first, state="paused"))
        assert [(r.model, r.state) for r in catalog.active_rollouts()] == [
            ("a", "running"),
            ("b", "running"),
            ("m", "paused"),
        ]
        with catalog.change("m") as shelf:
            shelf.put_rollout(msgspec.structs.replace(first, state="rolled_back"))
        catalog.delete_model("b")
        assert [r.model for r in catalog.active_rollouts()] == ["a"]

    def test_reports_are_kept_by_source(self, catalog: Catalog, model: ModelRecord) -> None:
        first, second = started(catalog), started(catalog)
        assert catalog.reports("m", first.id) == []
        catalog.put_report("m", first.id, Report("b", 1.0, b"\x00one"))
        catalog.put_report("m", first.id, Report("a", 2.0, b""))
        catalog.put_report("m", first.id, Report("b", 3.0, b"\x00two"))
        catalog.put_report("m", second.id, Report("b", 4.0, b"other"))
        assert catalog.reports("m", first.id) == [Report("a", 2.0, b""), Report("b", 3.0, b"\x00two")]
        assert catalog.reports("m", second.id) == [Report("b", 4.0, b"other")]

    def test_reports_of_what_is_not_there_are_not_kept(self, catalog: Catalog, model: ModelRecord) -> None:
        catalog.put_report("m", 1, Report("a", 1.0, b"early"))
        catalog.put_report("nobody", 1, Report("a", 1.0, b"lost"))
        assert started(catalog).id == 1
        assert catalog.reports("m", 1) == []

    def test_findings_are_compared_and_set(self, catalog: Catalog, model: ModelRecord) -> None:
        first = started(catalog)
        assert catalog.findings("m", 1) is None
        assert catalog.put_findings("m", 1, b"one", step_revision=1)
        assert not catalog.put_findings("m", 1, b"two", step_revision=2)
        assert not catalog.put_findings("m", 2, b"two", step_revision=1)
        assert not catalog.put_findings("n", 1, b"two", step_revision=1)
        assert catalog.findings("m", 1) == b"one"
        with catalog.change("m") as shelf:
            shelf.put_rollout(msgspec.structs.replace(first, step=1, revision=2))
        assert catalog.findings("m", 1) == b"one"
        assert not catalog.put_findings("m", 1, b"two", step_revision=1)
        assert catalog.put_findings("m", 1, b"three\x00", step_revision=2)
        assert catalog.findings("m", 1) == b"three\x00"
        assert catalog.findings("m", 2) is None is catalog.findings("n", 1)

    def test_reports_and_findings_go_with_the_model(self, catalog: Catalog, model: ModelRecord) -> None:
        started(catalog)
        catalog.put_report("m", 1, Report("a", 1.0, b"x"))
        catalog.put_findings("m", 1, b"x", step_revision=1)
        catalog.delete_model("m")
        catalog.create_model(model)
        assert (catalog.reports("m", 1), catalog.findings("m", 1)) == ([], None)


def test_the_revision_counts_changes_and_nothing_else(catalog: Catalog, model: ModelRecord) -> None:
    seen = catalog.revision()

    def changed() -> bool:
        nonlocal seen
        before, seen = seen, catalog.revision()
        assert seen - before in {0, 1}
        return seen != before

    with catalog.change("m") as shelf:
        for _ in range(5):
            shelf.put_version(version(shelf.next_number()))
        shelf.put_model(shelf.model, [1])
        rollout(shelf)
    assert changed()
    with catalog.change("m") as shelf:
        shelf.put_rollout(msgspec.structs.replace(shelf.rollouts()[0], revision=2))
    assert changed()
    with catalog.change("m") as shelf:
        shelf.delete_version(5)
    assert changed()
    catalog.put_report("m", 1, Report("a", 1.0, b"x"))
    catalog.put_report("m", 1, Report("a", 2.0, b"y"))
    assert catalog.put_findings("m", 1, b"x", step_revision=2)
    with catalog.change("m") as shelf:
        assert shelf.rollout() is not None
        shelf.log(Event("m", "noted", 1.0))
    with catalog.look("m") as shelf:
        shelf.versions()
    assert not changed()
