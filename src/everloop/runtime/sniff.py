"""What a file or folder looks like, by its content: only so can a refusal say what to do about it."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Literal

from everloop.runtime.zips import UNREADABLE

Kind = Literal[
    "artifact",
    "onnx",
    "skops",
    "pickle",
    "xgboost",
    "lightgbm",
    "catboost",
    "torch_export",
    "torchscript",
    "safetensors",
    "pipeline",
    "other",
]
"""`runtime.formats.READERS` tells who reads a file of a kind; `artifact`: see `runtime.packaged`."""

_TO_ONNX = "export it to ONNX"
_SAVE_MODULE = (
    "build the module, load the weights, and save it with everloop.save_model(module, 'model.pt2', example=…)"
)
_WHAT_IS_TAKEN = "give an ONNX (.onnx), a skops (.skops) or another model file; docs/runtimes.md lists what is taken"
_SAVE_AGAIN = "load it where it was made and save it with everloop.save_model(model, 'model.skops')"

_BEGINNINGS: tuple[tuple[bytes, Kind, str, str], ...] = (
    (
        b"\x89HDF\r\n\x1a\n",
        "other",
        "a Keras or other HDF5 file",
        f"{_TO_ONNX} with tf2onnx or keras.Model.export(format='onnx')",
    ),
    (b"CBM1", "catboost", "a CatBoost model", ""),
    (b"binf", "other", "an XGBoost model of the old binary format", "load it and save it with save_model('model.ubj')"),
    (b"tree\nversion=", "lightgbm", "a LightGBM model", ""),
    (b"GGUF", "other", "a GGUF language model", "language models are served by other servers"),
    (
        b"\x93NUMPY",
        "other",
        "a NumPy array",
        "an array is no model: save the fitted estimator with everloop.save_model",
    ),
    (b"PAR1", "other", "a Parquet table", "a table is no model: give a model file"),
    (
        b"EVLINEAR",
        "other",
        "the bare weights of an everloop artifact",
        "artifacts live in a data folder: give that with --data-dir",
    ),
)
_PIPELINE = re.compile(r"^\[\[(steps|models)\]\]", re.MULTILINE)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x04\x22\x4d\x18", b"(\xb5/\xfd", b"ZF")


def look_at_folder(path: Path) -> tuple[str, str]:
    """What the folder is, and what to do."""
    if (path / "MLmodel").exists():
        return (
            "an MLflow model folder",
            "it is read with the mlflow extra: pip install 'everloop[mlflow]'",
        )
    if (path / "saved_model.pb").exists():
        return "a TensorFlow SavedModel folder", f"{_TO_ONNX} with tf2onnx"
    if (path / "everloop.db").exists():
        return "an everloop data folder", "serve it with --data-dir"
    if (path / "config.json").exists():
        return "a Transformers model folder", f"{_TO_ONNX} and give the .onnx file"
    return "a folder", "give the path of the model file itself"


def look_at(payload: bytes) -> tuple[Kind, str, str]:
    """The kind, what it looks like in words, and what to do where it cannot be served."""
    if not payload:
        return "other", "an empty file", "was it written to the end?"
    for beginning, kind, what, advice in _BEGINNINGS:
        if payload.startswith(beginning):
            return kind, what, advice
    if payload.startswith(b"{") and b"learner" in payload[:64]:
        return "xgboost", "an XGBoost model", ""
    if payload.startswith(b"PK"):
        return _look_into_zip(payload)
    if payload.startswith(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
        return "other", "a PyTorch file of the old format, weights or a pickled module", _SAVE_MODULE
    if payload[0] == 0x80 and len(payload) > 1 and payload[1] <= 5:
        return "pickle", "a pickle (as pickle and joblib write)", _SAVE_AGAIN
    if payload.startswith(_COMPRESSED) or (payload[0] == 0x78 and payload[1:2] in (b"\x01", b"\x5e", b"\x9c", b"\xda")):
        return "pickle", "a compressed file, such as joblib.dump(…, compress=…) writes", _SAVE_AGAIN
    if payload[4:8] == b"TFL3":
        return "other", "a TensorFlow Lite model", f"{_TO_ONNX} with tf2onnx"
    if payload[4:8] == b"ORTM" or _starts_like_onnx(payload):
        return "onnx", "an ONNX model", ""
    if len(payload) > 9 and payload[8:9] == b"{" and int.from_bytes(payload[:8], "little") < len(payload):
        return "safetensors", "a safetensors file", _SAVE_MODULE
    return _look_at_text(payload)


def _starts_like_onnx(payload: bytes) -> bool:
    """Field 1, the version of the format, comes first in what serialisers write; then the producer, the opsets or the graph."""
    return (
        len(payload) > 3
        and payload[0] == 0x08
        and 1 <= payload[1] <= 0x7F
        and payload[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
    )


def _look_into_zip(payload: bytes) -> tuple[Kind, str, str]:
    try:
        with zipfile.ZipFile(BytesIO(payload)) as archive:
            names = archive.namelist()
            begins = min((entry.header_offset for entry in archive.infolist()), default=0)
    except UNREADABLE:
        names, begins = [], -1
    if begins:  # of a file that was cut, the end of one inside it may be taken for its own
        return "other", "a damaged zip or skops file", "was it copied to the end?"
    if "schema.json" in names:
        return "skops", "a skops file", ""
    if "everloop.json" in names:
        if "payload" in names:
            return "artifact", "an everloop artifact", ""
        return "other", "an exported everloop model with its versions", "read it with `everloop models import`"
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return "torch_export", "a program of torch.export", f"{_TO_ONNX} with torch.onnx.export"
    if any("/code/" in name for name in names) and any(name.endswith("data.pkl") for name in names):
        return "torchscript", "a TorchScript module", f"{_TO_ONNX} with torch.onnx.export"
    if any(name.endswith("data.pkl") for name in names):
        return "other", "a PyTorch file of weights, or of a pickled module", _SAVE_MODULE
    if "model.weights.h5" in names:
        return "other", "a Keras file", f"{_TO_ONNX} with keras.Model.export(format='onnx')"
    if names and all(name.endswith(".npy") for name in names):
        return "other", "NumPy arrays (.npz)", "arrays are no model: save the fitted estimator with everloop.save_model"
    return "other", "a zip archive", "unpack it and give the model file"


def _look_at_text(payload: bytes) -> tuple[Kind, str, str]:
    try:
        text = payload[:4096].decode().strip()
    except UnicodeDecodeError as error:
        if error.start < 4000:
            return "other", "a file of a kind that is not known", _WHAT_IS_TAKEN
        text = payload[: error.start].decode().strip()
    if '"learner"' in text and text.startswith("{"):
        return "xgboost", "an XGBoost model (JSON)", ""
    if _PIPELINE.search(text):
        return "pipeline", "a pipeline of models and steps", "give its path, so that the files it names are found"
    if "<PMML" in text:
        return "other", "a PMML file", f"{_TO_ONNX}, or save the estimator with everloop.save_model"
    if text.startswith("version https://git-lfs"):
        return "other", "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"
    if text.startswith("<"):
        return "other", "a web page or XML", "was the right thing downloaded?"
    return "other", "a text file", _WHAT_IS_TAKEN
