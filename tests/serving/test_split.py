"""A split: shares, units, weight 0, and that no change of it can tear an answer."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Any

import pytest

from everloop.core.errors import InvalidInput
from everloop.policy.routing import allocate
from everloop.serving.evidence import Tally
from everloop.serving.split import Split
from everloop.serving.table import Table


def split_of(kit: Any, plain_session: Any, weights: dict[int, float], champion: int = 1) -> Split:
    """Version n answers n * x."""
    lanes = {n: kit.lane(plain_session(1, lambda X, n=n: X[:, 0] * n), version=n) for n in {champion, *weights}}
    allocation = allocate(weights, salt="m")
    return Split(lanes[champion], [lane for n, lane in lanes.items() if n != champion], allocation)


def test_requests_without_a_unit_are_drawn_by_weight(kit: Any, plain_session: Any) -> None:
    split = split_of(kit, plain_session, {1: 0.7, 2: 0.2, 3: 0.1})
    drawn = Counter(split.route().lane.version for _ in range(100_000))
    for version, weight in split.weights.items():
        assert abs(drawn[version] - 100_000 * weight) <= 5 * math.sqrt(100_000 * weight * (1 - weight))


def test_a_unit_always_meets_the_same_version(kit: Any, plain_session: Any) -> None:
    split = split_of(kit, plain_session, {1: 0.5, 2: 0.5})
    met = {unit: split.choose(unit).version for unit in map(str, range(200))}
    assert set(met.values()) == {1, 2}
    for unit, version in met.items():
        assert split.route(unit).lane.version == version
        assert split.answer_named([3.0], unit).prediction == 3.0 * version
        assert split.route(unit).answer_rows([[3.0], [4.0]]).model_version == version


def test_weight_0_gets_nothing_and_is_open_all_the_same(kit: Any, plain_session: Any) -> None:
    split = split_of(kit, plain_session, {1: 1.0, 2: 0.0})
    assert {split.route().lane.version for _ in range(20_000)} == {1}
    assert {split.route(str(i)).lane.version for i in range(20_000)} == {1}
    assert {split.answer([1.0]).model_version for _ in range(1_000)} == {1}
    assert set(split.by_version) == {1, 2}


def test_all_weight_may_be_another_versions_than_the_champions(kit: Any, plain_session: Any) -> None:
    """Blue and green: the champion stays open and gets nothing."""
    split = split_of(kit, plain_session, {2: 1.0})
    assert {split.answer([1.0]).model_version for _ in range(1_000)} == {2}
    assert split.champion.version == 1


def test_buckets_of_a_version_that_is_not_open_are_the_champions(kit: Any, plain_session: Any) -> None:
    lane = kit.lane(plain_session(1), version=1)
    split = Split(lane, [], allocate({1: 0.2, 2: 0.8}, salt="m"))
    assert split.weights == {1: 1.0}


def test_a_withdrawn_version_is_drawn_by_nobody_and_nothing_is_counted_any_more(kit: Any, plain_session: Any) -> None:
    lanes = [kit.lane(plain_session(1), version=n) for n in (1, 2)]
    tallies = {1: Tally(), 2: Tally()}
    split = Split(lanes[0], lanes[1:], allocate({1: 0.5, 2: 0.5}, salt="m"), tallies=tallies)
    answer = split.answer
    split.withdraw(2)
    assert {answer([1.0]).model_version for _ in range(200)} == {1}
    assert {split.route(str(i)).lane.version for i in range(200)} == {1}
    assert split.route().tally not in tallies.values()


@pytest.mark.parametrize("unit", ["", "x" * 257, 3, b"u", ["u"], True])
def test_what_is_no_unit_is_refused_by_name(kit: Any, plain_session: Any, unit: Any) -> None:
    kit.publish("one", [1.0])
    kit.reconciler.step()
    split = split_of(kit, plain_session, {1: 0.5, 2: 0.5})
    for ask in (
        lambda: split.route(unit),
        lambda: split.choose(unit),
        lambda: kit.predictor.predict("one", [1.0], unit),
        lambda: kit.predictor.predict_batch("one", [[1.0]], unit),
    ):
        with pytest.raises(InvalidInput) as caught:
            ask()
        assert caught.value.field == "unit"


def test_an_invalid_row_is_nobodys_failure(kit: Any) -> None:
    kit.play()
    for _ in range(20):
        with pytest.raises(InvalidInput):
            kit.predictor.predict("m", ["x"])
        with pytest.raises(InvalidInput):
            kit.predictor.predict_batch("m", [["x"]], "somebody")
    seen = kit.seen()
    assert seen.champion.requests == seen.challenger.requests == seen.champion.failed == seen.challenger.failed == 0


def test_a_table_knows_all_versions_and_lets_them_go(kit: Any, plain_session: Any) -> None:
    split = split_of(kit, plain_session, {1: 0.5, 2: 0.5})
    other = kit.lane(plain_session(1), name="other")
    table = Table().with_lane(other).with_split(split)
    assert [(lane.name, lane.version) for lane in table.all_lanes] == [("other", 1), ("m", 1), ("m", 2)]
    assert table.lanes["m"] is split.champion
    assert table.answers["m"] is split.answer
    assert table.answers["other"] is other.answer
    assert set(table.versions("m")) == {1, 2}
    assert table.versions("nobody") == {}
    alone = table.with_lane(split.by_version[2])
    assert not alone.splits
    assert alone.answers["m"] is split.by_version[2].answer
    assert set(table.without("m").versions("m")) == set()


def test_no_answer_is_torn_while_weights_and_versions_change(kit: Any) -> None:
    """Version n answers n for input 1. Threads ask singly, by unit and by batch, while weights change and challengers take over."""
    kit.publish("m", [1.0])
    kit.reconciler.step()
    stop = threading.Event()
    wrong: list[Any] = []
    seen: set[int] = set()

    def ask(turn: int) -> None:
        while not stop.is_set():
            one = kit.predictor.predict("m", [1.0], f"user-{turn}" if turn % 2 else None)
            many = kit.predictor.predict_batch("m", [[1.0], [1.0], [1.0]])
            if one.prediction != one.model_version or set(many.predictions) != {many.model_version}:
                wrong.append((one, many))
            seen.add(one.model_version)

    threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 12):
            kit.publish("m", [float(version)], live=False)
            for share in (0.01, 0.5, 0.9, 0.0, 0.25):
                kit.registry.set_traffic("m", {version - 1: 1 - share, version: share})
                kit.reconciler.step()
            kit.registry.promote("m", version)
            kit.reconciler.step()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(seen) > 2
