"""RUN: an artifact's bytes become a session that answers.

session    the contract of a loaded model
artifact   the way in: what is trusted, files and bytes; `save_model`; `formats` is the table of runtimes and of who reads what
source     what a person names as a model: a file, a folder, an import path; `sniff` tells what a file is by its content
packaged   an artifact as a file; `packing`: whatever a person calls a model, as an artifact
modules    code by import path: who may run it, how an artifact brings its own; `loaded` is a session for use by hand
linear     linear models as data, compiled for single rows; `tree`: decision trees as data, `tree_source` writes small ones out
compiled   estimators in these forms: `folding`, `linear_folding`, `tree_reading`, `boosted_reading` read them
by_size    several forms of a model, by the number of rows; `pipeline`: models and steps; `members`: artifacts inside an artifact
sklearn    scikit-learn estimators; `inputs` shapes their rows, `trees` checks trees read from files
onnx       ONNX models; `protobuf` reads the labels that ONNX Runtime does not tell; `onnx_predictor`: an ONNX file by hand
river      River models
python     models in Python, by import path
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.runtime.onnx_predictor import ONNXPredictor

_HOMES = {"ONNXPredictor": "everloop.runtime.onnx_predictor"}

__all__ = ["ONNXPredictor"]


def __getattr__(name: str) -> Any:
    """Loaded when somebody first asks: importing one module of this room loads no other."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'everloop.runtime' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
