"""Models for the suites of the Open Inference Protocol: of rows, of several inputs and outputs, of every datatype."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from everloop.api import files
from everloop.core.tensors import DATATYPES

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)
IRIS = LogisticRegression(max_iter=500).fit(X, Y)


def onnx_bytes(inputs: list[Any], outputs: list[Any], nodes: list[Any], initializers: Any = ()) -> bytes:
    """(name, type, shape) each."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        list(initializers),
    )
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def iris() -> bytes:
    """Rows: `X` FP32 [-1, 4] -> `output_label` INT64 [-1], `output_probability` FP32 [-1, 3]."""
    found: bytes = to_onnx(IRIS, X[:1]).SerializeToString()
    return found


def sums() -> bytes:
    """Tensors: `a` and `b` FP32 [-1, -1] -> `sum`, `difference`."""
    kind = TensorProto.FLOAT
    free = ["n", "w"]
    return onnx_bytes(
        [("a", kind, free), ("b", kind, free)],
        [("sum", kind, free), ("difference", kind, free)],
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
    )


def pooled() -> bytes:
    """Tensors: `x` FP32 [-1, 3] -> `mean` FP32 [3]: the first axis of the answer is no batch, and the file does not say so."""
    kind = TensorProto.FLOAT
    return onnx_bytes(
        [("x", kind, [None, 3]), ("y", kind, [None, None, 3])],
        [("mean", kind, [None])],
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=0),
            helper.make_node("ReduceMean", ["y"], ["k"], axes=[0, 1], keepdims=0),
            helper.make_node("Add", ["m", "k"], ["mean"]),
        ],
    )


def distinct() -> bytes:
    """Tensors: `x` FP32 [n, w] -> `y` [n], whose first axis is no batch, though the file says so."""
    kind = TensorProto.FLOAT
    return onnx_bytes(
        [("x", kind, ["n", "w"])], [("y", kind, ["n"])], [helper.make_node("Unique", ["x"], ["y"], sorted=1)]
    )


def echo() -> bytes:
    """Tensors: `in_FP32` [-1, 2] -> `out_FP32` [-1, 2], and so for every datatype."""
    inputs = [(f"in_{name}", kind, ["n", 2]) for name, kind in ONNX_TYPES.items()]
    outputs = [(f"out_{name}", kind, ["n", 2]) for name, kind in ONNX_TYPES.items()]
    return onnx_bytes(
        inputs, outputs, [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in ONNX_TYPES]
    )


def values_of(datatype: str, rows: int = 3) -> np.ndarray[Any, Any]:
    """[rows, 2], the ends of its range among them."""
    if datatype == "BYTES":
        texts = ["", "é\0ü", "a" * 300, "日本", "b", "c"][: 2 * rows]
        return np.array([text.encode() for text in texts], object).reshape(-1, 2)
    dtype = np.dtype(DATATYPES[datatype])
    if dtype.kind == "b":
        return (np.arange(2 * rows) % 3 == 0).reshape(rows, 2)
    low, high = (-1.5, 65504.0) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return np.array([low, high, *range(2 * rows - 2)], dtype).reshape(rows, 2)


def put(services: Any, name: str, payload: bytes, *, live: bool = True) -> int:
    """Registers it, and waits until it answers."""
    made, _ = files.add_version(
        services, name, payload, source="a test", live=live, version_name="", note="", by="test"
    )
    services.reconciler.step()
    number: int = made.version
    return number
