"""Recommendations: a model trained from a file of interactions, asked, and taught further, by programs without a server.

Recommender        opens an artifact (the built-in shop unless told otherwise), answers as `/api/predict/recommend` does, and learns
                   from what users do at once, in this process only
train              a file as `interactions` reads them -> an artifact that `everloop serve recommender=PATH` takes
recall_at          how many of the items that users went on to take are among the first that they were recommended
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from everloop.core.errors import InvalidInput
from everloop.learning.learners.factors import start
from everloop.runtime.factors import check_rating
from everloop.runtime.recommending import Query, check_id, query_of, recommend
from everloop.showcase.answers import RecommendAnswer, Recommendation
from everloop.showcase.builtin import builtin_path

RUNTIME = "factors"


class Recommender:
    """Safe from any thread. What it learns is gone with it, unless `save` keeps it."""

    def __init__(self, path: str | Path | None = None) -> None:
        """`path`: of an artifact; the built-in shop, whose data is generated, if not given. Raises InvalidInput, ArtifactCorrupt."""
        from everloop.runtime.artifact import read_payload
        from everloop.runtime.packaged import read_artifact

        self._path = Path(path) if path is not None else builtin_path("shop")
        manifest, payload = read_artifact(read_payload(self._path))
        if manifest.runtime != RUNTIME:
            raise InvalidInput(
                f"{self._path} is no recommender: it is an artifact of the runtime {manifest.runtime!r}", field="path"
            )
        self._learner = start(manifest, payload)
        self._lock = threading.Lock()
        self.name = f"{'recommender' if path is None else self._path.stem}-v1"

    def recommend(
        self,
        user_id: str | int,
        context: Mapping[str, Any] | None = None,
        limit: int = 10,
        exclude: Iterable[str | int] = (),
        *,
        history: Iterable[str | int] = (),
        seen: bool = False,
    ) -> RecommendAnswer:
        """`context`: attributes that the items must have, `{"category": "tech"}`. `history`: items that the user liked just now, beside
        those that are known. `seen`: whether items that the user knows may come again. Whoever is not known gets what is popular.
        Raises InvalidInput naming the field."""
        return self._answer(
            {
                "user": _id(user_id, "user_id"),
                "limit": limit,
                "context": {} if context is None else context,
                "exclude": _ids(exclude, "exclude"),
                "history": _ids(history, "history"),
                "seen": seen,
            }
        )

    def similar_items(
        self,
        item_id: str | int,
        limit: int = 10,
        context: Mapping[str, Any] | None = None,
        exclude: Iterable[str | int] = (),
    ) -> RecommendAnswer:
        """Items that are liked by those who like this one. Raises InvalidInput."""
        return self._answer(
            {
                "item": _id(item_id, "item_id"),
                "limit": limit,
                "context": {} if context is None else context,
                "exclude": _ids(exclude, "exclude"),
            }
        )

    def record_interaction(self, user_id: str | int, item_id: str | int, rating: float = 1.0) -> None:
        """Learned at once: the next answer knows it. `rating`: at most a million either way, and nothing that is far beyond what the model
        has seen moves it further than that. Raises InvalidInput."""
        user, item, label = _id(user_id, "user_id"), _id(item_id, "item_id"), check_rating(rating, "rating")
        with self._lock:
            self._learner.learn([[user, item]], [label])

    def warmup(self) -> None:
        """Make the first answer as fast as all others."""
        with self._lock:
            recommend(self._learner.model, Query(limit=1))

    def get_info(self) -> dict[str, Any]:
        with self._lock:
            model = self._learner.model
            return {
                "model": self.name,
                "path": str(self._path),
                "users": len(model.users),
                "items": len(model.catalogue),
                "factors": model.factors.shape[1],
                "attributes": {name: list(values) for name, values in model.catalogue.attributes.items()},
            }

    def save(self, path: str | Path) -> Path:
        """With all that was learned, as an artifact. Raises InvalidInput where it cannot be written."""
        from everloop.runtime.packaged import write_artifact

        with self._lock:
            manifest, payload = self._learner.freeze()
        return write_artifact(path, manifest, payload)

    def _answer(self, given: Mapping[str, Any]) -> RecommendAnswer:
        began = perf_counter()
        query = query_of(given)
        with self._lock:
            found = recommend(self._learner.model, query)
        items = [Recommendation(each.item_id, each.score, each.reason) for each in found]
        return RecommendAnswer(items, round((perf_counter() - began) * 1000, 3), self.name)


def _id(given: Any, field: str) -> str:
    """Raises InvalidInput."""
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise InvalidInput(f"{field}: expected a text or a whole number, got {type(given).__name__}", field=field)
    if isinstance(given, int) and given.bit_length() > 64:
        raise InvalidInput(f"{field}: a whole number has at most 64 bits", field=field)
    check_id(str(given), field)
    return str(given)


def _ids(given: Any, field: str) -> list[str]:
    """Raises InvalidInput."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise InvalidInput(f"{field}: expected several ids, got {type(given).__name__}", field=field)
    return [_id(item, f"{field}[{i}]") for i, item in enumerate(given)]
