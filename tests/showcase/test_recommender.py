"""The built-in shop by a program, by the server, by the command line; and as good as its report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import everloop
from everloop.app.bench.shop import generate
from everloop.app.cli.commands import app
from everloop.core.errors import InvalidInput
from everloop.runtime.factors_model import FactorParameters
from everloop.showcase import Recommender
from everloop.showcase.builtin import builtin_path
from everloop.showcase.interactions import Interaction, read_interactions, read_items
from everloop.showcase.training import LEAST, later_items, recall_at, train, train_and_judge

BENCHMARKS = Path(__file__).parents[2] / "benchmarks/showcase"
REPORT = json.loads((BENCHMARKS / "shop.json").read_text())


@pytest.fixture(scope="module")
def shop() -> Recommender:
    return Recommender()


@pytest.fixture(scope="module")
def interactions() -> list[Interaction]:
    return read_interactions(BENCHMARKS / "data/shop.csv")


def ids(answer: Any) -> list[str]:
    return [each.item_id for each in answer.recommendations]


def test_it_answers_as_the_route_does(shop: Recommender) -> None:
    shop.warmup()
    answer = shop.recommend("user123", {"category": "tech"}, 5)
    told = json.loads(msgspec.json.encode(answer))
    assert set(told) == {"recommendations", "latency_ms", "model"}
    assert told["model"] == "recommender-v1"
    assert len(told["recommendations"]) == 5
    assert all(set(each) == {"item_id", "score", "reason"} for each in told["recommendations"])
    of = shop.get_info()
    assert (of["items"], of["model"]) == (400, "recommender-v1")
    assert "tech" in of["attributes"]["category"]
    left = ids(shop.recommend("user123", {"category": "tech"}, 5, exclude=ids(answer)[:2]))
    assert not set(left) & set(ids(answer)[:2])
    assert len(ids(shop.similar_items("item45", 4))) == 4
    first, second = ids(shop.similar_items("item45", 2))
    assert ids(shop.similar_items("item45", 1, exclude=[first])) == [second]
    assert ids(shop.recommend("nobody", history=["item45"], limit=3)) != ids(shop.recommend("nobody", limit=3))


def test_what_is_recorded_counts_at_once_and_can_be_kept(tmp_path: Path) -> None:
    shop = Recommender()
    cold = ids(shop.recommend("newcomer"))
    for item in ids(shop.similar_items("item45", 3)):
        shop.record_interaction("newcomer", item, 5)
    warm = shop.recommend("newcomer")
    assert ids(warm) != cold
    assert all(each.reason.startswith("because you liked") for each in warm.recommendations[:3])
    path = shop.save(tmp_path / "mine.artifact")
    assert ids(Recommender(path).recommend("newcomer")) == ids(warm)
    assert Recommender(path).name == "mine-v1"
    assert ids(Recommender().recommend("newcomer")) == cold


def test_what_is_wrong_is_refused(shop: Recommender, tmp_path: Path) -> None:
    for wrong in (
        lambda: shop.recommend("u", limit=0),
        lambda: shop.recommend("u", {"categry": "tech"}),
        lambda: shop.similar_items("none"),
        lambda: shop.record_interaction("", "item1"),
        lambda: shop.record_interaction("u", "item1", float("nan")),
        lambda: Recommender(tmp_path / "none.artifact"),
    ):
        with pytest.raises(InvalidInput):
            wrong()


def test_the_shop_is_what_its_report_says(interactions: list[Interaction]) -> None:
    """Trained anew on the first four fifths; the last is held against it and against what is popular."""
    shipped = next(each for each in REPORT["recall_at_10"] if REPORT["shipped"].items() <= each.items())
    assert shipped["ratio"] >= 1.5
    assert all(each["online"] >= 0.9 * each["fitted"] > each["untold"] for each in REPORT["kept_fresh"])
    cut = int(len(interactions) * (1 - REPORT["test_share"]))
    before, later = interactions[:cut], interactions[cut:]
    found = recall_at(train(before).model, before, later_items(before, later))
    assert found.users == shipped["users"]
    assert found.popular == pytest.approx(shipped["popular"], abs=1e-4)
    assert found.recall == pytest.approx(shipped["recall"], abs=0.01)  # rounding differs between machines
    assert found.recall - found.popular > 2 * found.spread


def test_the_artifact_is_of_the_data_and_the_data_of_the_generator(interactions: list[Interaction]) -> None:
    made, items = generate(1, events=400)
    assert len(made) == 400
    shop = Recommender()
    known = {each.user for each in interactions}
    assert shop.get_info()["users"] == len(known)
    assert read_items(BENCHMARKS / "data/shop_items.csv").titles == items.titles
    taken = {each.item for each in interactions if each.user == "user123"}
    assert not taken & set(ids(shop.recommend("user123", limit=100)))


def test_too_little_to_judge() -> None:
    few = [Interaction(f"u{i % 3}", f"i{i % 5}", 1.0, float(i)) for i in range(LEAST - 1)]
    learner, recall = train_and_judge(few, None, FactorParameters(factors=2, iterations=1))
    assert recall is None
    assert len(learner.model.catalogue) == 5


def test_training_from_a_file(tmp_path: Path) -> None:
    lines = [f"{u},{u % 2 * 10 + (u * 7 + t * 3) % 10},{4 if t % 3 else 5},{t}" for t in range(8) for u in range(20)]
    ratings, movies, out = tmp_path / "ratings.csv", tmp_path / "movies.csv", tmp_path / "films.artifact"
    ratings.write_text("userId,movieId,rating,timestamp\n" + "\n".join(lines))
    movies.write_text(
        "movieId,title,genres\n" + "\n".join(f"{i},Film {i},{'Odd' if i > 9 else 'Even'}" for i in range(21))
    )
    asked = ["recommend", "train", str(ratings), "--items", str(movies), "-o", str(out), "--factors", "4", "--json"]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert (found["users"], found["items"], found["path"]) == (20, 21, str(out))
    assert found["recall"]["k"] == 10
    films = Recommender(out)
    assert len(films.recommend(3, {"genres": "Odd"}).recommendations) >= 1
    assert CliRunner().invoke(app, asked[:-1]).exit_code == 0
    ratings.write_text("userId,movieId,rating\n1,2,?\n")
    failed = CliRunner().invoke(app, asked)
    assert failed.exit_code == 1
    assert "line 2: rating" in failed.output


def test_served_it_learns_like_any_model() -> None:
    """Rows, versions, feedback: a newcomer who tells what he likes gets his own recommendations with the next version."""
    with everloop.Continuum() as models:
        models.register_model("recommender", builtin_path("shop"))
        assert models.engine.services.registry.get("recommender").learning == {"rule": "fresh"}
        models.register_model("careful", builtin_path("shop"), learning={"rule": "better"})
        assert models.engine.services.registry.get("careful").learning == {"rule": "better"}
        first = models.predict("recommender", {"user": "user123", "item": "item45"})
        assert 1.0 <= first.prediction <= 5.0
        assert first.model_version == 1
        liked = ids(Recommender().similar_items("item45", 12))
        models.add_training_examples(
            "recommender", [{"user": "newcomer", "item": item} for item in liked], [5.0] * len(liked)
        )
        before = models.predict("recommender", {"user": "newcomer", "item": "item45"}).prediction
        assert models.train_model("recommender").version == 2
        after = models.predict("recommender", {"user": "newcomer", "item": "item45"})
        assert after.model_version == 2
        assert after.prediction > before


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"user_id": None}, "user_id"),
        ({"user_id": "u" * 257}, "user_id"),
        ({"user_id": 10**5000}, "user_id"),
        ({"user_id": "u", "limit": "5"}, "limit"),
        ({"user_id": "u", "limit": 5.0}, "limit"),
        ({"user_id": "u", "context": "tech"}, "context"),
        ({"user_id": "u", "context": {1: "tech"}}, "context"),
        ({"user_id": "u", "context": {"category": {"a": 1}}}, "context"),
        ({"user_id": "u", "exclude": "item177"}, "exclude"),
        ({"user_id": "u", "exclude": [None]}, "exclude[0]"),
        ({"user_id": "u", "history": 5}, "history"),
        ({"user_id": "u", "seen": "no"}, "seen"),
    ],
)
def test_what_a_program_gets_wrong_is_named(shop: Recommender, asked: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        shop.recommend(**asked)
    assert (caught.value.field or "").startswith(field)


def test_what_is_recorded_is_bounded() -> None:
    shop = Recommender()
    before = shop.get_info()["users"]
    for interaction, field in (
        ((None, "item3"), "user_id"),
        (("u" * 10**6, "item3"), "user_id"),
        (("u", ""), "item_id"),
        (("u", "item3", 1e308), "rating"),
        (("u", "item3", "5"), "rating"),
    ):
        with pytest.raises(InvalidInput) as caught:
            shop.record_interaction(*interaction)  # type: ignore[arg-type]
        assert caught.value.field == field
    assert shop.get_info()["users"] == before


def test_several_values_may_stand_in_a_tuple(shop: Recommender) -> None:
    assert ids(shop.recommend("u", {"category": ("tech", "home")})) == ids(
        shop.recommend("u", {"category": ["tech", "home"]})
    )
