"""The built-in sentiment model: as good as its report says, as small and as quick to open as promised, honest about nonsense."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import compress
from pathlib import Path

import pytest
from benchmarks.showcase.sentiment_rows import HELD_OUT, LABELS, Snippet, near_twins, read_snippets

from everloop import Continuum
from everloop.core.errors import InvalidInput
from everloop.showcase import SentimentModel
from everloop.showcase.builtin import builtin_path
from everloop.showcase.config import ShowcaseConfig

REPORT = Path(__file__).parents[2] / "benchmarks" / "showcase" / "sentiment.json"


@pytest.fixture(scope="module")
def model() -> SentimentModel:
    return SentimentModel()


@pytest.fixture(scope="module")
def snippets() -> list[Snippet]:
    return read_snippets()


def macro_f1(truth: list[str], answers: list[str]) -> float:
    found = []
    for label in LABELS:
        right = sum(t == a == label for t, a in zip(truth, answers, strict=True))
        found.append(2 * right / max(1, truth.count(label) + answers.count(label)))
    return sum(found) / len(found)


def test_the_report_tells_what_the_shipped_model_does_on_the_held_out_rows(
    model: SentimentModel, snippets: list[Snippet]
) -> None:
    report = json.loads(REPORT.read_text())
    held = [each for each in snippets if each.fold == HELD_OUT]
    truth = [each.label for each in held]
    answers = [each.sentiment for each in model.analyze_batch([each.text for each in held]).results]
    ours, theirs = macro_f1(truth, answers), macro_f1(truth, [each.by_vader for each in held])
    assert len(held) == report["held_out"]
    assert ours == pytest.approx(report["macro_f1"], abs=1e-4)
    assert theirs == pytest.approx(report["vader_macro_f1"], abs=1e-4)
    assert ours - theirs >= 0.09
    apart = [not twin for twin in near_twins(snippets)]
    told = report["near_twins"]
    assert len(held) - sum(apart) == told["rows"]
    ours = macro_f1(list(compress(truth, apart)), list(compress(answers, apart)))
    assert ours == pytest.approx(told["macro_f1_without"], abs=1e-4)
    assert ours - told["vader_without"] >= 0.09


def test_no_source_text_is_on_both_sides_of_the_split(snippets: list[Snippet]) -> None:
    held = {each.group for each in snippets if each.fold == HELD_OUT}
    assert held.isdisjoint(each.group for each in snippets if each.fold != HELD_OUT)

    def words(each: Snippet) -> str:
        return " ".join("".join(c if c.isalpha() else " " for c in each.text.lower()).split())

    known = {words(each) for each in snippets if each.fold != HELD_OUT}
    assert not [
        each.text for each in snippets if each.fold == HELD_OUT and words(each) in known and len(each.text) > 30
    ]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("This is amazing! Elide makes polyglot programming so easy!", "positive"),
        ("Great product!", "positive"),
        ("I hate this", "negative"),
        ("Terrible service", "negative"),
        ("This is not good", "negative"),
        *[
            (text, "neutral")
            for text in (
                "asdf qwer zxcv",
                "…",
                "12345",
                "???",
                "日本語のテキスト",
                "Привет мир",
                "$$$",
                "\x00",
                " ",
                "The package arrived on Tuesday.",
            )
        ],
    ],
)
def test_what_anybody_would_say_of_it(model: SentimentModel, text: str, label: str) -> None:
    assert model.analyze(text).sentiment == label


def test_an_answer_and_its_details(model: SentimentModel) -> None:
    plain = model.analyze("This is amazing! Elide makes polyglot programming so easy!")
    assert plain.confidence > 0.9
    assert (plain.scores, plain.words, plain.model) == (None, None, "sentiment-v1")
    detailed = model.analyze("What a horrible, boring film", {"detailed": True})
    assert detailed.scores is not None
    assert sum(detailed.scores.values()) == pytest.approx(1.0, abs=1e-5)
    assert detailed.score == pytest.approx(detailed.scores["positive"] - detailed.scores["negative"], abs=1e-5)
    assert detailed.words is not None
    assert {each.word for each in detailed.words[:2]} == {"horrible", "boring"}
    assert all(each.weight < 0 for each in detailed.words[:2])


def test_several_texts_keep_their_order(model: SentimentModel) -> None:
    answer = model.analyze_batch(["Great product!", "Terrible service", "The box is brown."])
    assert [each.sentiment for each in answer.results] == ["positive", "negative", "neutral"]
    assert answer.count == 3
    assert model.analyze_batch([]).results == []


def test_what_cannot_be_asked_is_refused_by_name(model: SentimentModel, tmp_path: Path) -> None:
    for asked, field in (
        (lambda: model.analyze(""), "text"),
        (lambda: model.analyze(3), "text"),  # type: ignore[arg-type]
        (lambda: model.analyze("a" * 10_001), "text"),
        (lambda: model.analyze_batch(["a", ""]), "texts[1]"),
        (lambda: model.analyze_batch("several"), "texts"),
        (lambda: model.analyze("a", {"detail": True}), "options.detail"),
        (lambda: model.analyze("a", {"detailed": 1}), "options.detailed"),
        (lambda: SentimentModel(builtin_path("shop")), "path"),
        (lambda: SentimentModel(tmp_path / "none"), "path"),
    ):
        with pytest.raises(InvalidInput) as refused:
            asked()
        assert refused.value.field == field
    assert SentimentModel(config=ShowcaseConfig(max_text=20_000)).analyze("good " * 3_000).sentiment == "positive"


def test_it_is_small_and_opens_without_scikit_learn() -> None:
    assert builtin_path("sentiment").stat().st_size < 5_000_000
    code = (
        "import sys; from everloop.showcase import SentimentModel; m = SentimentModel(); m.warmup();"
        "print(m.get_info()['labels'], sorted({n.partition('.')[0] for n in sys.modules} & {'sklearn', 'scipy', 'torch', 'onnxruntime'}))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "['negative', 'neutral', 'positive'] []"


def test_feedback_makes_a_version_that_knows_new_words_and_the_old_ones(tmp_path: Path) -> None:
    slang = ["this zorb is lit", "so lit today", "that set was lit", "party was lit fam"]
    known = {"I hate this": "negative", "terrible": "negative", "I love it": "positive", "The box is brown.": "neutral"}
    texts = [*(f"{text} {i % 5}" for i in range(15) for text in slang), *(f"waiting in line {i}" for i in range(60))]
    with Continuum(data_dir=tmp_path) as engine:
        engine.register_model("mood", "builtin:sentiment")
        assert engine.predict("mood", {"text": "so lit today"}).prediction == "neutral"
        engine.add_training_examples("mood", [{"text": text} for text in texts], ["positive"] * 60 + ["neutral"] * 60)
        engine.train_model("mood")
        answers = {text: engine.predict("mood", {"text": text}) for text in [*slang, *known]}
        assert {answer.model_version for answer in answers.values()} == {2}
        assert {text: answer.prediction for text, answer in answers.items()} == dict.fromkeys(slang, "positive") | known
    with Continuum(data_dir=tmp_path) as engine:  # as after a restart, with nothing registered again
        assert engine.predict("mood", {"text": "so lit today"}).prediction == "positive"
        engine.add_training_examples("mood", [{"text": f"{i} zorbs queue"} for i in range(40)], ["negative"] * 40)
        engine.train_model("mood")
        answers = {text: engine.predict("mood", {"text": text}).prediction for text in [*slang, *known, "zorbs queue"]}
        assert answers == dict.fromkeys(slang, "positive") | known | {"zorbs queue": "negative"}


def test_it_goes_to_another_server_with_its_learner(tmp_path: Path) -> None:
    with Continuum(data_dir=tmp_path / "here") as here, Continuum(data_dir=tmp_path / "there") as there:
        here.register_model("mood", "builtin:sentiment")
        here.engine.services.registry.export_model("mood", tmp_path / "mood.everloop")
        services = there.engine.services
        services.registry.import_model(tmp_path / "mood.everloop", live=True, by="somebody", trust=services.trust_files)
        rows = [{"text": f"{word} {i}"} for word in ("zorb", "box") for i in range(40)]
        there.add_training_examples("mood", rows, ["positive"] * 40 + ["neutral"] * 40)
        there.train_model("mood")
        assert there.predict("mood", {"text": "zorb"}).prediction == "positive"
        assert there.predict("mood", {"text": "I hate this"}).prediction == "negative"
