"""What a version remembers in process: whose answers, for whom, for how long, and that a hit is a prediction like any other."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.core.errors import EverloopError, InvalidInput, ModelFailed
from everloop.core.schema import Field, Schema, Target
from everloop.registry.clearing import clear_answers
from everloop.serving.answers import freeze, pack_answers, size_of, unpack_answers
from everloop.serving.cache import AnswerCache, VersionCache
from everloop.serving.cache_config import CacheConfig
from everloop.stores.memory import MemoryAnswers
from everloop.stores.ports import ModelRecord
from everloop.testing import ManualClock

SCALARS = st.floats() | st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.text(max_size=9)
ARRAYS = st.sampled_from(["?", "u1", "<i8", "<f2", "<f4", "<f8"]).flatmap(
    lambda dtype: st.integers(0, 4).map(lambda n: np.arange(2 * n).reshape(n, 2).astype(dtype))
)
TEXTS = st.lists(st.text(max_size=3) | st.binary(max_size=3), max_size=4).map(
    lambda values: np.array([*values, None])[:-1]
)


def remember(cache: AnswerCache, lane: Any, ttl: float = 300.0) -> VersionCache:
    cached = cache.version(lane.record, ModelRecord(lane.name, "artifact", 0.0), ttl)
    lane.remember(cached)
    return cached


@pytest.fixture
def cache(clock: ManualClock) -> AnswerCache:
    return AnswerCache(CacheConfig(), clock)


# -- answers as they are kept --


@given(st.lists(SCALARS, max_size=5))
def test_predictions_come_back_as_they_were(values: list[Any]) -> None:
    packed = pack_answers(freeze(values))
    assert packed is not None
    found = unpack_answers(packed)
    assert repr(found) == repr(tuple(values))
    assert [type(value) for value in found or ()] == [type(value) for value in values]


@given(st.dictionaries(st.text(max_size=3), ARRAYS | TEXTS, max_size=3))
def test_tensors_come_back_as_they_were_and_nobody_may_change_them(tensors: dict[str, Any]) -> None:
    kept = freeze(tensors)
    packed = pack_answers(kept)
    assert packed is not None
    found: Any = unpack_answers(packed)
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        for copy in (found[name], kept[name]):
            assert copy.dtype == array.dtype
            assert copy.shape == array.shape
            assert copy.tolist() == array.tolist()
            assert not copy.flags.writeable
            assert not np.shares_memory(copy, array)
    assert size_of(kept) >= sum(array.nbytes for array in tensors.values())


@given(
    st.binary(max_size=60)
    | st.binary(max_size=60).map(lambda b: b"t" + b)
    | st.binary(max_size=60).map(lambda b: b"r" + b)
)
def test_what_somebody_else_wrote_is_nothing(packed: bytes) -> None:
    found = unpack_answers(packed)
    assert found is None or isinstance(found, (tuple, dict))


def test_a_size_that_its_content_does_not_have_is_nothing() -> None:
    packed = b"t" + msgspec.msgpack.encode({"y": ("<f8", [3], b"12345678")})
    assert unpack_answers(packed) is None
    assert unpack_answers(b"t" + msgspec.msgpack.encode({"y": ("O", [1], b"12345678")})) is None


# -- in process --


def test_the_model_is_asked_once_and_every_answer_is_recorded(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    session = plain_session(2)
    lane = kit.lane(session)
    cached = remember(cache, lane)
    features = [[1.0, 2.0], (1.0, 2.0), np.array([1.0, 2.0]), [1, 2], [np.float32(1.0), 2.0], [True, 2.0]]
    answers = [lane.answer(each) for each in features]
    assert [a.prediction for a in answers] == [3.0] * 6
    assert session.batches == [1]
    assert len({a.request_id for a in answers}) == 6
    recorded = kit.recorded()
    assert {a.request_id: recorded[a.request_id] for a in answers} == dict.fromkeys(
        (a.request_id for a in answers), ([1.0, 2.0], 3.0)
    )
    assert cached.counts.told() == {"hits": 5, "joined": 0, "misses": 1, "shared": 0}


def test_names_text_and_classes(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    schema = Schema((Field("size"), Field("town", "text"), Field("age", nullable=True)), named=True)
    session = plain_session(
        3, lambda X: np.array(["small"] * len(X)), schema=schema, target=Target("classification", "text")
    )
    session.classes = ["small", "large"]
    lane = kit.lane(session)
    remember(cache, lane)
    features = [{"size": 1, "town": "Rome"}, [1.0, "Rome", None], {"town": "Rome", "size": 1.0, "age": float("nan")}]
    assert [lane.answer(each).prediction for each in features] == ["small"] * 3
    assert session.batches == [1]
    assert lane.answer([1.0, "Rom", None]).prediction == "small"
    assert session.batches == [1, 1]
    assert set(kit.recorded().values().__iter__().__next__()[0]) == {1.0, "Rome", None}


def test_a_class_that_is_remembered_is_recorded_as_that_class(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    session = plain_session(1, lambda X: np.sign(X[:, 0]).astype(int) + 5, target=Target("classification", "integer"))
    session.classes = [4, 6]
    lane = kit.lane(session)
    remember(cache, lane)
    answers = [lane.answer([v]) for v in (1.0, -1.0, 0.0, 1.0, -1.0, 0.0)]
    recorded = kit.recorded()
    assert [(a.prediction, recorded[a.request_id][1]) for a in answers] == [(v, v) for v in (6, 4, 5, 6, 4, 5)]
    assert session.batches == [1, 1, 1]


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, 1.5]), min_size=2, max_size=2), min_size=1, max_size=20))
def test_no_two_inputs_share_an_answer(rows: list[list[float]]) -> None:
    from tests.serving.conftest import Kit, PlainSession

    kit = Kit()
    try:
        lane = kit.lane(PlainSession(2, lambda X: np.copysign(1.0, X[:, 0]) * 10 + np.copysign(X[:, 1] + 1, X[:, 1])))
        own = [lane.own(row).prediction for row in rows]
        remember(AnswerCache(CacheConfig(), kit.clock), lane)
        assert [lane.answer(row).prediction for row in rows] == own
        assert [lane.answer(row).prediction for row in rows] == own
        assert lane.answer_rows(rows).predictions == own
    finally:
        kit.recorder.stop()


def test_a_request_of_several_rows_is_remembered_as_a_whole(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    session = plain_session(1)
    lane = kit.lane(session)
    remember(cache, lane)
    answers = [lane.answer_rows(rows) for rows in ([[1.0], [2.0]], np.array([[1.0], [2.0]]), [[2.0], [1.0]], [[1.0]])]
    assert [a.predictions for a in answers] == [[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [1.0]]
    assert session.batches == [2, 2, 1]
    answers[0].predictions.append(9.0)
    assert lane.answer_rows([[1.0], [2.0]]).predictions == [1.0, 2.0]
    assert kit.recorded()[f"{answers[1].request_id}#1"] == ([2.0], 2.0)


def test_errors_are_nobodys_answer(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    broken = True

    def answers(X: Any) -> Any:
        return X[:, 0] * (np.nan if broken else 1.0)

    lane = kit.lane(plain_session(1, answers))
    cached = remember(cache, lane)
    for _ in range(2):
        with pytest.raises(ModelFailed):
            lane.answer([2.0])
        with pytest.raises(ModelFailed):
            lane.answer_rows([[2.0]])
    with pytest.raises(InvalidInput):
        lane.answer(["x"])
    broken = False
    assert lane.answer([2.0]).prediction == 2.0
    assert cached.counts.told()["hits"] == 0


def test_answers_expire(kit: Any, plain_session: Any, clock: ManualClock) -> None:
    cache = AnswerCache(CacheConfig(), clock)
    session = plain_session(1)
    lane = kit.lane(session)
    remember(cache, lane, ttl=10.0)
    lane.answer([1.0])
    clock.advance(9.9)
    lane.answer([1.0])
    assert session.batches == [1]
    clock.advance(0.2)
    lane.answer([1.0])
    assert session.batches == [1, 1]
    assert cache.entries.expired == 1


def test_memory_is_bounded(kit: Any, plain_session: Any, clock: ManualClock) -> None:
    cache = AnswerCache(CacheConfig(bytes=10_000), clock)
    lane = kit.lane(plain_session(1))
    remember(cache, lane)
    for i in range(1000):
        lane.answer([float(i)])
        assert cache.entries.size <= 10_000
    assert cache.entries.evicted > 900
    assert cache.held() == {("m", 1): len(cache.entries)}


def test_with_no_room_at_all_the_model_answers(kit: Any, plain_session: Any, clock: ManualClock) -> None:
    session = plain_session(1)
    lane = kit.lane(session)
    remember(AnswerCache(CacheConfig(bytes=0), clock), lane)
    assert [lane.answer([1.0]).prediction for _ in range(3)] == [1.0] * 3
    assert session.batches == [1, 1, 1]


def test_threads_that_ask_the_same_at_once_are_one_run(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    asked, answer = threading.Event(), threading.Event()

    def answers(X: Any) -> Any:
        asked.set()
        assert answer.wait(20)
        return X[:, 0]

    answer.set()
    session = plain_session(1, answers)
    lane = kit.lane(session)
    answer.clear()
    asked.clear()
    cached = remember(cache, lane)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(lane.answer([4.0]))) for _ in range(8)]
    threads[0].start()
    assert asked.wait(20)
    for thread in threads[1:]:
        thread.start()
    answer.set()
    for thread in threads:
        thread.join()
    assert {a.prediction for a in found} == {4.0}
    assert len({a.request_id for a in found}) == 8
    assert session.batches == [1]
    counts = cached.counts.told()
    assert counts["misses"] == 1
    assert counts["joined"] + counts["hits"] == 7
    assert len(kit.recorded()) == 8


def test_who_waited_for_a_failure_asks_for_himself(kit: Any, plain_session: Any, cache: AnswerCache) -> None:
    asked, answer = threading.Event(), threading.Event()
    calls = 0

    def answers(X: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            asked.set()
            assert answer.wait(20)
            raise RuntimeError("once")
        return X[:, 0]

    lane = kit.lane(plain_session(1))
    lane.runner.session.answers = answers
    remember(cache, lane)
    outcomes: list[Any] = []

    def ask() -> None:
        try:
            outcomes.append(lane.answer([4.0]).prediction)
        except EverloopError as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    threads[0].start()
    assert asked.wait(20)
    for thread in threads[1:]:
        thread.start()
    answer.set()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == sorted(map(str, [ModelFailed, 4.0, 4.0]))


# -- versions, and who shares --


def test_a_swap_brings_back_no_older_answer_and_a_rollback_the_same(kit: Any) -> None:
    kit.publish("m", [1.0])
    kit.registry.configure("m", {"cache": True})
    kit.reconciler.step()
    table = kit.table
    assert [kit.predictor.predict("m", [3.0]).prediction for _ in range(2)] == [3.0, 3.0]
    kit.publish("m", [2.0])
    kit.reconciler.step()
    assert [kit.predictor.predict("m", [3.0]).prediction for _ in range(2)] == [6.0, 6.0]
    counts = table.current.lanes["m"].cached.counts
    assert counts.told() == {"hits": 2, "joined": 0, "misses": 2, "shared": 0}
    kit.registry.rollback("m")
    kit.reconciler.step()
    assert kit.predictor.predict("m", [3.0]).prediction == 3.0
    assert counts.told()["hits"] == 3, "of the first time that it was live"
    kit.registry.configure("m", {})
    kit.reconciler.step()
    assert kit.predictor.predict("m", [3.0]).prediction == 3.0
    assert counts.told()["hits"] == 3
    assert table.current.lanes["m"].cached is None


def test_a_model_that_is_gone_takes_its_answers_along(kit: Any) -> None:
    cache = kit.reconciler._cache
    for name in ("a", "b"):
        kit.publish(name, [1.0])
        kit.registry.configure(name, {"cache": True})
    kit.reconciler.step()
    for name in ("a", "b"):
        kit.predictor.predict(name, [1.0])
    kit.registry.unregister("a")
    kit.reconciler.step()
    assert cache.held() == {("b", 1): 1}
    assert set(cache.counts()) == {"b"}
    assert len(cache.entries) == 1


def test_clearing_reaches_every_process_that_shares_the_registry(kit: Any) -> None:
    for name in ("a", "b"):
        kit.publish(name, [1.0])
        kit.registry.configure(name, {"cache": True})
    kit.reconciler.step()
    predict = kit.predictor.predict
    lanes = kit.table.current.lanes

    def misses() -> tuple[int, int]:
        predict("a", [1.0])
        predict("b", [1.0])
        return lanes["a"].cached.counts.told()["misses"], lanes["b"].cached.counts.told()["misses"]

    assert misses() == misses() == (1, 1)
    clear_answers(kit.registry, "a", by="somebody")
    kit.reconciler.step()
    assert misses() == misses() == (2, 1)
    clear_answers(kit.registry, "a", 1)
    kit.reconciler.step()
    assert misses() == (3, 1)
    assert [(e.version, e.data) for e in kit.events if e.kind == "cleared"] == [(None, {"by": "somebody"}), (1, {})]
    with pytest.raises(EverloopError, match="version"):
        clear_answers(kit.registry, "a", 9)


def test_several_processes_share_what_they_answered(plain_session: Any, kit: Any, clock: ManualClock) -> None:
    shared = MemoryAnswers(clock=clock)
    sessions = [plain_session(1), plain_session(1)]
    lanes = [kit.lane(session) for session in sessions]
    parts = [remember(AnswerCache(CacheConfig(), clock, shared), lane) for lane in lanes]
    assert [lane.answer([2.0]).prediction for lane in (*lanes, *lanes)] == [2.0] * 4
    assert lanes[1].answer_rows([[2.0]]).predictions == [2.0]
    assert (sessions[0].batches, sessions[1].batches) == ([1], [])
    assert parts[1].counts.told() == {"hits": 2, "joined": 0, "misses": 0, "shared": 1}
    other = AnswerCache(CacheConfig(), clock, shared)
    assert other.forget_shared("m", 2) == 0
    assert other.forget_shared("m", 1) == 1


def test_another_artifact_or_another_reading_of_it_shares_nothing(
    plain_session: Any, kit: Any, cache: AnswerCache
) -> None:
    record = kit.lane(plain_session(1)).record
    model = ModelRecord("m", "artifact", 0.0)
    manifest = record.manifest
    others = [
        msgspec.structs.replace(record, digest="0" * 64),
        msgspec.structs.replace(record, version=2),
        msgspec.structs.replace(record, model="n"),
        msgspec.structs.replace(record, manifest=msgspec.structs.replace(manifest, classes=["a"])),
        msgspec.structs.replace(record, manifest=msgspec.structs.replace(manifest, schema=Schema.of_names(["a"]))),
    ]
    prefixes = {cache.version(each, model, 1.0).prefix for each in (record, record, *others)}
    assert len(prefixes) == 6
    for cleared in ({"*": 1}, {"1": 1}, {"1": 2}, {"*": 1, "1": 1}):
        prefixes.add(cache.version(record, msgspec.structs.replace(model, cleared=cleared), 1.0).prefix)
    assert len(prefixes) == 10
    assert cache.version(record, msgspec.structs.replace(model, cleared={"2": 7}), 1.0).prefix in prefixes


@pytest.mark.parametrize(
    ("field", "value"), [("bytes", -1), ("redis_timeout_ms", 0.0), ("redis_url", "http://:secret@host")]
)
def test_options_that_cannot_be_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=field) as refused:
        CacheConfig(**{field: value})
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(CacheConfig(redis_url="redis://:secret@host"))
