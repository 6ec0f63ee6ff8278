"""Small networks that answer by arithmetic that a person can follow, and images for them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
from onnx import TensorProto, helper, numpy_helper

COLOURS = ["red", "green", "blue"]


def colour_net(
    *, layout: str = "NCHW", batch: Any = "n", size: Any = 8, softmax: bool = True, kind: int = TensorProto.FLOAT
) -> bytes:
    """Which colour is strongest: 20 times the mean of each channel, through a softmax or not."""
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    shape = [batch, 3, size, size] if layout == "NCHW" else [batch, size, size, 3]
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "factor"], ["logits"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    output = "probabilities" if softmax else "logits"
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, 3])],
        [
            numpy_helper.from_array(np.array(axes, np.int64), "axes"),
            numpy_helper.from_array(np.array([20.0], np.float32), "factor"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    made: bytes = model.SerializeToString()
    return made


def encoded(image: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def plain(colour: Any, size: tuple[int, int] = (16, 12), mode: str = "RGB") -> PIL.Image.Image:
    """Width and height."""
    return PIL.Image.new(mode, size, colour)
