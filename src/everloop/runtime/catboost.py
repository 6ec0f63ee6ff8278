"""CatBoost models: the binary file that CatBoost itself writes, with its labels, categories and names inside.

A category is text here, also where the fit had whole numbers: CatBoost takes 3 and "3" for the same."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everloop.core.errors import ArtifactCorrupt, InvalidInput, NotSupported
from everloop.core.schema import Field
from everloop.runtime.artifact import Trust, threads_of
from everloop.runtime.boosted import (
    BoostedSession,
    Outputs,
    check_manifest,
    check_names,
    make_manifest,
    not_fitted,
    not_taken,
    tidy_label,
)
from everloop.runtime.catboost_file import CatBoostFacts, read_facts
from everloop.runtime.session import Matrix
from everloop.stores.ports import Manifest

_VALUES = ("RMSE", "MAE", "Quantile", "LogLinQuantile", "Lq", "Huber", "Expectile", "MAPE", "LogCosh")
_EXPONENTS = ("Poisson", "Tweedie")
"""Losses whose answer is the exponent of the trees' sum."""
_CLASSES: dict[str, Outputs] = {
    "Logloss": "logit",
    "CrossEntropy": "logit",
    "MultiClass": "logits",
    "MultiClassOneVsAll": "one_vs_all",
}
_THRESHOLD = "binclass_probability_threshold"


def load(manifest: Manifest, payload: bytes, trust: Trust) -> BoostedSession:
    facts = read_facts(payload, trust)
    outputs = _outputs(facts)
    check_manifest(manifest, outputs, facts.outputs, facts.width)
    model, threads = _open(payload), threads_of(manifest)
    predict, several = model.predict, facts.outputs > 1
    kind = "Exponent" if facts.loss in _EXPONENTS else "RawFormulaVal"

    def raw(X: Matrix) -> Matrix:
        if not len(X):
            return np.empty((0, facts.outputs) if several else 0)
        if X.dtype == object:
            X = _with_gaps(X, facts.text)
        out: Matrix = predict(X, prediction_type=kind, thread_count=threads)
        return out

    return BoostedSession(manifest, raw, outputs, dtype=np.float32, threshold=_threshold(facts))


def _with_gaps(X: Matrix, text: list[bool]) -> Matrix:
    """CatBoost takes NaN for a missing number, and not None."""
    X = X.copy()
    for i, is_text in enumerate(text):
        if not is_text:
            X[:, i] = [math.nan if value is None else value for value in X[:, i]]
    return X


def read_file(payload: bytes, trust: Trust) -> Manifest:
    """Raises ArtifactCorrupt, NotSupported (ranking, several targets, embeddings), Untrusted (text)."""
    return _manifest(payload, trust)


def pack(model: Any, names: Sequence[str] | None, classes: Sequence[Any] | None) -> tuple[Manifest, bytes]:
    """A `CatBoost` of any kind. Raises as `boosted.pack_boosted`."""
    import catboost

    if not isinstance(model, catboost.CatBoost):
        raise not_taken(model)
    if not model.is_fitted():
        raise not_fitted(model)
    payload = _bytes_of(model)
    trust = Trust(pickle=True)  # it is an object of this process: whatever its parts could do was done when it was made
    facts = read_facts(payload, trust)
    wanted = check_names(names, facts.names, facts.width)
    if wanted is not None and wanted != facts.names:
        copy = _open(payload)
        copy.set_feature_names(wanted)
        payload = _bytes_of(copy)
    manifest = _manifest(payload, trust)
    if classes is not None and [tidy_label(label) for label in classes] != manifest.classes:
        raise InvalidInput(f"classes: the model was fitted with the labels {manifest.classes!r}", field="classes")
    return manifest, payload


def _bytes_of(model: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.cbm"
        model.save_model(str(path))
        return path.read_bytes()


def _manifest(payload: bytes, trust: Trust) -> Manifest:
    facts = read_facts(payload, trust)
    outputs = _outputs(facts)
    classes = None
    if outputs != "value":
        told = _open(payload).classes_
        classes = [tidy_label(label) for label in told.tolist()] if len(told) else None
    fields = [
        Field(facts.names[i] if facts.names else f"x{i}", "text" if text else "number", nullable=not text)
        for i, text in enumerate(facts.text)
    ]
    return make_manifest(
        "catboost",
        outputs,
        facts.outputs,
        fields,
        named=facts.names is not None,
        classes=classes,
        libraries=("catboost",),
    )


def _outputs(facts: CatBoostFacts) -> Outputs:
    """Raises NotSupported."""
    found = _CLASSES.get(facts.loss)
    several = found in ("logits", "one_vs_all")
    if found is not None and several == (facts.outputs > 1):
        return found
    if facts.loss in (*_VALUES, *_EXPONENTS) and facts.outputs == 1:
        return "value"
    raise NotSupported(
        f"a CatBoost model with the loss {facts.loss or 'of your own'!r} and {facts.outputs} outputs: one number or one label a row is "
        "what a model here answers"
    )


def _threshold(facts: CatBoostFacts) -> float:
    """From which probability on the second class is answered. Raises ArtifactCorrupt."""
    told = float(facts.info.get(_THRESHOLD) or 0.5)
    if not 0.0 < told < 1.0:
        raise ArtifactCorrupt(f"the CatBoost model has a probability threshold of {told}")
    return told


def _open(payload: bytes) -> Any:
    """Raises ArtifactCorrupt."""
    import catboost

    model = catboost.CatBoost()
    try:
        model.load_model(blob=payload)
    except catboost.CatBoostError as error:
        raise ArtifactCorrupt(f"CatBoost cannot load the model: {str(error).strip().splitlines()[0]}") from error
    return model
