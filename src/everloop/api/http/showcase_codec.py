"""From the body of `/api/predict/…` to a question, for the app and the fast lane alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from everloop.api import questions
from everloop.api.http.bodies import decode
from everloop.api.questions import Question
from everloop.showcase.config import ShowcaseConfig

_DECODERS: dict[str, tuple[msgspec.json.Decoder[Any], Callable[[Any, ShowcaseConfig], Question]]] = {
    "predict_sentiment": (msgspec.json.Decoder(questions.SentimentAsked), questions.sentiment_question),
    "predict_batch": (msgspec.json.Decoder(questions.BatchAsked), questions.batch_question),
    "predict_recommend": (msgspec.json.Decoder(questions.RecommendAsked), questions.recommend_question),
}
"""By operation."""


def decode_question(operation: str, body: bytes, config: ShowcaseConfig) -> Question:
    """Raises Malformed, InvalidInput, TooLarge."""
    decoder, question = _DECODERS[operation]
    return question(decode(decoder, body), config)
