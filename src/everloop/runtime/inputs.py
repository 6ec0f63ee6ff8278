"""How a scikit-learn estimator wants its rows: a matrix, a data frame, or a list of texts; and what a fitted one tells of them.

A frame needs pandas and costs about 0.1 ms a call, so it is built only where something depends on names: an estimator that was fitted
with them, or a `ColumnTransformer` that chooses by name. Text and numbers together are otherwise a matrix of objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from everloop.core.errors import InvalidInput, MissingExtra, NotSupported
from everloop.core.schema import Field, FieldKind, Schema, Target
from everloop.core.types import Task
from everloop.runtime.gaps import places_of, takes_gaps
from everloop.runtime.session import Matrix

Form = Literal["matrix", "frame", "texts"]


def input_form(estimator: Any, schema: Schema) -> Form:
    """The same before and after fitting. Raises InvalidInput where a text vectoriser meets more than one field."""
    if _takes_texts(estimator):
        if len(schema.fields) != 1:
            raise InvalidInput(
                f"{type(_first_step(estimator)).__name__} takes one text, but there are {len(schema.fields)} features "
                f"({', '.join(schema.names[:6])}): choose its column with a ColumnTransformer",
                field="features",
            )
        return "texts"
    if _learned(estimator, "feature_names_in_") is not None or any(
        _chooses_by_name(part) for part in _parts(estimator)
    ):
        return "frame"
    return "matrix"


def _chooses_by_name(part: Any) -> bool:
    """A `ColumnTransformer` that picks its columns by name or by kind, and not by position."""
    if type(part).__name__ != "ColumnTransformer":
        return False
    for _, _, columns in part.transformers:
        if callable(columns) or isinstance(columns, str):
            return True
        if isinstance(columns, (list, tuple, np.ndarray)) and any(isinstance(column, str) for column in columns):
            return True
    return False


def shape_rows(form: Form, schema: Schema, X: Matrix) -> Any:
    """(n, fields), as `Schema.matrix` gives it, in the form that the estimator wants."""
    if form == "matrix":
        if not schema.numeric:
            X = X.copy()
            for i, field in enumerate(schema.fields):
                if field.kind == "number":
                    X[:, i] = X[:, i].astype(np.float64)  # None becomes NaN
        return X
    if form == "texts":
        return ["" if value is None else value for value in X[:, 0].tolist()]
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("a model that chooses its columns by name needs pandas: pip install pandas") from error

    columns: dict[str, Any] = {}
    for i, field in enumerate(schema.fields):
        column = X[:, i]
        if field.kind == "number":
            columns[field.name] = column.astype(np.float64)
        else:
            # the same type whatever the rows: inferred, a column of nothing but gaps would be another than in the fit
            texts = [math.nan if value is None else value for value in column.tolist()]
            columns[field.name] = pd.Series(texts, dtype="str" if int(pd.__version__.split(".")[0]) >= 3 else object)
    return pd.DataFrame(columns)


def schema_of(estimator: Any, feature_names: Sequence[str] | None = None) -> Schema:
    """What a fitted estimator tells of its input: names, number, which columns hold text, where values may be missing."""
    if _takes_texts(estimator):
        name = feature_names[0] if feature_names else "text"
        return Schema((Field(str(name), "text"),), named=True)
    width = _learned(estimator, "n_features_in_")
    if width is None:
        raise NotSupported(
            f"{type(estimator).__name__} does not tell how many features it takes (n_features_in_): register it before fitting"
        )
    own = _learned(estimator, "feature_names_in_")
    if feature_names is not None and len(feature_names) != width:
        raise InvalidInput(f"feature_names: expected {width} names, got {len(feature_names)}", field="feature_names")
    if own is not None and feature_names is not None and list(own) != list(feature_names):
        raise InvalidInput(
            f"feature_names: the model was fitted with the names {', '.join(map(str, own))}", field="feature_names"
        )
    names = list(feature_names) if feature_names is not None else list(own) if own is not None else None
    text = _text_columns(estimator, names or [], int(width))
    gaps = takes_gaps(estimator, list(range(int(width))), names or [])
    fields = []
    for i in range(int(width)):
        kind: FieldKind = "text" if i in text else "number"
        fields.append(Field(str(names[i]) if names else f"x{i}", kind, i in gaps))
    return Schema(tuple(fields), named=names is not None)


def target_of(estimator: Any, task: Task) -> tuple[Target, list[Any] | None]:
    """The kind of a fitted estimator's answers, and its classes."""
    if task == "regression":
        return Target("regression"), None
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        raise NotSupported(f"{type(estimator).__name__} does not tell its classes (classes_)")
    if isinstance(classes, list) or np.asarray(classes).ndim != 1:
        raise NotSupported(f"{type(estimator).__name__} was fitted on several outputs; a model here answers one")
    listed = np.asarray(classes).tolist()
    return Target.infer("classification", listed[0]), listed


def task_of(estimator: Any) -> Task | None:
    """`regression` or `classification`; None where the estimator does not say."""
    from sklearn.base import is_classifier, is_regressor

    try:
        if is_classifier(estimator):
            return "classification"
        if is_regressor(estimator):
            return "regression"
    except (AttributeError, TypeError):  # duck-typed: no scikit-learn tags
        kind = getattr(estimator, "_estimator_type", None)
        return {"classifier": "classification", "regressor": "regression"}.get(str(kind))  # type: ignore[return-value]
    return None


def is_fitted(estimator: Any) -> bool:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    last = estimator
    while hasattr(last, "steps") and last.steps:
        last = last.steps[-1][1]
    try:
        check_is_fitted(last)
    except (NotFittedError, TypeError):
        return False
    # Those that can answer without a fit (a Gaussian process, its prior) pass the check untouched: look for what a fit leaves.
    return hasattr(last, "__sklearn_is_fitted__") or any(
        name.endswith("_") and not name.startswith("__") for name in vars(last)
    )


def _first_step(estimator: Any) -> Any:
    """Of those that do something."""
    while getattr(estimator, "steps", None):
        estimator = next((step for _, step in estimator.steps if step not in (None, "passthrough")), None)
    return estimator


def _learned(estimator: Any, what: str) -> Any:
    """What a fit has left; a pipeline itself looks no further than its first step. None: it has not."""
    own = getattr(estimator, what, None)
    return own if own is not None else getattr(_first_step(estimator), what, None)


def _takes_texts(estimator: Any) -> bool:
    first = _first_step(estimator)
    if not hasattr(first, "__sklearn_tags__"):  # and scikit-learn, which takes a second to import, need not be asked
        return False
    from sklearn.utils import get_tags

    try:
        tags = get_tags(first).input_tags
    except (AttributeError, TypeError, ValueError):  # duck-typed
        return False
    return bool(tags.string and not tags.two_d_array and not tags.categorical)


def _parts(estimator: Any) -> Iterator[Any]:
    yield estimator
    if hasattr(estimator, "get_params"):
        yield from (value for value in estimator.get_params(deep=True).values() if hasattr(value, "fit"))


def _text_columns(estimator: Any, names: list[Any], width: int) -> set[int]:
    """The positions whose encoder has learned strings, or that feed a text vectoriser."""
    first = _first_step(estimator)
    if type(first).__name__ != "ColumnTransformer" or not hasattr(first, "transformers_"):
        return _learned_strings(first, list(range(width)))
    found: set[int] = set()
    for _, transformer, chosen in first.transformers_:
        if isinstance(transformer, str):
            continue
        places = places_of(chosen, names, width)
        if _takes_texts(transformer):
            found.update(places)
        else:
            found |= _learned_strings(_first_step(transformer), places)
    return found


def _learned_strings(step: Any, places: list[int]) -> set[int]:
    if step is None or isinstance(step, str):
        return set()
    learned = getattr(step, "categories_", None)
    if learned is None:
        statistics = getattr(step, "statistics_", None)
        learned = [[value] for value in statistics] if statistics is not None else []
    return {
        place
        for place, values in zip(places, learned, strict=False)
        if any(isinstance(value, str) for value in np.asarray(values, dtype=object).tolist())
    }
