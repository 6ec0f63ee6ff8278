"""Where a fitted scikit-learn estimator takes rows with missing values: column by column, since a `ColumnTransformer` imputes some only.

Its own tag of a pipeline always says no, so the steps are asked: a step must take the gap, and where it passes it on (a scaler does, an
imputer does not), all that comes behind it, too. What is not known to take them does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

_FILL = {"SimpleImputer", "KNNImputer", "IterativeImputer", "MissingIndicator", "RandomTreesEmbedding"}
"""Transformers that take missing values and pass none on."""


def takes_gaps(part: Any, places: list[int], names: list[Any], *, behind: bool = True) -> set[int]:
    """Those of `places`, the columns that `part` gets, whose values may be missing; `behind`: whether what comes behind `part` takes
    missing values. `names` are those of the columns, if they have any."""
    if isinstance(part, str) and part == "drop":
        return set(places)
    if _passes_through(part):
        return set(places) if behind else set()
    if hasattr(part, "best_estimator_"):  # a search
        part = part.best_estimator_
    if getattr(part, "steps", None):
        first, *rest = (step for _, step in part.steps)
        for step in reversed(rest):
            columns = list(range(getattr(step, "n_features_in_", 1)))
            behind = len(takes_gaps(step, columns, [], behind=behind)) == len(columns)
        return takes_gaps(first, places, names, behind=behind)
    if hasattr(part, "transformers_"):
        width = len(places)
        chosen = ((each, places_of(columns, names, width)) for _, each, columns in part.transformers_)
        return _by_all(chosen, places, names, behind=behind)
    if hasattr(part, "transformer_list"):
        return _by_all(((each, places) for _, each in part.transformer_list), places, names, behind=behind)
    if hasattr(part, "categories_"):
        return _known_to(part, places, behind=behind)
    passes_on = hasattr(part, "transform") and type(part).__name__ not in _FILL
    return set(places) if _allows_nan(part) and (behind or not passes_on) else set()


def places_of(chosen: Any, names: list[Any], width: int) -> list[int]:
    """The positions of the columns that a fitted `ColumnTransformer` has for one of its parts."""
    if isinstance(chosen, (str, int)):
        chosen = [chosen]
    elif isinstance(chosen, slice) or np.asarray(chosen).dtype == bool:
        chosen = np.arange(width)[chosen]
    return [names.index(column) if isinstance(column, str) else int(column) for column in chosen]


def _by_all(parts: Iterable[tuple[Any, list[int]]], places: list[int], names: list[Any], *, behind: bool) -> set[int]:
    """One that any of them refuses is refused."""
    taken = set(places)
    for part, own in parts:
        taken -= set(own) - takes_gaps(part, own, names, behind=behind)
    return taken


def _known_to(encoder: Any, places: list[int], *, behind: bool) -> set[int]:
    """An encoder takes a missing value as any category: if it learned it, or takes those that it did not learn."""
    passed_on = getattr(encoder, "encoded_missing_value", None)
    if passed_on is not None and passed_on != passed_on and not behind:
        return set()
    anything = getattr(encoder, "handle_unknown", "ignore") != "error"
    return {
        place
        for place, values in zip(places, encoder.categories_, strict=False)
        if anything or any(value is None or value != value for value in np.asarray(values, dtype=object).tolist())
    }


def _passes_through(part: Any) -> bool:
    return (
        part is None
        or (isinstance(part, str) and part == "passthrough")
        or (type(part).__name__ == "FunctionTransformer" and part.func is None)
    )


def _allows_nan(estimator: Any) -> bool:
    from sklearn.utils import get_tags

    try:
        return bool(get_tags(estimator).input_tags.allow_nan)
    except (AttributeError, TypeError, ValueError):  # duck-typed
        return False
