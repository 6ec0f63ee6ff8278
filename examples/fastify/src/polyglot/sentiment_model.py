"""Sentiment of texts: everloop's built-in model, or the artifact that SENTIMENT_MODEL names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from everloop.showcase import SentimentModel

_model = SentimentModel(os.environ.get("SENTIMENT_MODEL") or None)


def analyze(text: str, options: Mapping[str, Any] | None = None) -> Any:
    return _model.analyze(text, options)


def analyze_batch(texts: Sequence[str], options: Mapping[str, Any] | None = None) -> Any:
    return _model.analyze_batch(texts, options)


def warmup() -> None:
    _model.warmup()


def get_info() -> dict[str, Any]:
    return _model.get_info()
