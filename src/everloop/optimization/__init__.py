"""SHRINK: from one artifact the fastest form that still gives the same answers.

candidates    a form of a model, and why one was not made or not taken
onnx          an artifact as ONNX that answers the same: `onnx_sklearn`, `onnx_boosted`, `onnx_torch` make the graphs
converter     `ONNXConverter`: a model in hand as an ONNX file; `sides` asks and times both
graphs        graphs rewritten ahead
quantization  ONNX artifacts in INT8 (`int8`, in ranges of `calibration`; `sensitivity` and `losses` tell what stays in float) and in `float16`
quantizer     `ModelQuantizer`: a model in hand
parity        whether two forms agree, in numbers
measuring     what a form costs: latency a batch size, memory, load time
variants      makes the candidates, lets them prove themselves, keeps the fastest that agrees
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everloop.optimization.converter import ONNXConverter
    from everloop.optimization.quantization import QuantizationConfig
    from everloop.optimization.quantizer import ModelQuantizer, QuantizedModel

_HOMES = {
    "ONNXConverter": "everloop.optimization.converter",
    "ModelQuantizer": "everloop.optimization.quantizer",
    "QuantizationConfig": "everloop.optimization.quantization",
    "QuantizedModel": "everloop.optimization.quantizer",
}

__all__ = ["ONNXConverter", "ModelQuantizer", "QuantizationConfig", "QuantizedModel"]


def __getattr__(name: str) -> Any:
    """Loaded when somebody first asks: importing one module of this room loads no other."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'everloop.optimization' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
