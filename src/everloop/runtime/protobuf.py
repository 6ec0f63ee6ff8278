"""Just enough of the protobuf wire format to read two things out of an ONNX file: a classifier's labels, and whether it is all of the model.

ONNX Runtime does not tell them, and the `onnx` package costs more to import than a small server takes to start.

    ModelProto         7 graph, 20 training_info, 25 functions
    GraphProto         1 node, 5 initializer, 15 sparse_initializer
    NodeProto          4 op_type, 5 attribute
    AttributeProto     1 name, 5 t, 6 g, 8 ints, 9 strings, 10 tensors, 11 graphs, 22 sparse_tensor, 23 sparse_tensors
    FunctionProto      7 node, 11 attribute_proto
    TrainingInfoProto  1 initialization, 2 algorithm
    SparseTensorProto  1 values, 2 indices
    TensorProto        13 external_data, 14 data_location
"""

from __future__ import annotations

from collections.abc import Iterator

_LABEL_ATTRIBUTES = (b"classlabels_ints", b"classlabels_int64s", b"classlabels_strings")

_WITHIN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Where a message may hold tensors: the number of a field -> the message in it."""
_DEEPEST = 200
"""Messages within messages; protobuf's own readers stop at a hundred."""


def points_elsewhere(model: bytes) -> bool:
    """Whether a tensor's numbers are in another file (or at an address in memory, as ONNX Runtime also understands it). Raises IndexError,
    ValueError where the bytes cannot be read."""
    if b"location" not in model:  # the key without which there is no such tensor
        return False
    waiting = [(memoryview(model), "model", 0)]
    while waiting:
        data, kind, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("messages that are nested too deep")
        for number, value in _fields(data):
            if kind == "tensor":
                if number == 13 or (number == 14 and value != 0):
                    return True
            elif number in _WITHIN[kind] and not isinstance(value, int):
                waiting.append((value, _WITHIN[kind][number], depth + 1))
    return False


def class_labels(model: bytes) -> list[int] | list[str] | None:
    """The class labels that some node of the graph carries; None where none does or the bytes cannot be read."""
    try:
        for graph in _messages(memoryview(model), 7):
            for node in _messages(graph, 1):
                for attribute in _messages(node, 5):
                    labels = _labels(attribute)
                    if labels:
                        return labels
    except (IndexError, UnicodeDecodeError, ValueError):
        return None
    return None


def _labels(attribute: memoryview) -> list[int] | list[str] | None:
    fields = list(_fields(attribute))
    if not any(number == 1 and value in _LABEL_ATTRIBUTES for number, value in fields if not isinstance(value, int)):
        return None
    integers: list[int] = []
    strings: list[str] = []
    for number, value in fields:
        if number == 8:
            integers += [value] if isinstance(value, int) else list(_packed(value))
        elif number == 9 and not isinstance(value, int):
            strings.append(bytes(value).decode())
    if strings:
        return strings
    return [value - (1 << 64) if value >> 63 else value for value in integers] or None


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(data):
        if number == wanted and not isinstance(value, int):
            yield value


def _packed(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value: an integer, or the bytes of a message, string or packed list. Raises IndexError, ValueError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise IndexError("the field goes beyond its message")
        if kind == 2:
            yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
