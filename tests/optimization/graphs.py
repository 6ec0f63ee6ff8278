"""ONNX graphs made by hand, for tests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def mlp(
    layers: Sequence[int],
    *,
    seed: int = 0,
    batch: Any = "batch",
    opset: int = 17,
    dtype: Any = np.float32,
    scales: Sequence[float] | None = None,
) -> bytes:
    """`Gemm` and `Relu`. `scales`: by how much each input is larger than it should be, which its weights make up for."""
    rng = np.random.default_rng(seed)
    kind = TensorProto.FLOAT if dtype == np.float32 else TensorProto.DOUBLE
    nodes, weights, value = [], [], "x"
    for i, (a, b) in enumerate(itertools.pairwise(layers)):
        W = (rng.normal(size=(a, b)) * 1.4 / np.sqrt(a)).astype(dtype)
        if i == 0 and scales is not None:
            W /= np.array(scales, dtype)[:, None]
        weights += [
            numpy_helper.from_array(W, f"w{i}"),
            numpy_helper.from_array((rng.normal(size=b) * 0.1).astype(dtype), f"b{i}"),
        ]
        last = i == len(layers) - 2
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], ["y" if last else f"g{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"g{i}"], [f"h{i}"]))
        value = f"h{i}"
    return _model(
        nodes,
        [helper.make_tensor_value_info("x", kind, [batch, layers[0]])],
        [helper.make_tensor_value_info("y", kind, [batch, layers[-1]])],
        weights,
        opset,
    )


def conv_net(seed: int = 0) -> bytes:
    """(batch, 1, 8, 8) -> (batch, 4): a convolution with its batch norm, a pool, a linear layer."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> Any:
        values = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        return numpy_helper.from_array(values.astype(np.float32), name)

    ones = numpy_helper.from_array(np.linspace(0.5, 2, 16).astype(np.float32), "variance")
    shape = numpy_helper.from_array(np.array([-1, 256], np.int64), "shape")
    nodes = [
        helper.make_node("Conv", ["x", "k", "kb"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "gain", "bias", "mean", "variance"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["p", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"]),
    ]
    weights = [
        weight("k", 16, 1, 3, 3),
        *(weight(name, 16) for name in ("kb", "gain", "bias", "mean")),
        ones,
        shape,
        weight("w", 256, 4),
        weight("b", 4),
    ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        weights,
        17,
    )


def two_inputs(width: int = 32) -> bytes:
    """(batch, 3, width) times a weight, and (batch, 3) beside: a model that no row can fill."""
    rng = np.random.default_rng(5)
    W = (rng.normal(size=(width, width)) / np.sqrt(width)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["m"]),
        helper.make_node("Mul", ["m", "b"], ["y"]),
    ]
    return _model(
        nodes,
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", "steps", width]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", "steps", 1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "steps", width])],
        [numpy_helper.from_array(W, "w")],
        17,
    )


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any], opset: int) -> bytes:
    graph = helper.make_graph(nodes, "made", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    payload: bytes = model.SerializeToString()
    return payload
