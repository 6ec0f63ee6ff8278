"""Recommenders learn: offline by least squares, online by one step an interaction, bounded, from what an artifact knows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import FitFailed, ModelUntrained
from everloop.core.schema import Schema, Target
from everloop.learning.learners.als import Interactions, factorize, left_out
from everloop.learning.learners.factors import FactorsLearner, base_of, start
from everloop.learning.learners.make import describe, from_record
from everloop.runtime.artifact import Trust
from everloop.runtime.factors import SCHEMA, TARGET
from everloop.runtime.factors_file import unpack_factors
from everloop.runtime.factors_model import Catalogue, FactorParameters, by_value, normal_equations, strengths
from everloop.runtime.recommending import Query, recommend
from everloop.testing import check_learner
from everloop.testing.checks import Examples

SMALL = FactorParameters(factors=6, iterations=8, unobserved=0.1, regularization=0.02)


def two_tastes(users: int = 40, each: int = 12, seed: int = 0) -> tuple[list[list[str]], list[float]]:
    """Users a… take items of 0 to 19, users b… of 20 to 39; who they are is all in the rows."""
    rng = np.random.default_rng(seed)
    rows: list[list[str]] = []
    for _ in range(each):
        for user in range(users):
            side = "ab"[user % 2]
            item = int(rng.integers(20)) + (20 if side == "b" else 0)
            rows.append([f"{side}{user}", f"i{item}"])
    labels = [float(rng.integers(3, 6)) for _ in rows]
    return rows, labels


def fitted(parameters: FactorParameters = SMALL, base: bytes | None = None) -> FactorsLearner:
    learner = FactorsLearner(parameters) if base is None else FactorsLearner(base=base)
    learner.fit(SCHEMA, TARGET, *two_tastes())
    return learner


def first(learner: FactorsLearner, user: str, limit: int = 10, **more: object) -> list[str]:
    return [each.item_id for each in recommend(learner.model, Query(user=user, limit=limit, **more))]  # type: ignore[arg-type]


def side(item: str) -> str:
    return "a" if int(item[1:]) < 20 else "b"


def test_the_contract() -> None:
    rows, labels = two_tastes(users=20)
    check_learner(lambda: FactorsLearner(SMALL), examples=Examples(SCHEMA, TARGET, rows, labels))


def test_tastes_are_found() -> None:
    learner = fitted()
    assert {side(item) for item in first(learner, "a0", 5)} == {"a"}
    assert {side(item) for item in first(learner, "b1", 5)} == {"b"}


def test_rounds_lower_the_loss_that_they_minimise() -> None:
    rng = np.random.default_rng(3)
    given_ = Interactions(rng.integers(0, 30, 400), rng.integers(0, 20, 400), np.ones(400))

    def loss(iterations: int) -> float:
        p = FactorParameters(factors=5, iterations=iterations, unobserved=0.2, regularization=0.05)
        X, Y = factorize(given_, 30, 20, p, typical=1.0)
        seen = (((X[given_.users] * Y[given_.items]).sum(1) - 1.0) ** 2).sum()
        ridge_x = p.regularization * (np.bincount(given_.users, minlength=30) + p.unobserved * 20)
        ridge_y = p.regularization * (np.bincount(given_.items, minlength=20) + p.unobserved * 30)
        held = ridge_x @ (X**2).sum(1) + ridge_y @ (Y**2).sum(1)
        return float(seen + p.unobserved * ((X @ Y.T) ** 2).sum() + held)

    losses = [loss(n) for n in (1, 2, 4, 8)]
    assert losses == sorted(losses, reverse=True)


def test_a_score_left_out_is_that_of_a_fit_without_the_row() -> None:
    rng = np.random.default_rng(1)
    p = FactorParameters(factors=4)
    users, items = rng.integers(0, 5, 60), rng.integers(0, 12, 60)
    labels = rng.uniform(1, 5, 60)
    given_ = Interactions(users, items, labels)
    Y = rng.normal(size=(12, 4))
    found = left_out(given_, Y, 5, p, 3.0)
    s, liked = strengths(labels, 3.0, 0.0)
    for row in range(0, 60, 7):
        mine = users == users[row]
        others = mine & (np.arange(60) != row)
        A = normal_equations(Y.T @ Y, 12, int(mine.sum()), p) + (Y[items[others]].T * s[others]) @ Y[items[others]]
        x = np.linalg.solve(A, Y[items[others]].T @ (s[others] * liked[others]))
        assert found[row] == pytest.approx(x @ Y[items[row]], abs=1e-9)


def test_a_new_user_is_known_after_his_first_interactions() -> None:
    learner = fitted()
    popular = first(learner, "new")
    learner.learn([["new", "i21"], ["new", "i25"]], [5.0, 5.0])
    after = first(learner, "new", 5)
    assert {side(item) for item in after} == {"b"}
    assert not {"i21", "i25"} & set(after)
    assert first(learner, "somebody else") == popular or len(popular) == 10


def test_a_new_item_finds_those_who_will_like_it() -> None:
    learner = fitted()
    learner.learn([[f"b{user}", "fresh"] for user in range(1, 16, 2)], [5.0] * 8)
    everything = len(learner.model.catalogue)
    rank_b = first(learner, "b31", everything).index("fresh")
    rank_a = first(learner, "a30", everything).index("fresh")
    assert rank_b < 10 < rank_a


def test_steps_online_come_near_a_fit_of_everything() -> None:
    rows, labels = two_tastes(each=14)
    cut = len(rows) * 6 // 7
    online, whole = FactorsLearner(SMALL), FactorsLearner(SMALL)
    online.fit(SCHEMA, TARGET, rows[:cut], labels[:cut])
    online.learn(rows[cut:], labels[cut:])
    whole.fit(SCHEMA, TARGET, rows, labels)
    shared = [len({*first(online, u, 8)} & {*first(whole, u, 8)}) for u in ("a0", "a2", "b1", "b3", "b5")]
    assert np.mean(shared) >= 5
    assert np.allclose(online.model.gram, online.model.factors.T @ online.model.factors, atol=1e-8)


def test_what_is_disliked_is_no_reason_and_not_recommended() -> None:
    p = FactorParameters(factors=6, dislike_below=2.0, unobserved=0.1)
    learner = fitted(p)
    learner.learn([["critic", "i3"], ["critic", "i22"]], [1.0, 5.0])
    found = recommend(learner.model, Query(user="critic", limit=10))
    assert "i3" not in {each.item_id for each in found}
    assert not any(each.reason == "because you liked i3" for each in found)
    assert {side(each.item_id) for each in found[:3]} == {"b"}


def test_a_label_said_again_replaces_the_first() -> None:
    learner = fitted()
    learner.learn([["u", "i1"]], [5.0])
    counts = learner.model.counts.copy()
    learner.learn([["u", "i1"]], [3.0])
    past = learner.model.users.get("u")
    assert past is not None
    assert past.labels.tolist() == [3.0]
    assert (learner.model.counts == counts).all()


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=60))
def test_what_is_kept_is_bounded(pairs: list[tuple[str, str]]) -> None:
    p = FactorParameters(factors=2, iterations=1, most_users=5, most_items=7, most_past=3)
    learner = FactorsLearner(p)
    learner.fit(SCHEMA, TARGET, [["u", "i"], ["v", "j"]], [1.0, 2.0])
    learner.learn([list(pair) for pair in pairs], [1.0] * len(pairs))
    model = learner.model
    assert len(model.users) <= 5
    assert len(model.catalogue) == len(model.factors) == len(model.popularity) <= 7
    for user, _ in pairs:
        past = model.users.get(user)
        assert past is None or len(past.places) <= 3
    assert model.users.get("") is None  # nobody in particular has no past
    assert np.isfinite(model.factors).all()
    again = start(*learner.freeze())
    assert again.predict([list(pair) for pair in pairs]) == pytest.approx(learner.predict([list(p) for p in pairs]))


def test_the_newest_users_and_interactions_stay() -> None:
    learner = FactorsLearner(FactorParameters(factors=2, iterations=1, most_users=2, most_past=2))
    learner.fit(SCHEMA, TARGET, [["u", "i"], ["v", "j"]], [1.0, 1.0])
    learner.learn([["u", "j"], ["u", "k"], ["w", "i"]], [1.0, 1.0, 1.0])
    assert learner.model.users.get("v") is None
    past = learner.model.users.get("u")
    assert past is not None
    assert [learner.model.catalogue.ids[place] for place in past.places] == ["j", "k"]


def test_what_is_forgotten_of_a_user_may_come_again_unless_it_is_left_out() -> None:
    learner = FactorsLearner(msgspec.structs.replace(SMALL, most_past=2))
    learner.fit(SCHEMA, TARGET, *two_tastes())
    learner.learn([["a0", "i1"], ["a0", "i2"], ["a0", "i3"]], [5.0, 5.0, 5.0])
    again = first(learner, "a0", 40)
    assert "i1" in again
    assert not {"i2", "i3"} & set(again)
    assert "i1" not in first(learner, "a0", 40, exclude=["i1"])


def test_a_fit_keeps_what_the_artifact_knew() -> None:
    _, payload = fitted().freeze()
    learner = FactorsLearner(base=payload)
    with pytest.raises(ModelUntrained):
        learner.predict([["a0", "i1"]])
    learner.fit(SCHEMA, TARGET, [["new", "i21"], ["new", "i30"], ["new", "i33"]], [5.0, 4.0, 5.0])
    assert {side(item) for item in first(learner, "a0", 5)} == {"a"}
    assert {side(item) for item in first(learner, "new", 5)} == {"b"}
    assert len(learner.model.users) == 41


def test_after_a_restart_it_is_the_same_learner() -> None:
    manifest, payload = fitted().freeze()
    kind, parameters, template = describe(start(manifest, payload))
    again = from_record(kind, parameters, template, trust=Trust())
    assert isinstance(again, FactorsLearner)
    assert first(again, "b1") == first(start(manifest, payload), "b1")


def test_items_that_nobody_touched_keep_their_attributes() -> None:
    items = [f"i{i}" for i in range(45)]
    kinds = by_value({item: ["low" if side(item) == "a" else "high"] for item in items}, items)
    base = base_of(SMALL, Catalogue(items, {"i21": "Twenty-one"}, {"kind": kinds}))
    learner = fitted(base=base)
    assert {side(i) for i in first(learner, "a0", 5, context={"kind": "high"})} == {"b"}
    assert len(first(learner, "nobody", 100)) == 45
    learner.learn([["c", "i21"]], [5.0])
    assert recommend(learner.model, Query(user="c", limit=1))[0].reason == "because you liked Twenty-one"
    assert not unpack_factors(base).counts.any()


def test_items_alone_are_nothing_to_learn_on_from() -> None:
    base = base_of(SMALL, Catalogue(["i1", "i2"]))
    learner = start(FactorsLearner(base=base).started_from()[0], base)
    with pytest.raises(ModelUntrained):
        learner.predict([["u", "i1"]])


def test_labels_are_expected_by_taste() -> None:
    """Where ratings go with taste, the score tells more than the offsets do."""
    rows, _ = two_tastes(each=14, seed=4)
    rng = np.random.default_rng(0)
    rows += [[f"{'ab'[user % 2]}{user}", f"i{int(rng.integers(40))}"] for user in range(40) for _ in range(2)]
    labels = [5.0 if side(item) == user[0] else 1.0 for user, item in rows]
    learner = FactorsLearner(FactorParameters(factors=4, dislike_below=2.0, unobserved=0.1))
    learner.fit(SCHEMA, TARGET, rows, labels)
    own, other = learner.predict([["a0", "i7"], ["a0", "i27"]])
    assert own > other + 0.5


def test_labels_of_any_size_leave_finite_answers() -> None:
    learner = fitted()
    learner.learn([["u", "i1"], ["u", "i2"], ["v", "i1"]], [1e308, -1e308, 1e308])
    assert np.isfinite(learner.predict([["u", "i1"], ["a0", "i2"], ["v", "i3"]])).all()
    assert len(first(learner, "u")) == 10


@pytest.mark.parametrize(
    ("schema", "labels", "message"),
    [
        (Schema.of_names(["a", "b"]), [1.0], "rows of user and item"),
        (SCHEMA, [0.0], "none whose label is above"),
    ],
)
def test_what_cannot_be_fitted(schema: Schema, labels: list[float], message: str) -> None:
    with pytest.raises(FitFailed, match=message):
        FactorsLearner(SMALL).fit(schema, Target("regression"), [["u", "i"]], labels)


def test_a_label_far_beyond_what_the_artifact_knows_counts_as_a_little_beyond() -> None:
    """One slip is not all that a mean, or what is expected of an item, tells from then on."""
    _, base = fitted().freeze()
    poisoned, clean = FactorsLearner(base=base), FactorsLearner(base=base)
    more = ([["a0", "i3"], ["evil", "i3"]], [4.0, 1e308])
    poisoned.fit(SCHEMA, TARGET, *more)
    clean.fit(SCHEMA, TARGET, more[0], [4.0, 10.0])
    assert (poisoned.model.labels.least, poisoned.model.labels.most) == (3.0, 10.0)
    asked = [["a0", "i3"], ["a2", "i3"], ["b1", "i30"], ["evil", "i3"]]
    assert poisoned.predict(asked) == pytest.approx(clean.predict(asked))
    going_on = FactorsLearner(base=base)
    going_on.restore(base)
    going_on.learn(*more)
    assert max(going_on.predict(asked)) <= 10.0
