"""Rollouts in the registry: each action changes all that belongs together or nothing, and tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.core.errors import ArtifactCorrupt, Conflict, InvalidInput, ModelNotFound, VersionNotFound
from everloop.core.events import Event, EventBus
from everloop.core.schema import Schema, Target
from everloop.policy.rollout import Plan, Rollout, Step
from everloop.registry.catalog import Registry
from everloop.registry.rollouts import Rollouts, plan_of
from everloop.runtime.artifact import Trust
from everloop.stores.memory import MemoryCatalog, MemoryJournal
from everloop.stores.objects import FolderArtifacts, MemoryArtifacts
from everloop.stores.ports import ArtifactStore, Catalog, Journal, Manifest
from everloop.stores.sqlite import SqliteCatalog, SqliteJournal
from everloop.testing import ManualClock

REGRESSION = Target("regression")
MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), REGRESSION)
CANARY = plan_of("canary")


class House:
    """A registry over some stores, with two versions of one model, the first of them live."""

    def __init__(self, catalog: Catalog, artifacts: ArtifactStore, journal: Journal, clock: ManualClock) -> None:
        self.catalog, self.artifacts, self.journal, self.clock = catalog, artifacts, journal, clock
        self.told: list[Event] = []
        bus = EventBus()
        bus.subscribe(self.told.append)
        self.registry = Registry(catalog, artifacts, journal, bus, clock, Trust())
        self.rollouts = Rollouts(self.registry)
        self.registry.register("m", "linear", task="regression")
        self.publish(b"one", live=True)
        self.publish(b"two")
        self.told.clear()

    def publish(self, payload: bytes, *, live: bool = False) -> int:
        return self.registry.add_version("m", MANIFEST, payload, live=live).version

    def weights(self) -> dict[int, float] | None:
        allocation = self.registry.get("m").allocation
        return None if allocation is None else allocation.weights()

    def status(self, version: int) -> str:
        return self.registry.version("m", version).status

    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]

    def start(self, plan: Plan = CANARY, version: int = 2) -> Rollout:
        return self.rollouts.start("m", version, plan, by="test")


def made(kind: str, folder: Path, clock: ManualClock) -> House:
    if kind == "memory":
        journal = MemoryJournal(clock=clock)
        return House(MemoryCatalog(journal), MemoryArtifacts(), journal, clock)
    path = folder / "everloop.db"
    return House(SqliteCatalog(path), FolderArtifacts(folder / "artifacts"), SqliteJournal(path, clock=clock), clock)


@pytest.fixture(params=["memory", "sqlite"])
def house(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[House]:
    built = made(request.param, tmp_path, clock)
    yield built
    built.catalog.close()
    built.journal.close()


class TestWay:
    def test_a_canary_from_start_to_end(self, house: House) -> None:
        started = house.start()
        assert (started.id, started.state, started.champion, started.challenger) == (1, "running", 1, 2)
        assert house.weights() == {1: 0.99, 2: 0.01}
        assert (house.status(1), house.status(2)) == ("live", "staging")
        assert house.registry.resolve("m", "challenger") == 2
        first = set(_owned(house, 2))
        assert house.rollouts.advance("m", note="enough").step == 1
        assert house.weights() == {1: 0.95, 2: 0.05}
        assert first < set(_owned(house, 2)), "nobody is moved out of a growing canary"
        house.rollouts.advance("m")
        assert house.weights() == {1: 0.75, 2: 0.25}
        with pytest.raises(Conflict, match="last step"):
            house.rollouts.advance("m")
        ended = house.rollouts.promote("m")
        assert (ended.state, ended.ended_at) == ("promoted", house.clock.now())
        assert (house.weights(), house.registry.get("m").live_version) == (None, 2)
        assert (house.status(1), house.status(2)) == ("retired", "live")
        assert house.kinds() == [
            "rollout_started",
            "rollout_advanced",
            "rollout_advanced",
            "rollout_ended",
            "promoted",
        ]
        assert house.told[1].message == "version 2 now answers 5 %: enough"
        assert house.registry.timeline("m")[-5:] != []
        assert [event.kind for event in house.registry.timeline("m")][-5:] == house.kinds()
        assert house.registry.rollback("m").version == 1

    def test_rolled_back(self, house: House) -> None:
        house.start()
        ended = house.rollouts.roll_back("m", note="it looked wrong")
        assert (ended.state, ended.reason) == ("rolled_back", "it looked wrong")
        assert (house.weights(), house.registry.get("m").live_version) == (None, 1)
        assert (house.status(1), house.status(2)) == ("live", "rejected")
        assert house.told[-1].message == "version 2 is rolled back, version 1 answers everybody: it looked wrong"
        again = house.start()
        assert (again.id, house.status(2)) == (2, "staging")

    def test_without_a_verdict_the_challenger_waits(self, house: House) -> None:
        house.start()
        assert house.rollouts.finish("m").state == "inconclusive"
        assert (house.weights(), house.status(2)) == (None, "staging")

    def test_paused(self, house: House) -> None:
        house.start()
        house.rollouts.pause("m", note="lunch")
        assert house.weights() == {1: 0.99, 2: 0.01}
        with pytest.raises(Conflict, match="resume it first"):
            house.rollouts.advance("m")
        house.clock.advance(3600)
        resumed = house.rollouts.resume("m")
        assert resumed.step_at == house.clock.now()
        assert house.kinds() == ["rollout_started", "rollout_paused", "rollout_resumed"]

    def test_at_once(self, house: House) -> None:
        ended = house.start(plan_of("immediate"))
        assert (ended.state, house.registry.get("m").live_version) == ("promoted", 2)
        assert house.kinds() == ["rollout_started", "rollout_ended", "promoted"]

    def test_a_shadow_answers_nobody(self, house: House) -> None:
        house.start(plan_of("shadow"))
        assert (house.weights(), house.registry.get("m").shadow) == (None, 2)
        house.rollouts.roll_back("m")
        assert house.registry.get("m").shadow is None

    def test_blue_green(self, house: House) -> None:
        house.start(plan_of("blue_green"))
        assert house.weights() is None
        house.rollouts.advance("m")
        assert house.weights() == {2: 1.0}
        assert house.registry.get("m").live_version == 1, "the old one is the champion until the end"
        house.rollouts.roll_back("m")
        assert (house.weights(), house.registry.get("m").live_version) == (None, 1)

    def test_an_own_shadow_does_not_survive_its_canary(self, house: House) -> None:
        house.publish(b"three")
        house.registry.set_traffic("m", {1: 1.0}, shadow=3)
        house.start()
        assert house.registry.get("m").shadow == 3
        house.rollouts.finish("m")
        assert house.registry.get("m").shadow == 3
        house.start(version=3)
        assert house.registry.get("m").shadow is None


class TestRefused:
    def test_nothing_there(self, house: House) -> None:
        with pytest.raises(ModelNotFound):
            house.rollouts.start("n", 1, CANARY, by="test")
        with pytest.raises(VersionNotFound):
            house.start(version=9)
        with pytest.raises(Conflict, match="no rollout"):
            house.rollouts.pause("m")
        assert house.rollouts.get("m") is None
        assert list(house.rollouts.history("m")) == []

    def test_two_at_a_time(self, house: House) -> None:
        house.publish(b"three")
        house.start()
        with pytest.raises(Conflict, match="promote it, roll it back or stop it first"):
            house.start(version=3)

    def test_the_live_version(self, house: House) -> None:
        with pytest.raises(Conflict, match="live already"):
            house.start(version=1)

    def test_a_model_without_a_champion(self, house: House) -> None:
        house.registry.register("new", "linear", task="regression")
        house.registry.add_version("new", MANIFEST, b"first", live=False)
        with pytest.raises(Conflict, match="no live version"):
            house.rollouts.start("new", 1, CANARY, by="test")
        assert house.rollouts.start("new", 1, plan_of("immediate"), by="test").state == "promoted"
        assert house.registry.get("new").live_version == 1

    def test_traffic_that_is_split_by_hand(self, house: House) -> None:
        house.publish(b"three")
        house.registry.set_traffic("m", {1: 0.5, 2: 0.5})
        with pytest.raises(Conflict, match=r"split by hand \(version 1: 50 %, version 2: 50 %\)"):
            house.start(version=3)

    def test_another_shadow(self, house: House) -> None:
        house.publish(b"three")
        house.registry.set_traffic("m", {1: 1.0}, shadow=3)
        with pytest.raises(Conflict, match="end that shadow first"):
            house.start(plan_of("shadow"))

    def test_a_damaged_artifact(self, house: House) -> None:
        house.artifacts.delete(house.registry.version("m", 2).digest)
        with pytest.raises(ArtifactCorrupt):
            house.start()
        assert house.rollouts.get("m") is None

    def test_a_plan_that_cannot_be_carried_out(self, house: House) -> None:
        with pytest.raises(InvalidInput, match=r"steps\[1\].share"):
            house.start(Plan("canary", (Step(0.5), Step(0.1))))

    def test_who_has_not_seen_the_newest_does_not_act(self, house: House) -> None:
        seen = house.start()
        house.rollouts.advance("m", revision=seen.revision)
        before = house.rollouts.get("m")
        with pytest.raises(Conflict, match="changed meanwhile"):
            house.rollouts.promote("m", revision=seen.revision)
        assert house.rollouts.get("m") == before
        assert house.registry.get("m").live_version == 1


class TestOtherVerbs:
    """What promoting, going back, splitting and publishing mean while a rollout is active."""

    def test_promoting_the_challenger_ends_it(self, house: House) -> None:
        house.start()
        assert house.registry.promote("m", 2).version == 2
        ended = house.rollouts.get("m")
        assert ended is not None
        assert ended.state == "promoted"

    @pytest.mark.parametrize("version", [1, 3])
    def test_promoting_another_does_not(self, house: House, version: int) -> None:
        house.publish(b"three")
        house.start()
        with pytest.raises(Conflict, match="stop it first"):
            house.registry.promote("m", version)

    def test_going_back_rolls_it_back(self, house: House) -> None:
        house.start()
        assert house.registry.rollback("m").version == 1
        ended = house.rollouts.get("m")
        assert ended is not None
        assert ended.state == "rolled_back"

    def test_the_traffic_is_its_business(self, house: House) -> None:
        house.start()
        with pytest.raises(Conflict, match="stop it first"):
            house.registry.set_traffic("m", {1: 0.5, 2: 0.5})

    @pytest.mark.parametrize("version", [1, 2])
    def test_nobody_in_it_is_archived(self, house: House, version: int) -> None:
        house.start()
        with pytest.raises(Conflict):
            house.registry.archive("m", version)

    def test_a_version_that_goes_live_past_it_ends_it(self, house: House) -> None:
        house.start()
        house.publish(b"three", live=True)
        ended = house.rollouts.get("m")
        assert ended is not None
        assert ended.state == "inconclusive"
        assert ended.reason == "a newer version took its place"
        assert (house.weights(), house.registry.get("m").live_version) == (None, 3)

    def test_unregistering_takes_it_along(self, house: House) -> None:
        house.start()
        house.registry.unregister("m")
        assert list(house.rollouts.active()) == []


def _owned(house: House, version: int) -> list[int]:
    allocation = house.registry.get("m").allocation
    assert allocation is not None
    return [bucket for bucket, owner in enumerate(allocation.owners()) if owner == version]
