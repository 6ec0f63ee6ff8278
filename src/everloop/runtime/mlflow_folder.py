"""What an MLflow model folder holds: its flavours, the one file behind a flavour that a runtime here reads itself, and its signature.

A folder describes one model in several ways ("flavours"). Where one of them is a file of a kind that is read here, that file becomes the
artifact: it is checked like any other, nothing of MLflow runs, and answers do not go through its frames. `MLmodel` is only believed where
it names a file inside the folder.

Source: https://mlflow.org/docs/latest/ml/model/ (storage format, signatures).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import numpy as np

from everloop.core.errors import ArtifactCorrupt, NotSupported
from everloop.core.schema import Field, FieldKind, Schema, Target
from everloop.runtime.artifact import Trust, read_model
from everloop.stores.ports import Manifest

_FILES = {"onnx": "data", "xgboost": "data", "lightgbm": "data", "catboost": "data", "sklearn": "pickled_model"}
"""Flavours with one file that tells everything, in the order in which they are tried, and the key that names it."""
_NUMBERS = ("double", "float", "integer", "long", "boolean")
_TEXT = ("string",)
_LABELS = {"string": "text", "boolean": "boolean", "integer": "integer", "long": "integer"}


@dataclass(frozen=True)
class Column:
    name: str
    kind: str
    required: bool = True


@dataclass(frozen=True)
class Folder:
    path: Path
    flavors: Mapping[str, Mapping[str, Any]]
    columns: list[Column] | None
    """Of the signature's inputs; None: it has none, or they are a tensor."""
    width: int | None
    """Of the signature's input, where that is one tensor (rows, width)."""
    dtype: str
    """Of that tensor."""
    answer: str | None
    """The type of the signature's output, where that is one number or one label a row."""
    about: dict[str, Any] = field(default_factory=dict)
    """For the lineage: run, model, version of MLflow."""


def read_folder(path: Path) -> Folder:
    """Raises ArtifactCorrupt."""
    import yaml

    try:
        described = yaml.safe_load((path / "MLmodel").read_text("utf-8"))
        flavors = {str(name): dict(each) for name, each in described["flavors"].items()}
        signature = described.get("signature") or {}
        inputs = json.loads(signature.get("inputs") or "null")
        outputs = json.loads(signature.get("outputs") or "null")
        columns, width, dtype = _inputs(inputs)
        answer = _answer(outputs)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactCorrupt(f"{path / 'MLmodel'} cannot be read: {type(error).__name__}: {error}") from error
    told = ("run_id", "model_id", "model_uuid", "mlflow_version")
    about = {name: described[name] for name in told if isinstance(described.get(name), str)}
    return Folder(path, flavors, columns, width, dtype, answer, about)


def _inputs(inputs: Any) -> tuple[list[Column] | None, int | None, str]:
    if not inputs:
        return None, None, ""
    if len(inputs) == 1 and inputs[0]["type"] == "tensor":
        shape = inputs[0]["tensor-spec"]["shape"]
        return None, int(shape[1]) if len(shape) == 2 and shape[1] > 0 else None, str(inputs[0]["tensor-spec"]["dtype"])
    if all("name" in each for each in inputs):
        columns = [Column(str(each["name"]), str(each["type"]), bool(each.get("required", True))) for each in inputs]
        return columns, None, ""
    return None, None, ""


def _answer(outputs: Any) -> str | None:
    if not outputs or len(outputs) != 1:
        return None
    told = outputs[0]
    if told["type"] != "tensor":
        return str(told["type"])
    shape = told["tensor-spec"]["shape"]
    if len(shape) != 1 and shape[1:] != [1]:
        return None
    kind = np.dtype(str(told["tensor-spec"]["dtype"]))
    return {"f": "double", "i": "long", "u": "long", "b": "boolean", "U": "string", "O": "string"}.get(kind.kind)


def schema_of(folder: Folder) -> Schema:
    """Of the signature. Raises NotSupported where it has none, or where no row of features fills it."""
    if folder.width is not None:
        return Schema.unnamed(folder.width)
    if folder.columns is None:
        raise NotSupported(
            f"{folder.path} does not tell which features it takes: log or save the model with a signature, as "
            "mlflow.models.infer_signature(X, model.predict(X)) makes it, of named columns or of one array (rows, features)"
        )
    fields = []
    for column in folder.columns:
        if column.kind not in (*_NUMBERS, *_TEXT):
            raise NotSupported(
                f"{folder.path}: its column {column.name!r} is of type {column.kind}; a feature is a number or text"
            )
        kind: FieldKind = "text" if column.kind in _TEXT else "number"
        fields.append(Field(column.name, kind, nullable=not column.required))
    return Schema(tuple(fields), named=True)


def target_of(folder: Folder) -> Target:
    """Of the signature. Raises NotSupported where it does not say what an answer is."""
    if folder.answer is None:
        raise NotSupported(
            f"{folder.path} does not tell what it answers: its signature needs outputs of one number or one label a row"
        )
    label = _LABELS.get(folder.answer)
    return Target("regression") if label is None else Target("classification", label)  # type: ignore[arg-type]


def unwrap(folder: Folder, trust: Trust) -> tuple[Manifest, bytes] | None:
    """The artifact of the file behind a flavour that is read here. None where there is none: MLflow itself has to answer.

    Raises Untrusted, NotSupported, MissingExtra, ArtifactCorrupt, as reading that file does."""
    for flavor, key in _FILES.items():
        told = folder.flavors.get(flavor)
        if told is None or told.get(key) is None:
            continue
        if flavor == "sklearn" and (told.get("code") or _asks_for_more(folder)):
            return None
        made = _read(_inside(folder.path, str(told[key])), flavor, trust)
        if made is not None:
            return _named(made[0], folder), made[1]
    torch = folder.flavors.get("pytorch")
    if torch is not None and torch.get("model_data") is not None:
        return _read_torch(_inside(folder.path, str(torch["model_data"])), trust)
    return None


def _asks_for_more(folder: Folder) -> bool:
    """Whether the model was saved to be asked for something else than its prediction, such as `predict_proba`."""
    asked: str = folder.flavors.get("python_function", {}).get("predict_fn", "predict")
    return asked != "predict"


def _inside(root: Path, name: str) -> Path:
    """Raises ArtifactCorrupt where it is not inside the folder."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.exists():
        raise ArtifactCorrupt(f"{root / 'MLmodel'} names {name!r}, which is not in its folder")
    return path


def _read(path: Path, flavor: str, trust: Trust) -> tuple[Manifest, bytes] | None:
    if path.is_dir():
        inside = [each for each in sorted(path.iterdir()) if each.is_file()]
        if len(inside) != 1:
            return None
        (path,) = inside
    payload = path.read_bytes()
    if flavor == "lightgbm" and payload.startswith(b"PK"):
        payload = _booster_in_skops(payload)
    return read_model(payload, str(path), trust=trust, field="path")


def _booster_in_skops(payload: bytes) -> bytes:
    """LightGBM's own text out of a wrapper that MLflow saved as a skops file, and the wrapper's labels as our note in it. Nothing of the
    wrapper is loaded. Raises ArtifactCorrupt."""
    from everloop.runtime.lightgbm import with_note

    with ZipFile(BytesIO(payload)) as archive:
        found: dict[str, Any] = {}
        waiting: list[Any] = [json.loads(archive.read("schema.json"))]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Mapping):
                text = node.get("content")
                if isinstance(text, str) and text.startswith('"tree\\n'):
                    found["text"] = json.loads(text)
                file = node.get("_classes", {}).get("file") if isinstance(node.get("_classes"), Mapping) else None
                if isinstance(file, str) and file.endswith(".npy"):
                    found["classes"] = np.load(BytesIO(archive.read(file)), allow_pickle=False).tolist()
                waiting.extend(node.values())
            elif isinstance(node, list):
                waiting.extend(node)
    if "text" not in found:
        raise ArtifactCorrupt("the skops file of the LightGBM model holds no booster")
    return with_note(found["text"].encode(), found.get("classes"), None)


def _read_torch(path: Path, trust: Trust) -> tuple[Manifest, bytes] | None:
    """A program of torch.export or a TorchScript module; a pickled module is left to MLflow."""
    from everloop.runtime.sniff import look_at

    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if each.is_file():
            payload = each.read_bytes()
            if look_at(payload)[0] in ("torch_export", "torchscript"):
                return read_model(payload, str(each), trust=trust, field="path")
    return None


def _named(manifest: Manifest, folder: Folder) -> Manifest:
    """With the signature's names, where the file itself has none; LightGBM has them without their spaces."""
    columns, own = folder.columns, manifest.schema
    if columns is None or len(columns) != len(own.fields):
        return manifest
    names = [column.name for column in columns]
    if own.named and [name.replace(" ", "_") for name in names] != list(own.names):
        return manifest
    fields = tuple(msgspec.structs.replace(each, name=name) for each, name in zip(own.fields, names, strict=True))
    return msgspec.structs.replace(manifest, schema=Schema(fields, named=True))
