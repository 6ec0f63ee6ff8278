"""The classes for programs: whatever is given wrongly is InvalidInput, and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everloop.core.errors import InvalidInput
from everloop.showcase import ImageClassifier, SentimentModel

BLANK = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)


@pytest.fixture(scope="module")
def mood() -> SentimentModel:
    return SentimentModel()


@pytest.fixture(scope="module")
def digits() -> ImageClassifier:
    return ImageClassifier()


@pytest.mark.parametrize(
    ("texts", "options", "field"),
    [
        (None, None, "texts"),
        ("one", None, "texts"),
        ({"a": "b"}, None, "texts"),
        (["good", None], None, "texts[1]"),
        (["good"], ["detailed"], "options"),
        (["good"], {"detailed": 1}, "options.detailed"),
    ],
)
def test_texts(mood: SentimentModel, texts: Any, options: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        mood.analyze_batch(texts, options)
    assert caught.value.field == field


def test_texts_may_come_one_by_one(mood: SentimentModel) -> None:
    assert mood.analyze_batch(text for text in ("Great!", "Bad service")).count == 2


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Path("nofile.png"), "nofile.png cannot be read"),
        (Path(__file__).parent, "cannot be read"),
        (5, "got int"),
        (["a"], "got list"),
    ],
)
def test_images(digits: ImageClassifier, image: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        digits.classify(image)
    assert caught.value.field == "image"


def test_bytes_of_every_kind_are_a_file(digits: ImageClassifier) -> None:
    told = digits.classify(BLANK, top_k=1).predictions
    assert digits.classify(bytearray(BLANK), top_k=1).predictions == told
    assert digits.classify(memoryview(BLANK), top_k=1).predictions == told
    for wrong in (None, BLANK, "text"):
        with pytest.raises(InvalidInput, match="expected several images"):
            digits.classify_batch(wrong)  # type: ignore[arg-type]
