"""What a user may like next: everloop's built-in shop, or the artifact that RECOMMENDER_MODEL names
(`everloop recommend train` makes them)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from everloop.core.errors import InvalidInput
from everloop.showcase import Recommender

_model = Recommender(os.environ.get("RECOMMENDER_MODEL") or None)


def recommend(
    user_id: str | int | None = None,
    context: Mapping[str, Any] | None = None,
    limit: int = 10,
    exclude: Sequence[str | int] = (),
    *,
    history: Sequence[str | int] = (),
    seen: bool = False,
    item_id: str | int | None = None,
) -> Any:
    """For a user, or what is like an item."""
    if item_id is None and user_id is not None:
        return _model.recommend(user_id, context, limit, exclude, history=history, seen=seen)
    if item_id is not None and user_id is None:
        return _model.similar_items(item_id, limit, context, exclude)
    raise InvalidInput(
        "body: give either user_id (what is for a user) or item_id (what is like an item)", field="user_id"
    )


def similar_items(item_id: str, limit: int = 10) -> Any:
    return _model.similar_items(item_id, limit)


def record_interaction(user_id: str, item_id: str, rating: float = 1.0) -> None:
    _model.record_interaction(user_id, item_id, rating)


def warmup() -> None:
    _model.warmup()


def get_info() -> dict[str, Any]:
    return _model.get_info()
