"""Who serves: splits by hand, going back, putting away, and what an active rollout forbids."""

from __future__ import annotations

from typing import Any

import pytest

from everloop.core.errors import ArtifactCorrupt, Conflict, InvalidInput, VersionNotFound
from everloop.core.schema import Schema, Target
from everloop.policy.routing import bucket_of
from everloop.registry.plans import plan_of
from everloop.registry.rollouts import Rollouts
from everloop.registry.traffic import weights_of
from everloop.stores.ports import Manifest

from .conftest import House

MANIFEST = Manifest("linear", "regression", Schema.unnamed(2), Target("regression"))


@pytest.fixture
def house(house: House) -> House:
    """Four versions; the first is live."""
    house.registry.register("m", "linear", task="regression")
    for number in range(1, 5):
        house.registry.add_version("m", MANIFEST, b"%d" % number, live=number == 1, version_name=f"v{number}.0")
    house.told.clear()
    return house


def weights(house: House) -> dict[int, float]:
    return weights_of(house.registry.get("m"))


def test_nothing_serves_yet(house: House) -> None:
    assert weights_of(house.registry.register("n", "linear", task=None)) == {}


class TestSplit:
    def test_by_numbers_names_and_aliases(self, house: House) -> None:
        house.registry.set_alias("m", "best", 3)
        made = house.registry.set_traffic("m", {1: 0.7, "v2.0": 0.2, "best": 0.1}, note="a try", by="me")
        assert weights(house) == {1: 0.7, 2: 0.2, 3: 0.1}
        assert (made.live_version, made.shadow) == (1, None)
        assert made.allocation is not None
        assert made.allocation.salt == "m"
        assert house.told[-1].kind == "traffic"
        assert house.told[-1].message == "version 1: 70 %, version 2: 20 %, version 3: 10 %: a try"
        assert house.told[-1].data == {
            "weights": {"1": 0.7, "2": 0.2, "3": 0.1},
            "shadow": None,
            "live": 1,
            "previous": 1,
            "note": "a try",
            "by": "me",
        }
        assert [v.status for v in house.registry.versions("m")] == ["live", "staging", "staging", "staging"]

    def test_growing_moves_nobody_out(self, house: House) -> None:
        units = [bucket_of("m", str(n)) for n in range(3000)]
        seen: set[int] = set()
        for share in (0.05, 0.1, 0.5, 1.0):
            model = house.registry.set_traffic("m", {"champion": 1 - share, 2: share})
            mine = (
                set(units)
                if model.allocation is None
                else {unit for unit in units if model.allocation.version_of(unit) == 2}
            )
            assert mine >= seen
            seen = mine

    def test_all_for_one_is_no_split(self, house: House) -> None:
        house.registry.set_traffic("m", {1: 0.5, 2: 0.5})
        made = house.registry.set_traffic("m", {1: 0.0, 2: 1.0, 3: 0})
        assert (made.allocation, made.live_version) == (None, 2)
        assert [v.status for v in house.registry.versions("m")] == ["retired", "live", "staging", "staging"]
        assert house.registry.rollback("m").version == 1

    def test_the_live_version_stays_while_it_answers_anybody(self, house: House) -> None:
        assert house.registry.set_traffic("m", {1: 0.0001, 2: 0.9999}).live_version == 1
        assert house.registry.set_traffic("m", {2: 0.4, 3: 0.6}).live_version == 3
        assert house.registry.set_traffic("m", {2: 0.5, 4: 0.5}).live_version == 2

    def test_the_same_again_is_no_change(self, house: House) -> None:
        house.registry.set_traffic("m", {1: 0.5, 2: 0.5}, shadow=3)
        revision = house.registry.revision()
        house.registry.set_traffic("m", {2: 0.5, 1: 0.5}, shadow="v3.0")
        assert house.registry.revision() == revision
        assert house.kinds() == ["traffic"]

    def test_a_shadow(self, house: House) -> None:
        assert house.registry.set_traffic("m", {1: 1.0}, shadow="v2.0").shadow == 2
        assert house.told[-1].message == "version 1: 100 %; version 2 is its shadow"
        assert house.registry.set_traffic("m", {1: 1.0}).shadow is None
        with pytest.raises(InvalidInput, match="answers 20 %") as refused:
            house.registry.set_traffic("m", {1: 0.8, 2: 0.2}, shadow=2)
        assert refused.value.field == "shadow"

    @pytest.mark.parametrize(
        ("asked", "match"),
        [
            ({}, "sum to 1"),
            ({1: 0.5}, "sum to 1"),
            ({1: 0.5, 2: 0.500001}, "sum to 1"),
            ({1: 1.5, 2: -0.5}, "from 0 to 1"),
            ({1: float("nan")}, "from 0 to 1"),
            ({1: 0.5, "v1.0": 0.5}, "given twice"),
            ({1: 0.99999, 2: 0.00001}, "smallest share"),
        ],
    )
    def test_weights_that_are_refused(self, house: House, asked: Any, match: str) -> None:
        with pytest.raises(InvalidInput, match=match) as refused:
            house.registry.set_traffic("m", asked)
        assert refused.value.field == "weights"
        assert weights(house) == {1: 1.0}
        assert house.told == []

    def test_what_is_not_there_or_damaged_gets_nothing(self, house: House) -> None:
        with pytest.raises(VersionNotFound):
            house.registry.set_traffic("m", {1: 0.5, 9: 0.5})
        house.artifacts.delete(house.registry.version("m", 2).digest)
        for asked in ({1: 0.5, 2: 0.5}, {2: 1.0}):
            with pytest.raises(ArtifactCorrupt):
                house.registry.set_traffic("m", asked)
        with pytest.raises(ArtifactCorrupt):
            house.registry.set_traffic("m", {1: 1.0}, shadow=2)
        house.registry.set_traffic("m", {1: 1.0, 2: 0.0})
        assert weights(house) == {1: 1.0}

    def test_what_was_put_away_comes_back(self, house: House) -> None:
        house.registry.archive("m", 2)
        house.registry.set_traffic("m", {1: 0.9, 2: 0.1})
        assert house.registry.version("m", 2).status == "staging"


class TestGoingBack:
    def test_a_split_ends_first(self, house: House) -> None:
        house.registry.promote("m", 2)
        house.registry.set_traffic("m", {2: 0.9, 3: 0.1})
        assert house.registry.rollback("m", by="me").version == 2
        assert house.told[-1].message == "back from the split (version 2: 90 %, version 3: 10 %) to version 2"
        assert weights(house) == {2: 1.0}
        assert house.registry.rollback("m").version == 1

    def test_promoting_the_live_version_ends_a_split(self, house: House) -> None:
        house.registry.set_traffic("m", {1: 0.9, 3: 0.1})
        house.registry.promote("m", "champion")
        assert weights(house) == {1: 1.0}
        assert house.kinds() == ["traffic", "promoted"]


class TestArchive:
    def test_who_has_work_stays(self, house: House) -> None:
        house.registry.set_traffic("m", {1: 0.75, 2: 0.25}, shadow=3)
        for number, match in ((1, "is live"), (2, "answers 25 %"), (3, "its shadow")):
            with pytest.raises(Conflict, match=match):
                house.registry.archive("m", number)
        assert house.registry.archive("m", "v4.0", by="me").status == "archived"
        assert house.told[-1].data == {"from": "staging", "by": "me"}


class TestUnderARollout:
    @pytest.fixture
    def rollouts(self, house: House) -> Rollouts:
        rollouts = Rollouts(house.registry)
        rollouts.start("m", 2, plan_of("canary", steps="5,25"), by="test")
        house.told.clear()
        return rollouts

    @pytest.mark.parametrize(
        "act",
        [
            lambda r: r.promote("m", 3),
            lambda r: r.promote("m", 1),
            lambda r: r.set_traffic("m", {1: 0.5, 3: 0.5}),
            lambda r: r.archive("m", 2),
        ],
    )
    def test_what_it_forbids(self, house: House, rollouts: Rollouts, act: Any) -> None:
        with pytest.raises(Conflict, match=r"rollout 1 of 'm'.*first"):
            act(house.registry)
        assert weights(house) == {1: 0.95, 2: 0.05}
        assert house.told == []

    def test_promoting_its_challenger_promotes_it(self, house: House, rollouts: Rollouts) -> None:
        assert house.registry.promote("m", "challenger").version == 2
        ended = rollouts.get("m")
        assert ended is not None
        assert ended.state == "promoted"
        assert weights(house) == {2: 1.0}
        with pytest.raises(VersionNotFound, match="no challenger"):
            house.registry.resolve("m", "challenger")

    def test_going_back_rolls_it_back(self, house: House, rollouts: Rollouts) -> None:
        assert house.registry.rollback("m").version == 1
        ended = rollouts.get("m")
        assert ended is not None
        assert ended.state == "rolled_back"
        assert house.registry.version("m", 2).status == "rejected"
        assert weights(house) == {1: 1.0}

    def test_a_version_that_goes_live_past_it_ends_it(self, house: House, rollouts: Rollouts) -> None:
        house.registry.add_version("m", MANIFEST, b"5", live=True)
        ended = rollouts.get("m")
        assert ended is not None
        assert ended.state == "inconclusive"
        assert weights(house) == {5: 1.0}
        assert house.kinds() == ["rollout_ended", "published"]
