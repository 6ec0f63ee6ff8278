"""An ONNX graph whose weights are kept in half precision.

Only the weights: a processor without arithmetic in half precision computes in float32 anyway, and ONNX Runtime, given half-precision
operators there, converts before and after each. So each large weight becomes FP16 with a `Cast` behind it, which ONNX Runtime carries out
once, when the model is loaded: half the bytes to store and to send, the same speed and memory.
"""

from __future__ import annotations

from itertools import count

from everloop.core.errors import NotSupported
from everloop.optimization.int8 import read_graph

_LEAST_VALUES = 128
"""Of a weight: below it the `Cast` is longer than what is saved."""


def halve(payload: bytes) -> tuple[bytes, int]:
    """The file, and how many weights are in half precision now. Weights beyond its range (65,504) stay as they are. Raises NotSupported
    where no weight is left."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    model = read_graph(payload)
    graph = model.graph
    given = {each.name for each in (*graph.input, *graph.output)}
    taken = given | {name for node in graph.node for name in node.output} | {each.name for each in graph.initializer}
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in given:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _LEAST_VALUES or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        half = next(each for i in count() if (each := f"{name}_fp16_{i}") not in taken)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    if not casts:
        raise NotSupported("nothing in the model can be FP16: it has no large float32 weights")
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    made: bytes = model.SerializeToString()
    return made, len(casts)
