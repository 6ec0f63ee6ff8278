"""XGBoost models: UBJSON or JSON as XGBoost itself writes it.

A prediction goes to XGBoost's C function for rows in memory. Its Python wrapper takes about as long as a small model, since it looks at
what it was given on every call; here that is known. The function may be called from several threads at once.
Source: https://xgboost.readthedocs.io/en/stable/c.html (XGBoosterPredictFromDense).
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any

import msgspec
import numpy as np

from everloop.core.errors import ArtifactCorrupt, InvalidInput, ModelFailed, NotSupported
from everloop.core.schema import Field
from everloop.core.structs import looked_into
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
from everloop.runtime.session import Matrix
from everloop.runtime.xgboost_file import XGBoostFacts, read_facts
from everloop.stores.ports import Manifest

NOTE = "everloop"
"""The attribute of the model in which our note is kept."""


@looked_into
class _Note(msgspec.Struct, frozen=True, omit_defaults=True):
    classes: list[Any] | None = None
    missing: float | None = None
    """A number that stands for a missing value, as NaN does."""


_VALUES = ("reg:", "count:", "survival:")


def load(manifest: Manifest, payload: bytes, trust: Trust) -> BoostedSession:  # noqa: ARG001  nothing in it needs trust
    facts = read_facts(payload)
    outputs, margin = _outputs(facts)
    check_manifest(manifest, outputs, facts.groups, facts.width)
    booster = _open(payload, threads_of(manifest))
    missing = float(manifest.options.get("missing", np.nan))
    raw = _by_matrix(booster, facts, missing) if facts.linear else _in_place(booster, facts, margin, missing)
    codes = tuple(None if known is None else {value: i for i, value in enumerate(known)} for known in facts.categories)
    columns = Columns(codes)
    if columns.plain and manifest.schema.numeric:
        return BoostedSession(manifest, raw, outputs, dtype=np.float32)
    return BoostedSession(manifest, lambda X: raw(columns.numbers(X)), outputs, dtype=np.float64)


def read_file(payload: bytes, trust: Trust) -> Manifest:  # noqa: ARG001
    """Raises ArtifactCorrupt, NotSupported (ranking, several targets)."""
    return _manifest(read_facts(payload))


def pack(model: Any, names: Sequence[str] | None, classes: Sequence[Any] | None) -> tuple[Manifest, bytes]:
    """An `XGBModel` or a `Booster`. Raises as `boosted.pack_boosted`."""
    import xgboost

    booster = booster_of(model, xgboost.Booster, xgboost.XGBModel, methodcaller("get_booster"))
    payload = bytes(booster.save_raw("ubj"))
    facts = read_facts(payload)
    labels = classes if classes is not None else getattr(model, "classes_", None)
    missing = getattr(model, "missing", None)
    note = _Note(
        classes=own_labels(labels),
        missing=None if missing is None or missing != missing else float(missing),
    )
    wanted = check_names(names, facts.names, facts.width)
    if note != _Note() or wanted != facts.names:
        copy = _open(payload, 1)
        copy.set_attr(**{NOTE: msgspec.json.encode(note).decode()})
        copy.feature_names = wanted
        payload = bytes(copy.save_raw("ubj"))
    return _manifest(read_facts(payload)), payload


def _manifest(facts: XGBoostFacts) -> Manifest:
    outputs, _ = _outputs(facts)
    note = _note(facts)
    fields = []
    for i, (kind, known) in enumerate(zip(facts.kinds, facts.categories, strict=True)):
        text = kind == "c" and known is not None and all(isinstance(value, str) for value in known)
        name = facts.names[i] if facts.names else f"x{i}"
        fields.append(Field(name, "text" if text else "number", nullable=True))
    return make_manifest(
        "xgboost",
        outputs,
        facts.groups,
        fields,
        named=facts.names is not None,
        classes=note.classes,
        options={} if note.missing is None else {"missing": note.missing},
        libraries=("xgboost", "xgboost-cpu"),
    )


def _note(facts: XGBoostFacts) -> _Note:
    """Raises ArtifactCorrupt."""
    try:
        note = msgspec.json.decode(facts.attributes.get(NOTE, "{}"), type=_Note)
    except msgspec.DecodeError as error:
        raise ArtifactCorrupt(f"the XGBoost model's attribute {NOTE!r} cannot be read: {error}") from error
    return note


def _outputs(facts: XGBoostFacts) -> tuple[Outputs, bool]:
    """What a row's output is, and whether it is asked for before its last step (XGBoost's "margin"). Raises NotSupported."""
    name = facts.objective
    several = facts.groups > 1
    if name.startswith("rank:"):
        raise NotSupported(f"the XGBoost model ranks ({name}): it has no answer to a row on its own")
    if name in ("binary:logistic", "binary:logitraw", "binary:hinge") and not several:
        outputs: dict[str, Outputs] = {
            "binary:logistic": "probability",
            "binary:logitraw": "logit",
            "binary:hinge": "number",
        }
        return outputs[name], False
    if name == "multi:softprob" and several:
        return "probabilities", False
    if name == "multi:softmax" and several:
        return "logits", True
    if name.startswith(_VALUES) and not several:
        return "value", False
    raise NotSupported(f"an XGBoost model with the objective {name!r} and {facts.groups} outputs")


def _open(payload: bytes, threads: int) -> Any:
    """Raises ArtifactCorrupt."""
    import xgboost

    booster = xgboost.Booster({"nthread": threads})
    try:
        booster.load_model(bytearray(payload))
    except (xgboost.core.XGBoostError, ValueError) as error:
        raise ArtifactCorrupt(f"XGBoost cannot load the model: {str(error).strip().splitlines()[0]}") from error
    booster.set_param({"nthread": threads})
    return booster


def _rounds(facts: XGBoostFacts) -> int:
    """Up to which round it answers, as XGBoost's estimators do: the best one, where the fit stopped early. 0: all."""
    best = facts.attributes.get("best_iteration", "")
    return min(int(best) + 1, facts.rounds) if best.isdigit() else 0


def _by_matrix(booster: Any, facts: XGBoostFacts, missing: float) -> Callable[[Matrix], Matrix]:
    """A linear model is not answered in place."""
    import xgboost

    def raw(X: Matrix) -> Matrix:
        if not len(X):
            return np.empty((0, facts.groups) if facts.groups > 1 else 0, np.float32)
        out: Matrix = booster.predict(xgboost.DMatrix(X, missing=missing, nthread=1), validate_features=False)
        return out

    return raw


def _in_place(booster: Any, facts: XGBoostFacts, margin: bool, missing: float) -> Callable[[Matrix], Matrix]:
    library = _library()
    predict, last_error = library.XGBoosterPredictFromDense, library.XGBGetLastError
    settings: dict[str, Any] = {
        "training": False,
        "type": 1 if margin else 0,
        "missing": missing,
        "iteration_begin": 0,
        "iteration_end": _rounds(facts),
        "strict_shape": True,
        "cache_id": 0,
    }
    config = json.dumps(settings).encode()
    handle, width = booster.handle, facts.width

    def raw(X: Matrix) -> Matrix:
        rows = len(X)
        if X.shape != (rows, width):
            raise InvalidInput(f"features: expected {width} values a row, got an array of shape {X.shape}")
        X = np.ascontiguousarray(X)
        place = b'{"data":[%d,true],"shape":[%d,%d],"typestr":"%s","version":3}' % (
            X.ctypes.data,
            rows,
            width,
            X.dtype.str.encode(),
        )
        if rows == 0:
            return np.empty((0, facts.groups) if facts.groups > 1 else 0, np.float32)
        shape, axes, out = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64(), ctypes.POINTER(ctypes.c_float)()
        if predict(handle, place, config, None, ctypes.byref(shape), ctypes.byref(axes), ctypes.byref(out)):
            raise ModelFailed(f"XGBoost: {last_error().decode(errors='replace').strip().splitlines()[0]}")
        sizes = shape[: axes.value]
        if sizes[0] != rows or int(np.prod(sizes)) != rows * facts.groups:
            raise ModelFailed(f"XGBoost answered an array of shape {tuple(sizes)} to {rows} rows")
        # what it points to belongs to this thread and lasts until its next call
        answers: Matrix = np.ctypeslib.as_array(out, (rows * facts.groups,)).copy()
        return answers.reshape(rows, -1) if facts.groups > 1 else answers

    raw.booster = booster  # type: ignore[attr-defined]  # the handle is only good as long as it lives
    return raw


def _library() -> Any:
    """The C library that the package has loaded, with functions declared apart from the package's own."""
    from xgboost.libpath import find_lib_path

    library = ctypes.CDLL(find_lib_path()[0])
    library.XGBoosterPredictFromDense.argtypes = (
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
    )
    library.XGBoosterPredictFromDense.restype = ctypes.c_int
    library.XGBGetLastError.restype = ctypes.c_char_p
    return library
