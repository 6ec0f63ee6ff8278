"""What is answered to people about texts, images and users: one shape each, for the routes of the server and for programs without one.

`latency_ms` is the time from the question's arrival to its answer; `model` names who answered; `request_id` is what feedback refers to,
and absent where nobody records (a program without a server).
"""

from __future__ import annotations

import msgspec


class WordWeight(msgspec.Struct):
    word: str
    weight: float
    """How much it spoke for the answer; below 0: against it."""


class SentimentAnswer(msgspec.Struct, omit_defaults=True):
    sentiment: str
    """`positive`, `negative` or `neutral`; of a model of one's own, its label."""
    confidence: float
    """The probability of that."""
    score: float
    """P(positive) - P(negative), from -1 to 1."""
    latency_ms: float | None = None
    """None for one text of several, whose answer tells it once."""
    model: str = ""
    """The model's name and version, `sentiment-v1`; empty as above."""
    request_id: str = ""
    scores: dict[str, float] | None = None
    """By label; where `detailed` was asked for."""
    words: list[WordWeight] | None = None
    """What mattered, the weightiest first; as above."""


class SentimentsAnswer(msgspec.Struct, omit_defaults=True):
    results: list[SentimentAnswer]
    """In the order of the texts."""
    count: int
    latency_ms: float
    model: str
    request_id: str = ""
    """With the place of a text as `index`, what feedback refers to."""


class LabelConfidence(msgspec.Struct):
    label: str
    confidence: float


class ImageAnswer(msgspec.Struct, omit_defaults=True):
    predictions: list[LabelConfidence]
    """The likeliest first."""
    latency_ms: float
    model: str
    request_id: str = ""


class Recommendation(msgspec.Struct):
    item_id: str
    score: float
    reason: str


class RecommendAnswer(msgspec.Struct, omit_defaults=True):
    recommendations: list[Recommendation]
    """The best first."""
    latency_ms: float
    model: str
    request_id: str = ""
