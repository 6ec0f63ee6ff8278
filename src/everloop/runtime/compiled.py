"""A fitted scikit-learn estimator in the form that needs no scikit-learn to answer: linear models and small trees.

`compile_estimator` says what the compiled artifact is, or why there is none. `runtime.sklearn` asks it whenever it opens an estimator, so
that registered, learned and reloaded models answer compiled without anybody's doing; `everloop optimize` writes it as an artifact of its
own, which then starts without scikit-learn, too.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
import numpy as np

from everloop.core.errors import NotSupported
from everloop.runtime.folding import own
from everloop.runtime.linear import LinearModel
from everloop.runtime.linear_folding import fold_linear
from everloop.runtime.tree import TreeModel
from everloop.runtime.tree_reading import TREES, read_trees
from everloop.stores.ports import Manifest

Compiled: TypeAlias = LinearModel | TreeModel


def compile_estimator(manifest: Manifest, estimator: Any) -> tuple[Manifest, Compiled]:
    """The manifest of the compiled form, and what its payload is packed from. Raises NotSupported, saying why there is none."""
    if not manifest.schema.numeric:
        raise NotSupported("features of text cannot be compiled")
    last = _last(estimator)
    if manifest.classes is not None:
        labels = np.asarray(getattr(last, "classes_", ())).tolist()
        if labels != manifest.classes or list(map(type, labels)) != list(map(type, manifest.classes)):
            raise NotSupported("the estimator's classes are not those of its manifest")
    gaps = any(field.nullable for field in manifest.schema.fields)
    options: dict[str, Any] = {"compiled_from": describe(estimator)}
    try:
        if own(last, *TREES):
            compiled: Compiled = read_trees(estimator, gaps=gaps)
        else:
            compiled, scores = fold_linear(estimator, gaps=gaps)
            if manifest.classes is not None:
                options["scores"] = scores
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # Fitted by another version of scikit-learn, which keeps its parameters elsewhere; its own predict may still know them.
        raise NotSupported(f"{describe(estimator)} is not as this scikit-learn fits it: {error}") from error
    width = compiled.weights.shape[1] if isinstance(compiled, LinearModel) else len(compiled.fill)
    if width != len(manifest.schema.fields):
        raise NotSupported(f"the estimator takes {width} values, its manifest tells of {len(manifest.schema.fields)}")
    runtime = "linear" if isinstance(compiled, LinearModel) else "tree"
    return msgspec.structs.replace(manifest, runtime=runtime, options=options), compiled


def as_trained(manifest: Manifest) -> Manifest:
    """The same, but that a scikit-learn estimator answers itself: what its other forms are compared to."""
    if manifest.runtime != "sklearn":
        return manifest
    return msgspec.structs.replace(manifest, options={**manifest.options, "compiled": False})


def describe(estimator: Any) -> str:
    """`StandardScaler, LogisticRegression`."""
    if hasattr(estimator, "steps"):
        return ", ".join(describe(part) for _, part in estimator.steps)
    return type(estimator).__name__ if not isinstance(estimator, str) else estimator


def _last(estimator: Any) -> Any:
    while hasattr(estimator, "steps") and estimator.steps:
        estimator = estimator.steps[-1][1]
    return estimator
