"""LightGBM models: the text that LightGBM itself writes. Its booster may be asked from several threads at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from everloop.core.errors import ArtifactCorrupt, NotSupported
from everloop.core.schema import Field
from everloop.runtime.artifact import Trust, threads_of
from everloop.runtime.boosted import (
    BoostedSession,
    Columns,
    Outputs,
    booster_of,
    check_manifest,
    check_names,
    make_manifest,
    own_labels,
)
from everloop.runtime.lightgbm_file import CLASSIFICATION, LightGBMFacts, read_facts
from everloop.runtime.session import Matrix
from everloop.stores.ports import Manifest

_HEADER = b"\nfeature_infos="


def load(manifest: Manifest, payload: bytes, trust: Trust) -> BoostedSession:  # noqa: ARG001  nothing in it needs trust
    facts = read_facts(payload)
    outputs = _outputs(facts)
    check_manifest(manifest, outputs, facts.groups, facts.width)
    booster, threads = _open(facts), threads_of(manifest)
    codes = tuple(None if known is None else {value: i for i, value in enumerate(known)} for known in facts.categories)
    columns = Columns(codes)
    predict = booster.predict

    def raw(X: Matrix) -> Matrix:
        if not len(X):
            return np.empty((0, facts.groups) if facts.groups > 1 else 0)
        out: Matrix = predict(columns.numbers(X), num_threads=threads, validate_features=False)
        return out

    return BoostedSession(manifest, raw, outputs, dtype=np.float64)


def read_file(payload: bytes, trust: Trust) -> Manifest:  # noqa: ARG001
    """Raises ArtifactCorrupt, NotSupported (ranking, linear trees)."""
    return _manifest(read_facts(payload))


def pack(model: Any, names: Sequence[str] | None, classes: Sequence[Any] | None) -> tuple[Manifest, bytes]:
    """An `LGBMModel` or a `Booster`, up to its best round. Raises as `boosted.pack_boosted`."""
    import lightgbm

    booster = booster_of(model, lightgbm.Booster, lightgbm.LGBMModel, attrgetter("booster_"))
    payload = booster.model_to_string().encode()
    facts = read_facts(payload)
    labels = classes if classes is not None else getattr(model, "classes_", None)
    if labels is not None and not facts.objective:
        raise NotSupported(
            f"{type(model).__name__} with an objective of your own: its file does not tell how outputs become labels",
            field="model",
        )
    if names is not None and [str(name).replace(" ", "_") for name in names] == facts.names:
        wanted: list[str] | None = [str(name) for name in names]  # LightGBM wrote them without their spaces
    else:
        wanted = check_names(names, facts.names, facts.width)
    payload = with_note(payload, labels, wanted if wanted != facts.names else None)
    return _manifest(read_facts(payload)), payload


def with_note(payload: bytes, labels: Sequence[Any] | None, names: Sequence[str] | None) -> bytes:
    """The file with labels and names of the caller's. LightGBM passes over keys of the header that it does not know."""
    kept = {"classes": own_labels(labels), "names": names}
    note = {name: value for name, value in kept.items() if value is not None}
    if not note:
        return payload
    written = json.dumps(note).replace("=", "\\u003d").encode()  # a line of the header has one equals sign
    return payload.replace(_HEADER, b"\neverloop=" + written + _HEADER, 1)


def _manifest(facts: LightGBMFacts) -> Manifest:
    names = facts.note.get("names") or facts.names
    classes = facts.note.get("classes")
    if not isinstance(classes, (list, type(None))) or (names is not None and len(names) != facts.width):
        raise ArtifactCorrupt("the LightGBM model's note of everloop does not fit it")
    fields = []
    for i, known in enumerate(facts.categories):
        text = known is not None and all(isinstance(value, str) for value in known)
        fields.append(Field(str(names[i]) if names else f"x{i}", "text" if text else "number", nullable=True))
    return make_manifest(
        "lightgbm", _outputs(facts), facts.groups, fields, named=bool(names), classes=classes, libraries=("lightgbm",)
    )


def _outputs(facts: LightGBMFacts) -> Outputs:
    if facts.objective == "binary":
        return "probability"
    if facts.objective in CLASSIFICATION:
        return "probabilities"
    if facts.groups > 1:
        raise NotSupported("the LightGBM model has several outputs a row and no objective that tells what they are")
    return "value"


def _open(facts: LightGBMFacts) -> Any:
    """Raises ArtifactCorrupt."""
    import lightgbm

    try:
        return lightgbm.Booster(model_str=facts.checked)
    except lightgbm.basic.LightGBMError as error:
        raise ArtifactCorrupt(f"LightGBM cannot load the model: {error}") from error
