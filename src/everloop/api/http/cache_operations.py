"""The operations on the cache: a part of the table in `http.operations`."""

from __future__ import annotations

from everloop.api import caching
from everloop.api.http.operation import Operation

CACHE: tuple[Operation, ...] = (
    Operation(
        "show_cache",
        "GET",
        "/v1/cache",
        "cache",
        "What this process remembers of its answers, and how often that saved asking a model.",
        answer=caching.CacheInfo,
    ),
    Operation(
        "clear_cache",
        "POST",
        "/v1/cache/clear",
        "cache",
        "Forget what a model, one version of it, or all models whose names match a pattern have answered: in this process, in every other "
        "one that serves the same models, and in what they share.",
        body=caching.ClearCache,
        example={"model": "price"},
        answer=caching.ClearedCache,
        refusals=("invalid_input", "model_not_found", "version_not_found"),
    ),
)
