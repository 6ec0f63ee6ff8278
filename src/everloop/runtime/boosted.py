"""What XGBoost, LightGBM and CatBoost have in common: how outputs become answers, how categories become codes, who takes which object.

Each library's own file is the artifact, since it holds no code: `runtime.xgboost`, `runtime.lightgbm`, `runtime.catboost` load it after
its `*_file` module has checked every index in it. What a file has no place for (labels, a number that stands for a missing value) is kept
in a note of ours inside the file, which the libraries pass over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from everloop.core.errors import ArtifactCorrupt, InvalidInput, NotSupported
from everloop.core.schema import Field, Schema, Target, plain
from everloop.runtime.artifact import library_versions
from everloop.runtime.formats import format_of
from everloop.runtime.session import Matrix
from everloop.stores.ports import Manifest

Floats: TypeAlias = npt.NDArray[np.float64]
Outputs: TypeAlias = Literal["value", "probability", "logit", "probabilities", "one_vs_all", "logits", "number"]
"""What a row's output is: a value; the probability or the log-odds of the second class; a probability a class (one class against all
others: not summing to one); a score a class; the class's number."""

LIBRARIES = ("xgboost", "lightgbm", "catboost")


@dataclass(frozen=True)
class Columns:
    """Rows as a library takes them: a category becomes its code, and one that the model does not know a missing value. LightGBM takes it
    for one, too; XGBoost would refuse the row, and a new city is no reason for a server to fail."""

    codes: tuple[Mapping[Any, int] | None, ...]
    """Field by field: category -> code; None: a number, or a code already."""

    @property
    def plain(self) -> bool:
        return not any(self.codes)

    def numbers(self, X: Matrix) -> Matrix:
        """(n, fields) of numbers or objects -> (n, fields) of float64; missing: NaN."""
        if X.dtype != object and self.plain:
            return X
        out = np.empty(X.shape, np.float64)
        for i, codes in enumerate(self.codes):
            column = X[:, i]
            out[:, i] = column if codes is None else [codes.get(value, np.nan) for value in column.tolist()]
        return out


class BoostedSession:
    """A fitted ensemble. `raw` gives a batch's outputs and may be called from several threads at once."""

    def __init__(
        self,
        manifest: Manifest,
        raw: Callable[[Matrix], Matrix],
        outputs: Outputs,
        *,
        dtype: Any,
        threshold: float = 0.5,
    ) -> None:
        self.schema: Schema = manifest.schema
        self.target: Target = manifest.target
        self.classes: list[Any] | None = manifest.classes
        self.dtype: Any = dtype if manifest.schema.numeric else object
        self.scored = outputs not in ("value", "number")
        self._raw = raw
        self._outputs = outputs
        self._threshold = threshold
        self._odds = float(np.log(threshold / (1.0 - threshold)))
        self._labels = _array(self.classes or [])

    def run(self, X: Matrix) -> Matrix:
        out = self._raw(X)
        if self._outputs == "value":
            return out.astype(np.float64)
        if self._outputs == "probability":
            places = (out > self._threshold).astype(np.intp)
        elif self._outputs == "logit":
            places = (out > self._odds).astype(np.intp)
        elif self._outputs == "number":
            places = out.astype(np.intp)
        else:
            places = out.argmax(axis=1)
        answers: Matrix = self._labels[places]
        return answers

    def scores(self, X: Matrix) -> Floats | None:
        if not self.scored:
            return None
        out = self._raw(X).astype(np.float64)
        if self._outputs in ("probability", "logit"):
            second = out if self._outputs == "probability" else _sigmoid(out)
            return np.column_stack([1.0 - second, second])
        if self._outputs == "logits":
            raised = np.exp(out - out.max(axis=1, keepdims=True))
            out = raised / raised.sum(axis=1, keepdims=True)
        elif self._outputs == "one_vs_all":
            out = _sigmoid(out)
        return out

    def close(self) -> None:
        """The library frees the model when the last reference goes."""
        self._raw = _closed


def _closed(_: Matrix) -> Matrix:
    raise RuntimeError("this session is closed")


def _sigmoid(values: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-values))


def _array(labels: list[Any]) -> npt.NDArray[Any]:
    """Labels of one kind of number as such, so that answers are taken from it quickly."""
    if labels and all(type(label) is int for label in labels):
        return np.array(labels)
    out = np.empty(len(labels), object)
    out[:] = labels
    return out


def make_manifest(
    runtime: str,
    outputs: Outputs,
    groups: int,
    fields: Sequence[Field],
    *,
    named: bool,
    classes: Sequence[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    libraries: tuple[str, ...],
) -> Manifest:
    """Raises InvalidInput (other labels than the model has classes, or features of one name)."""
    if len({field.name for field in fields}) != len(fields):
        raise InvalidInput(f"the {runtime} model has two features of the same name", field="features")
    schema = Schema(tuple(fields), named=named)
    known, settings = library_versions(*libraries), dict(options or {})
    if outputs == "value":
        return Manifest(runtime, "regression", schema, Target("regression"), libraries=known, options=settings)
    count = max(2, groups)
    labels = list(range(count)) if classes is None else [tidy_label(label) for label in classes]
    if len(labels) != count or len(set(labels)) != count:
        raise InvalidInput(f"classes: the model tells {count} classes apart, got {labels!r}", field="classes")
    target = Target.infer("classification", labels[0])
    return Manifest(runtime, "classification", schema, target, classes=labels, libraries=known, options=settings)


def tidy_label(label: Any) -> Any:
    label = plain(label)
    return int(label) if isinstance(label, float) and label.is_integer() else label


def own_labels(labels: Sequence[Any] | None) -> list[Any] | None:
    """Labels that are not just 0, 1, …, which is what a model's outputs are numbered by."""
    tidy = None if labels is None else [tidy_label(label) for label in labels]
    return None if tidy is None or (tidy == list(range(len(tidy))) and not isinstance(tidy[0], bool)) else tidy


def check_manifest(manifest: Manifest, outputs: Outputs, groups: int, width: int) -> None:
    """Raises ArtifactCorrupt where the file is of another shape than its manifest tells."""
    task = "regression" if outputs == "value" else "classification"
    classes = len(manifest.classes or ())
    if (
        len(manifest.schema.fields) != width
        or manifest.task != task
        or (task == "classification" and classes != max(2, groups))
    ):
        raise ArtifactCorrupt(
            f"the {manifest.runtime} model has {width} features and {groups} outputs for {task}, and its manifest tells otherwise"
        )


# -- objects of these libraries --


def library_of(model: Any) -> str | None:
    """Which of the three libraries defines the type of this object; a type derived from one of theirs may answer otherwise."""
    root = type(model).__module__.partition(".")[0]
    return root if root in LIBRARIES else None


def pack_boosted(
    model: Any, feature_names: Sequence[str] | None = None, classes: Sequence[Any] | None = None
) -> tuple[Manifest, bytes]:
    """A fitted wrapper of scikit-learn's kind (`XGBClassifier`, `LGBMRegressor`, `CatBoostClassifier`, …) or a library's own `Booster`.

    Raises NotSupported, InvalidInput (not fitted, names or labels that do not fit), MissingExtra."""
    library = library_of(model)
    assert library is not None
    made: tuple[Manifest, bytes] = format_of(library).open().pack(model, feature_names, classes)
    return made


def booster_of(model: Any, booster: type[Any], estimator: type[Any], held: Callable[[Any], Any]) -> Any:
    """The library's own object: `model` itself, or what a fitted wrapper of scikit-learn's kind holds, which `held` takes out.

    Raises InvalidInput (not fitted), NotSupported (neither of them)."""
    from sklearn.exceptions import NotFittedError

    if isinstance(model, booster):
        return model
    if not isinstance(model, estimator):
        raise not_taken(model)
    try:
        return held(model)
    except NotFittedError:
        raise not_fitted(model) from None


def check_names(names: Sequence[str] | None, own: Sequence[str] | None, width: int) -> list[str] | None:
    """The names to use. Raises InvalidInput."""
    if names is None:
        return list(own) if own is not None else None
    if len(names) != width:
        raise InvalidInput(f"feature_names: expected {width} names, got {len(names)}", field="feature_names")
    if own is not None and list(own) != list(names):
        raise InvalidInput(
            f"feature_names: the model was fitted with the names {', '.join(map(str, own))}", field="feature_names"
        )
    return [str(name) for name in names]


def not_fitted(model: Any) -> InvalidInput:
    return InvalidInput(f"{type(model).__name__} is not fitted yet: fit it first", field="model")


def not_taken(model: Any) -> NotSupported:
    return NotSupported(
        f"a {type(model).__name__} is no regressor or classifier: give a fitted one, or the Booster that it holds",
        field="model",
    )
