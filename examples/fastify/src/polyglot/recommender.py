"""What a user may like next: everloop's built-in shop, or the artifact that RECOMMENDER_MODEL names
(`everloop recommend train` makes them)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from everloop.showcase import Recommender

_model = Recommender(os.environ.get("RECOMMENDER_MODEL") or None)


def recommend(
    user_id: str, context: Mapping[str, Any] | None = None, limit: int = 10, exclude: Sequence[str] = ()
) -> Any:
    return _model.recommend(user_id, context, limit, exclude)


def similar_items(item_id: str, limit: int = 10) -> Any:
    return _model.similar_items(item_id, limit)


def record_interaction(user_id: str, item_id: str, rating: float = 1.0) -> None:
    _model.record_interaction(user_id, item_id, rating)


def warmup() -> None:
    _model.warmup()


def get_info() -> dict[str, Any]:
    return _model.get_info()
