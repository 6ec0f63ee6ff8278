"""An ONNX graph in eight bits: made ready, calibrated, and its heavy operators quantised, by ONNX Runtime's own quantiser.

    dynamic   weights are INT8 in the file; what flows between operators is scaled anew for every batch. Needs no examples
    static    what flows is INT8 as well, in ranges that examples tell beforehand (calibration): the faster one

Weights are signed and symmetric, activations unsigned (U8S8): the pair that VNNI instructions multiply without a detour. An x86 processor
without them adds pairs of such products in 16 bits, which overflow: weights then keep to seven bits (`reduce_range`).

Formats: ONNX `QuantizeLinear`/`DequantizeLinear` (static), `DynamicQuantizeLinear`/`MatMulInteger` (dynamic), ONNX operator set 13.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from everloop.core.errors import ArtifactCorrupt, NotSupported, explain
from everloop.optimization.calibration import Range
from everloop.optimization.graphs import at_level
from everloop.stores.ports import Manifest

LEAST_OPSET = 13
"""Below it a scale a channel cannot be written."""
DYNAMIC = ("MatMul", "Gemm", "LSTM", "Attention", "Gather")
"""A convolution with scales that are found anew a batch is slower than one in floats."""
JOINING = ("Add", "Concat", "GlobalAveragePool")
"""Quantised wherever they are, to save the way to floats and back between others."""
STATIC = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", *JOINING)
_FOLLOWING = (
    "AveragePool",
    "Clip",
    "Flatten",
    "MaxPool",
    "Pad",
    "Relu",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""Quantised where their inputs are."""
CALIBRATED = (*STATIC, *_FOLLOWING)


def prepare(manifest: Manifest, payload: bytes) -> Any:
    """The graph as the quantiser wants it (an `onnx.ModelProto` of its own): constants folded, batch norms inside their convolutions, all
    shapes known, every operator with a name. Raises NotSupported."""
    from onnx import version_converter

    model = read_graph(payload)
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        try:
            model = version_converter.convert_version(model, LEAST_OPSET)
        except Exception as error:  # onnx raises a bare RuntimeError, or what its C++ throws
            raise NotSupported(
                f"INT8 needs ONNX operator set {LEAST_OPSET}; the model has {opset} and does not convert "
                f"({type(error).__name__}: {error}): export it with opset {LEAST_OPSET} or newer"
            ) from error
    model = read_graph(at_level(manifest, model.SerializeToString(), "basic")[1])
    used = {node.domain for node in model.graph.node} | {""}
    kept = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    _flatten_biases(model.graph)
    return _named(model)


def _flatten_biases(graph: Any) -> None:
    """A `Gemm`'s bias of one row, (1, n), as (n,): the same sum, and all that the quantiser takes where each channel has its own scale."""
    rows = {node.input[2] for node in graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    others = {name for node in graph.node if node.op_type != "Gemm" for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in rows - others and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]


def read_graph(payload: bytes) -> Any:
    """An `onnx.ModelProto` that holds its own weights. Raises NotSupported where they are in other files, ArtifactCorrupt."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import uses_external_data

    try:
        model = onnx.load_model_from_string(payload)
    except DecodeError as error:
        raise ArtifactCorrupt("the bytes are no ONNX model") from error
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        raise NotSupported("the ONNX model keeps its weights in other files: save it with all of them inside")
    return model


def operators(model: Any, types: Collection[str]) -> list[str]:
    """The names of those that are quantised, and so may hurt. Raises NotSupported where none of them has weights in float32: there is
    nothing to shrink."""
    from onnx import TensorProto

    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    found = [node for node in model.graph.node if node.op_type in types]
    if not any(weights.intersection(node.input[:2]) for node in found if node.op_type not in JOINING):
        kinds = sorted({node.op_type for node in model.graph.node})
        raise NotSupported(
            f"nothing in the model can be INT8: it has {', '.join(kinds[:8])}{', …' if len(kinds) > 8 else ''}, "
            f"and none of {', '.join(kind for kind in types if kind not in JOINING)} with weights in float32"
        )
    return [node.name for node in found]


def without_gemm(model: Any) -> Any:
    """`Gemm` as `MatMul` and `Add`, which is all that the dynamic quantiser knows."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    wrapped = ONNXModel(model)
    wrapped.replace_gemm_with_matmul()
    return _named(wrapped.model)


def _named(model: Any) -> Any:
    """Each operator by a name of its own, without words about where it came from, and the shapes of what flows between them."""
    from onnx import shape_inference

    graph = model.graph
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"
        node.doc_string = ""
        del node.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    return shape_inference.infer_shapes(model)


def quantise_dynamic(model: Any, in_float: Collection[str], *, per_channel: bool, reduce_range: bool) -> bytes:
    """`model`: as `prepare` and `without_gemm` give it; it stays as it is. `in_float`: names of operators that are left alone."""
    from onnxruntime.quantization import QuantizationMode, QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

    quantizer = ONNXQuantizer(
        _copy(model),
        per_channel,
        reduce_range,
        QuantizationMode.IntegerOps,
        False,  # static
        QuantType.QInt8,
        QuantType.QUInt8,
        None,
        [],
        list(in_float),
        list(DYNAMIC),
        {"MatMulConstBOnly": True},
    )
    return _quantised(quantizer)


def quantise_static(
    model: Any, ranges: Mapping[str, Range], in_float: Collection[str], *, per_channel: bool, reduce_range: bool
) -> bytes:
    """`ranges`: of all tensors that the operators of `CALIBRATED` read and write (`optimization.calibration`)."""
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    known = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}

    quantizer = QDQQuantizer(
        _copy(model),
        per_channel,
        reduce_range,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, known),
        [],
        list(in_float),
        list(CALIBRATED),
        {},
    )
    return _quantised(quantizer)


def _free_ends(graph: Any) -> None:
    """What a `Gemm` or `MatMul` gives to operators that compute in floats, or as the answer, is not rounded on the way: the kernel has it
    in floats anyway. (A quantised convolution has not.)"""
    made_by = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    told = {each.name for each in graph.output}
    for back in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        rounded = made_by.get(back.input[0])
        if rounded is None or rounded.op_type != "QuantizeLinear" or len(users[rounded.output[0]]) != 1:
            continue
        source = made_by.get(rounded.input[0])
        (value,) = back.output
        if source is None or source.op_type not in ("Gemm", "MatMul") or len(users[rounded.input[0]]) != 1:
            continue
        if any(user.op_type in CALIBRATED for user in users.get(value, [])) or not (users.get(value) or value in told):
            continue
        graph.node.remove(rounded)
        graph.node.remove(back)
        source.output[list(source.output).index(rounded.input[0])] = value


def _copy(model: Any) -> Any:
    """The quantiser works in place."""
    copied = type(model)()
    copied.CopyFrom(model)
    return copied


def _quantised(quantizer: Any) -> bytes:
    """Sorted, without what only the way here needed. Raises NotSupported."""
    try:
        quantizer.quantize_model()
    except Exception as error:  # whatever a graph that it does not know makes of it
        raise NotSupported(f"ONNX Runtime's quantiser cannot take this graph: {explain(error)}") from error
    model = quantizer.model.model
    _free_ends(model.graph)
    quantizer.model.topological_sort()
    del model.graph.value_info[:]
    payload: bytes = model.SerializeToString()
    return payload


@cache
def saturates() -> bool:
    """Whether this processor adds products of U8S8 in 16 bits: x86 without VNNI, or where that cannot be told."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return "vnni" not in flags
