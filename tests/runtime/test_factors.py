"""Recommenders answer: rows, questions, refusals; a file is believed nothing; who asks leaves nothing behind."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import ArtifactCorrupt, EverloopError, InvalidInput
from everloop.core.tensors import Tensor
from everloop.learning.learners.factors import FactorsLearner, base_of
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.factors import SCHEMA, TARGET, FactorSession, load
from everloop.runtime.factors_file import pack_factors, unpack_factors
from everloop.runtime.factors_model import Catalogue, FactorParameters, PackedUsers, by_value
from everloop.runtime.recommending import Query, read_query, recommend

ITEMS = [f"item{i}" for i in range(30)]
KINDS = ("tech", "books", "home")


def _artifact() -> tuple[Any, bytes]:
    rng = np.random.default_rng(0)
    kinds = by_value({item: [KINDS[i % 3]] for i, item in enumerate(ITEMS)}, ITEMS)
    parameters = FactorParameters(factors=5, iterations=5, unobserved=0.1)
    learner = FactorsLearner(base=base_of(parameters, Catalogue(ITEMS, {"item3": "A lamp"}, {"kind": kinds})))
    rows, labels = [], []
    for user in range(24):
        for _ in range(8):
            rows.append([f"u{user}", ITEMS[int(rng.integers(10)) * 3 + user % 3]])
            labels.append(float(rng.integers(1, 6)))
    learner.fit(SCHEMA, TARGET, rows, labels)
    return learner.freeze()


MANIFEST, PAYLOAD = _artifact()
MODEL = unpack_factors(PAYLOAD)


def session() -> FactorSession:
    return load(MANIFEST, PAYLOAD)


def ask(**query: Any) -> list[dict[str, Any]]:
    tensors = session().tensors
    arrays = tensors.take([Tensor("query", "BYTES", np.array([json.dumps(query).encode()], object))])
    found: list[dict[str, Any]] = json.loads(tensors.infer(arrays, ("items",))["items"][0])
    return found


def test_rows_are_answered_by_the_label_to_expect() -> None:
    opened = load_session(MANIFEST, PAYLOAD, trust=Trust())
    X = SCHEMA.matrix([["u0", "item0"], ["nobody", "item0"], ["u0", "nothing"], ["nobody", "nothing"]])
    answers = opened.run(X)
    assert answers.dtype == np.float64
    assert ((answers >= 1.0) & (answers <= 5.0)).all()
    assert answers[3] == pytest.approx(MODEL.labels.mean)


def test_a_question_is_answered_with_items_and_reasons() -> None:
    found = ask(user="u0", limit=3)
    assert len(found) == 3
    assert all(set(each) == {"item_id", "score", "reason", "expected"} for each in found)
    assert all(each["reason"].startswith("because you liked ") for each in found[:2])
    past = MODEL.users.get("u0")
    assert past is not None
    assert not {each["item_id"] for each in found} & {ITEMS[place] for place in past.places}
    assert len(ask(user="u0", limit=30, seen=True)) == 30


def test_who_is_not_known_gets_what_is_popular() -> None:
    most = [ITEMS[place] for place in np.argsort(-MODEL.popularity, kind="stable")[:4]]
    found = ask(user="nobody", limit=4)
    assert [each["item_id"] for each in found] == most
    assert {each["reason"] for each in found} == {"popular"}
    assert found[0]["score"] == 1.0
    assert {each["reason"] for each in ask(user="nobody", context={"kind": "tech"})} == {"popular in tech"}


def test_history_counts_at_once() -> None:
    found = ask(user="nobody", history=["item3", "item6"], limit=2)
    assert all(int(each["item_id"][4:]) % 3 == 0 for each in found)
    assert {each["reason"] for each in found} <= {"because you liked A lamp", "because you liked item6"}
    assert not {"item3", "item6"} & {each["item_id"] for each in ask(user="u1", history=["item3", "item6"], limit=30)}


def test_similar_items() -> None:
    found = ask(item="item0", limit=5)
    assert "item0" not in {each["item_id"] for each in found}
    assert all(int(each["item_id"][4:]) % 3 == 0 for each in found[:3])
    assert {each["reason"] for each in ask(item="item3")} == {"liked by those who like A lamp"}


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        ({"limit": 0}, "limit", "1 to 1000"),
        ({"limit": "ten"}, "limit", "expected `int`"),
        ({"user": 5}, "user", "expected `str`"),
        ({"user": "u" * 257}, "user_id", "256 characters"),
        ({"context": {"colour": "red"}}, "context.colour", "known are kind"),
        ({"context": {"kidn": "tech"}}, "context.kidn", "did you mean 'kind'"),
        ({"context": {"kind": "tehc"}}, "context.kind", "did you mean 'tech'"),
        ({"context": {"kind": ["tech", "no"]}}, "context.kind", "no item has 'no'"),
        ({"item": "nothing"}, "item_id", "no item 'nothing'"),
        ({"item": "item1", "user": "u1"}, "item_id", "either a user or an item"),
        ({"usr": "u1"}, "query", "usr"),
        ({"exclude": ["x"] * 1001}, "exclude", "at most 1000"),
        ({"exclude": ["x", "x" * 257]}, "exclude[1]", "256 characters"),
        ({"context": {"ab" * 4_500_000: "x"}}, "context", "at most 256 characters, got 9,000,000"),
        ({"context": {"kind": "ab" * 4_500_000}}, "context.kind", "at most 1,000 characters"),
        ({"context": {"kind": 10**400}}, "context.kind", "64 bits"),
        ({"context": {"kind": ["tech"] * 101}}, "context", "at most 100 attributes and values"),
        ({"context": {f"kind{i}": "tech" for i in range(101)}}, "context", "at most 100 attributes and values"),
    ],
)
def test_what_is_wrong_is_named(query: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask(**query)
    assert caught.value.field == field
    assert says in caught.value.message


def test_wrong_tensors_are_refused() -> None:
    tensors = session().tensors
    for tensor in (
        Tensor("query", "FP64", np.ones(1)),
        Tensor("query", "BYTES", np.array([["{}"]], object)),
        Tensor("question", "BYTES", np.array(["{}"], object)),
        Tensor("query", "BYTES", np.array(["{}"] * 101, object)),
        Tensor("query", "BYTES", np.array([b"{"], object)),
        Tensor("query", "BYTES", np.array([b"\xff"], object)),
    ):
        with pytest.raises(EverloopError):
            tensors.take([tensor])


def test_what_is_recorded_is_a_row_for_each_item() -> None:
    tensors = session().tensors
    questions = np.array([b'{"user": "u0", "limit": 3}', b'{"user": "u1", "limit": 2}'], object)
    arrays = tensors.take([Tensor("query", "BYTES", questions)])
    answers = tensors.infer(arrays, ("items",))
    kept = tensors.answered(arrays, answers)
    assert kept is not None
    items = [[each["item_id"] for each in json.loads(text)] for text in answers["items"]]
    assert kept.X.tolist() == [["u0", item] for item in items[0]] + [["u1", item] for item in items[1]]
    assert kept.values == pytest.approx(session().run(kept.X).tolist(), abs=1e-4)
    nothing = tensors.take([Tensor("query", "BYTES", np.array([json.dumps({"exclude": ITEMS}).encode()], object))])
    assert tensors.answered(nothing, tensors.infer(nothing, ("items",))) is None


queries = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["", "u1", "u2", "nobody"]) | st.text(max_size=20),
        "limit": st.integers(1, 40),
        "context": st.just({}) | st.fixed_dictionaries({"kind": st.sampled_from(KINDS)}),
        "exclude": st.lists(st.sampled_from([*ITEMS, "nothing"]), max_size=8),
        "history": st.lists(st.sampled_from([*ITEMS, "nothing"]), max_size=4),
        "seen": st.booleans(),
    }
)


@given(queries)
def test_every_question_is_answered_soundly(given_: dict[str, Any]) -> None:
    found = recommend(MODEL, Query(**given_))
    items = [each.item_id for each in found]
    assert len(items) == len(set(items)) <= given_["limit"]
    assert not set(items) & set(given_["exclude"])
    assert all(0.0 <= each.score <= 1.0 and each.reason for each in found)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    for wanted in given_["context"].values():
        assert {KINDS[ITEMS.index(item) % 3] for item in items} <= {wanted}
    if not given_["seen"]:
        assert not set(items) & set(given_["history"])


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=30))
def test_unknown_users_cost_no_memory(users: list[str]) -> None:
    """Nothing that is kept has grown, whoever asked."""
    assert isinstance(MODEL.users, PackedUsers)
    for user in users:
        recommend(MODEL, Query(user=user, limit=3))
        MODEL.expected([user], ["item1"])
    assert pack_factors(MODEL, MODEL.users) == PAYLOAD
    assert len(MODEL.users) == len(MODEL.users.row_of) == 24
    assert len(MODEL.catalogue.place_of) == 30


@given(st.data())
def test_a_damaged_file_is_refused_or_read_never_worse(data: st.DataObject) -> None:
    at = data.draw(st.integers(8, len(PAYLOAD) - 1))
    damaged = bytearray(PAYLOAD)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.sampled_from([len(damaged), at]))
    try:
        model = unpack_factors(bytes(damaged[:cut]))
    except ArtifactCorrupt:
        return
    with np.errstate(all="ignore"):
        try:
            recommend(model, Query(user="u0", limit=3))
        except np.linalg.LinAlgError:  # numbers that are finite and absurd
            return


def test_other_files_are_no_recommenders() -> None:
    for payload in (b"", b"EVLINEAR" + PAYLOAD[8:], PAYLOAD[:8], PAYLOAD[:8] + b"\xc0"):
        with pytest.raises(ArtifactCorrupt):
            load_session(MANIFEST, payload, trust=Trust())


def test_queries_are_json() -> None:
    assert read_query('{"user": "u", "context": {"kind": ["a", 5, true]}}').context == {"kind": ["a", 5, True]}
    assert read_query("{}") == Query()


def test_a_reason_tells_few_of_many_values() -> None:
    kinds = list(MODEL.catalogue.attributes["kind"])
    (first, *_), same = ask(context={"kind": kinds[:1] * 60 + kinds}), ask(context={"kind": kinds[:1] * 60})
    assert first["reason"].startswith(f"popular in {kinds[0]} or ")
    assert len(first["reason"]) < 60
    assert same[0]["reason"] == f"popular in {kinds[0]}"
