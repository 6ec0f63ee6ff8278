"""Text classifiers: what a text is read as, what is computed of it, what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import ArtifactCorrupt, InvalidInput
from everloop.core.tensors import Tensor
from everloop.runtime.artifact import Trust, load_session
from everloop.runtime.text import TextSession, manifest_of
from everloop.runtime.text_model import MAGIC, Tables, TextModel, pack_text, pieces_of, unpack_text
from everloop.runtime.text_reading import NUMBERS, Reader

LEXICON = {"good": 1.9, "bad": -2.5, "love": 3.2, ":)": 2.0, "😀": 1.5, "no": -1.2}
LABELS = ("down", "flat", "up")


def tables() -> Tables:
    features = {
        "good": (-1.0, 0.0, 1.0),
        "¬good": (2.0, 0.0, -2.0),
        "very good": (0.0, 0.0, 0.5),
        "table": (0.0, 0.25, 0.0),
    }
    numbers = [(0.0, 0.5, 0.0) if name == "one" else (0.0, 0.0, 0.0) for name in NUMBERS]
    return Tables(
        features,
        dict.fromkeys(features, 8.0),
        {"<tab": (0.0, 0.5, 0.0)},
        (4, 4),
        numbers,
        [100.0] * len(NUMBERS),
        LEXICON,
    )


def session(**options: object) -> TextSession:
    manifest = msgspec.structs.replace(manifest_of(LABELS, axis=("down", "up")), **options)
    found = load_session(manifest, pack_text(tables()), trust=Trust())
    assert isinstance(found, TextSession)
    return found


def numbers(text: str) -> SimpleNamespace:
    names = (name.replace(" ", "_") for name in NUMBERS)
    return SimpleNamespace(**dict(zip(names, Reader(LEXICON).read(text).numbers(), strict=True)))


def test_words_marks_addresses_and_mentions_become_tokens() -> None:
    read = Reader(LEXICON).read("@you: it’s GREAT!!! see https://x.org/a?b at 10:30 :))) 😀 ...")
    assert read.tokens == ["@", ":", "it's", "great", "!!!", "see", "<url>", "at", "0", ":)))", "😀", "..."]
    assert read.capitals == 1


def test_a_negation_reaches_four_words_and_no_further_than_a_mark() -> None:
    read = Reader(LEXICON).read("not a very very good good")
    assert [read.tokens[i] for i in read.negated] == ["a", "very", "very", "good"]
    assert Reader(LEXICON).read("not here, good").negated == [1]
    assert numbers("not good").compound < 0 < numbers("good").compound


def test_emphasis_strengthens_and_its_opposite_weakens() -> None:
    assert (
        numbers("slightly good").sum < numbers("good").sum < numbers("very good").sum < numbers("very GOOD indeed").sum
    )
    assert numbers("slightly bad").sum > numbers("bad").sum > numbers("very bad").sum
    assert numbers("GOOD").sum == numbers("good").sum, "who shouts throughout emphasises nothing"


def test_what_comes_after_a_contrast_counts_of_its_own() -> None:
    assert numbers("good but bad").after_contrast < 0
    assert numbers("good and bad").after_contrast == 0
    assert numbers("good but bad").both == 1


def test_escaped_marks_are_read_as_they_were_meant() -> None:
    assert Reader(LEXICON).read("this &amp; that").tokens == ["this", "&", "that"]


@given(st.text(max_size=200))
def test_any_text_is_read_and_every_number_is_finite(text: str) -> None:
    read = Reader(LEXICON).read(text)
    assert len(read.numbers()) == len(NUMBERS)
    assert np.isfinite(read.numbers()).all()
    assert all(len(feature) > 0 and "\n" not in feature for feature in read.features())


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_a_text_has_the_same_scores_alone_and_beside_others(texts: list[str]) -> None:
    model = session()
    together = model.scores(np.array(texts, object).reshape(-1, 1))
    fresh = session()
    assert [fresh.model.probabilities(text) for text in reversed(texts)] == together.tolist()[::-1]
    assert np.allclose(together.sum(axis=1), 1.0)


@pytest.mark.parametrize("worst", ["a", "!", ":", "not ", "&amp;", "@", ":-", "a'", "1.", "<", "http://"])
def test_no_text_takes_the_reader_more_than_linear_time(worst: str) -> None:
    """An expression that tries all ways to split one of these would not be done before the test's time is."""
    read = Reader(LEXICON).read(worst * (100_000 // len(worst)))
    assert len(read.features()) > 1


def test_weights_of_words_pairs_negations_pieces_and_numbers_add_up() -> None:
    model = TextModel(tables())
    assert model.logits("good") == [-1.0, 0.5, 1.0]
    assert model.logits("very good") == [-1.0, 0.5, 1.5]
    assert model.logits("not good") == [1.0, 0.5, -1.0]
    assert model.logits("good good") == [-1.0, 0.5, 1.0], "there or not there"
    assert model.logits("table") == [0.0, 1.25, 0.0], "its own weight, and its piece's"
    assert model.logits("tablet") == [0.0, 1.0, 0.0], "nobody knows it, but its piece"
    assert model.logits("") == [0.0, 0.5, 0.0]


def test_pieces_are_the_ngrams_of_a_marked_word() -> None:
    assert pieces_of("good", range(3, 5)) == ["<go", "goo", "ood", "od>", "<goo", "good", "ood>"]
    assert pieces_of("cat", range(3, 5)) == []
    assert pieces_of("a" * 41, range(3, 5)) == []


def test_what_is_written_is_read_again() -> None:
    found = unpack_text(pack_text(tables()))
    assert found._replace(lexicon={}) == tables()._replace(lexicon={})
    assert found.lexicon == pytest.approx(LEXICON)
    assert unpack_text(pack_text(tables(), precision="half")).features == tables().features


def changed(**fields: object) -> bytes:
    payload = msgspec.msgpack.decode(pack_text(tables())[len(MAGIC) :])
    return MAGIC + msgspec.msgpack.encode({**payload, **fields})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"PK",
        MAGIC,
        MAGIC + b"\xc1",
        changed(format=2),
        changed(classes=1),
        changed(precision="double"),
        changed(weights=b""),
        changed(weights=np.full(12, np.nan, "<f4").tobytes()),
        changed(curvatures=np.zeros(4, "<f4").tobytes()),
        changed(features="good\ngood\nvery good\ntable"),
        changed(features="good\n\nvery good\ntable"),
        changed(piece_sizes=(0, 4)),
        changed(numbers=["one"]),
        changed(valences=b"1234"),
    ],
    ids=str,
)
def test_damaged_artifacts_are_refused(payload: bytes) -> None:
    with pytest.raises(ArtifactCorrupt):
        load_session(manifest_of(LABELS), payload, trust=Trust())


@pytest.mark.parametrize(
    "options", [{"classes": ["a", "b"]}, {"classes": ["a", "a", "b"]}, {"options": {"axis": ["down", "sideways"]}}]
)
def test_a_manifest_that_tells_of_another_model_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ArtifactCorrupt):
        session(**options)


def test_rows_and_tensors_answer_alike() -> None:
    model = session()
    X = np.array([["good"], ["not good"], [""]], object)
    assert model.run(X).tolist() == ["up", "down", "flat"]
    assert [model.compile_row()(row) for row in X.tolist()] == ["up", "down", "flat"]
    (asked,) = model.tensors.take([Tensor("text", "BYTES", np.array([b"good", "not good", b""], object))])
    found = model.tensors.infer([asked], ("prediction", "probabilities", "explanation"))
    assert found["prediction"].tolist() == ["up", "down", "flat"]
    assert found["probabilities"].tolist() == model.scores(X).tolist()
    assert json.loads(found["explanation"][0]) == [["good", 2.0]]
    assert set(model.tensors.infer([asked], ("prediction",))) == {"prediction"}
    recorded = model.tensors.answered([asked], found)
    assert (recorded.X.tolist(), recorded.values) == (X.tolist(), ["up", "down", "flat"])
    with pytest.raises(TypeError):
        model.compile_row()([1.0])


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("texts", "BYTES", np.array(["a"], object)),
        Tensor("text", "FP32", np.zeros(1, np.float32)),
        Tensor("text", "BYTES", np.array([["a", "b"]], object)),
        Tensor("text", "BYTES", np.array([b"\xff"], object)),
    ],
    ids=["name", "type", "shape", "no UTF-8"],
)
def test_other_tensors_are_refused_by_name(tensor: Tensor) -> None:
    with pytest.raises(InvalidInput, match=r"text|inputs"):
        session().tensors.take([tensor])


def test_an_explanation_tells_how_far_each_word_moves_the_answer() -> None:
    assert session().explain("very good table") == [("good", 2.25), ("very", 0.25)]
    assert session().explain("not good") == [("not good", -2.0)]
    assert session(options={}).explain("good") == [("good", 1.5)], (
        "without an axis: the answer against the mean of the others"
    )
    assert session().explain("very good very good") == session().explain("very good"), "there or not there"
    assert session().explain("") == []


def test_words_are_told_as_they_are_written() -> None:
    reader = Reader(LEXICON)
    text = "@you it’s GR8, see https://x.org/A 5/5 1st &lt;3 a_b"
    assert reader.written(text) == [
        "@you", "it's", "gr8", "gr8", "see", "https://x.org/a", "5", "/", "5", "1st", "1st", "<3", "a", "b",
    ]  # fmt: skip
    made = tables()
    made.features["0"], made.curvatures["0"] = (0.0, 0.0, 1.0), 8.0
    found = load_session(manifest_of(LABELS, axis=("down", "up")), pack_text(made), trust=Trust())
    assert isinstance(found, TextSession)
    assert found.explain("gr8 and 7") == [("gr8", 1.0)], "as a number it is there once, whichever it is"


@given(st.text(alphabet="ab1_'’.:)& \u00e9\U0001f600", max_size=60))
def test_there_is_a_written_word_for_every_token(text: str) -> None:
    reader = Reader(LEXICON)
    assert len(reader.written(text)) == len(reader.read(text).tokens)


def test_a_word_that_comes_several_times_tells_of_all_of_them() -> None:
    """What the lexicon adds up to is in the answer as a whole, so it has to be in what is told."""
    made = tables()
    place = NUMBERS.index("compound")
    made.numbers[place] = (0.0, 0.0, 2.0)
    found = load_session(manifest_of(LABELS, axis=("down", "up")), pack_text(made), trust=Trust())
    assert isinstance(found, TextSession)
    ((word, weight),) = found.explain("love love love love")
    alone, none = (found.model.logits(text) for text in ("love love love love", "x x x x"))
    assert (word, weight) == ("love", pytest.approx(alone[2] - none[2], abs=1e-3))


def test_a_text_that_is_too_long_is_refused_by_every_door() -> None:
    short, long = "good" * 5, "good " * 4
    found = session(options={"axis": ["down", "up"], "max_text": 18})
    X = np.array([["good"], [long]], object)
    asked = Tensor("text", "BYTES", X.reshape(-1))
    for door, field in (
        (lambda: found.run(X), "text[1]"),
        (lambda: found.run(X[1:]), "text"),
        (lambda: found.compile_row()([short]), "text"),
        (lambda: found.tensors.take([asked]), "text[1]"),
    ):
        with pytest.raises(InvalidInput, match="at most 18 characters, got 20") as refused:
            door()
        assert refused.value.field == field
    assert session().compile_row()(["good " * 2000]) == "up"
    with pytest.raises(InvalidInput, match="at most 10,000"):
        session().compile_row()(["good " * 2000 + "!"])
    with pytest.raises(ArtifactCorrupt, match="max_text"):
        session(options={"max_text": "long"})
