"""Whatever a person calls a model, as an artifact: a fitted estimator, a learner, a River model, a file, its bytes.

The object that is given stays as it is, and the artifact shares nothing with it. Nothing is unpickled, and nothing is kept as a pickle,
unless that is trusted.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everloop.core.errors import InvalidInput, NotSupported
from everloop.core.schema import Schema, Target, plain
from everloop.runtime.artifact import Trust, library_versions, read_model
from everloop.runtime.modules import place_of
from everloop.runtime.source import read_source
from everloop.stores.ports import Manifest


def pack(
    model: Any,
    *,
    trust: Trust,
    feature_names: Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
    example: Any = None,
) -> tuple[Manifest, bytes]:
    """`model`: a fitted scikit-learn estimator or pipeline, anything with `freeze()` (a Learner), a River model, a class or function of a
    module, whatever names a model (`runtime.source`), or a model file's bytes.

    `feature_names`: of the columns, where the model was fitted on arrays; of a River model, which does not tell. `classes`: the labels of
    a River classifier that does not tell. Raises NotSupported, InvalidInput (not fitted), ModelUntrained, Untrusted, ArtifactCorrupt."""
    if isinstance(model, (bytes, bytearray, memoryview)):
        return read_model(bytes(model), "the model", trust=trust, field="model")
    if isinstance(model, (str, os.PathLike)):
        return read_source(model, trust=trust)
    entry = import_path(model)
    if entry is not None:
        return read_source(entry, trust=trust)
    if isinstance(model, type):
        raise NotSupported(f"{model.__name__} is a class: give a fitted {model.__name__}", field="model")
    if callable(getattr(model, "freeze", None)):
        manifest, payload = model.freeze()
        return manifest, payload
    from everloop.runtime.boosted import library_of, pack_boosted

    if library_of(model) is not None:
        return pack_boosted(model, feature_names, classes)
    from everloop.runtime.river import is_river

    if is_river(model):
        return _pack_river(model, trust, feature_names, classes)
    from everloop.runtime.torch_saving import is_torch, pack_module

    if is_torch(model):
        return pack_module(model, example=example, feature_names=feature_names, classes=classes)
    if is_estimator(model):
        from everloop.runtime.sklearn import dump_estimator, manifest_of

        return manifest_of(model, feature_names), dump_estimator(model, trust)
    raise NotSupported(
        f"a {type(model).__name__} cannot be registered: give a fitted scikit-learn estimator, boosted trees, a PyTorch module, a River "
        "model, a Learner, a model file (its path or its bytes), or code as package.module:Model",
        field="model",
    )


def is_estimator(model: Any) -> bool:
    """Whether scikit-learn's runtime is the one for it."""
    from everloop.runtime.boosted import library_of
    from everloop.runtime.river import is_river

    return hasattr(model, "fit") and not isinstance(model, type) and library_of(model) is None and not is_river(model)


def read_pickle(payload: bytes, trust: Trust) -> tuple[Manifest, bytes]:
    """A pickled model, which is trusted. An estimator stays the pickle that it is; what has a better format gets that."""
    from everloop.runtime.sklearn import read_file, unpickle

    model = unpickle(payload, trust, "pickled")
    return (read_file(payload, trust), payload) if is_estimator(model) else pack(model, trust=trust)


def trust_in_hand(model: Any) -> Trust:
    """In a model that a caller gives: an object of his own never left this process, a file may come from anywhere."""
    return Trust(pickle=not isinstance(model, (str, Path, bytes, bytearray, memoryview)))


def save_packed(model: Any, path: Path, names: Sequence[str] | None, classes: Sequence[Any] | None) -> Path:
    """See `everloop.runtime.artifact.save_model`."""
    from everloop.runtime.packaged import ENDING, write_artifact

    # To write a pickle is no risk; whoever loads it is asked.
    manifest, payload = pack(model, trust=Trust(pickle=True), feature_names=names, classes=classes)
    if path.suffix in ("", ENDING):
        return write_artifact(path, manifest, payload)
    plain_file, _ = read_model(payload, str(path), trust=Trust(pickle=True), field="path")
    for what in ("schema", "target", "classes", "options"):
        if getattr(plain_file, what) != getattr(manifest, what):
            raise NotSupported(
                f"{path.suffix} files cannot hold the {what} of this model: say {path.with_suffix(ENDING)}"
            )
    path.write_bytes(payload)
    return path


def only_answers(model: Any) -> bool:
    """Whether it is an object that `pack` takes and nothing here can fit again."""
    return any((each.__module__, each.__name__) in _ONLY_ANSWER for each in type(model).__mro__)


_ONLY_ANSWER = {
    ("torch.nn.modules.module", "Module"),
    ("torch.export.exported_program", "ExportedProgram"),
    ("xgboost.core", "Booster"),
    ("lightgbm.basic", "Booster"),
}
"""Told by name, so that no library is loaded to look."""


def import_path(model: Any) -> str | None:
    """Where a class or a function that answers (`runtime.python`) is found again; None for everything else. Raises NotSupported for one
    that no import finds."""
    if not (inspect.isfunction(model) or (inspect.isclass(model) and hasattr(model, "predict"))) or hasattr(
        model, "fit"
    ):
        return None
    return place_of(model)


def _pack_river(
    model: Any, trust: Trust, names: Sequence[str] | None, classes: Sequence[Any] | None
) -> tuple[Manifest, bytes]:
    from everloop.runtime.river import RiverModel, describe_model, dump_model, is_binary, learned_names, river_task

    task = river_task(model)
    last = model
    while hasattr(last, "_last_step"):
        last = last._last_step
    known = list(names or learned_names(model))
    if not known:
        raise InvalidInput(
            f"{describe_model(model)} does not tell the names of its features: give feature_names=",
            field="feature_names",
        )
    labels: list[Any] | None = None
    target, binary = Target("regression"), None
    if task == "classification":
        labels = [plain(label) for label in classes or sorted(getattr(last, "classes", None) or ())]
        if is_binary(model):
            labels = labels or [False, True]
            if len(labels) != 2:
                raise InvalidInput(f"classes: {describe_model(model)} tells two apart, got {labels!r}", field="classes")
            binary = tuple(labels)
        if not labels:
            raise InvalidInput(f"{describe_model(model)} does not tell its classes: give classes=", field="classes")
        target = Target.infer("classification", labels[0])
    made = RiverModel(model, task, tuple(map(str, known)), binary, labels[0] if labels else 0.0)
    manifest = Manifest(
        runtime="river",
        task=task,
        schema=Schema.of_names(known),
        target=target,
        classes=labels,
        libraries=library_versions("river"),
    )
    return manifest, dump_model(made, trust)
