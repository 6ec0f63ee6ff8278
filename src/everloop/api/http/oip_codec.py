"""The Open Inference Protocol's inference over HTTP: JSON, and the binary tensor extension both ways.

    request      JSON, then the bytes of each input that has `binary_data_size`, in order; `Inference-Header-Content-Length` says how long
                 the JSON is
    answer       the same, for outputs that were asked for as binary

Values in JSON may be flat or nested as the shape is. JSON has no NaN and no infinity: outputs that are none of the finite numbers are
null there; in binary they are what they are.

Source: the Open Inference Protocol, version 2, "HTTP/REST"; the extension "Binary tensor data".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np

from everloop.api.http.bodies import decode
from everloop.api.http.codec import text_of_unit
from everloop.api.inference import InferAnswer, InferAsked, OutputAsked
from everloop.api.raw_tensors import dtype_of, read_raw, shaped, size_of, write_raw
from everloop.core.errors import InvalidInput, Malformed, NotSupported
from everloop.core.tensors import Array, Tensor, all_finite

LENGTH_HEADER = "inference-header-content-length"
JSON, BINARY = "application/json", "application/octet-stream"
MOST_CLASSES = 10_000


class InferInput(msgspec.Struct):
    """One input, as it is described; `_Input` is how it is read."""

    name: str
    shape: list[int]
    datatype: str
    """`FP32`, `INT64`, `BYTES` …"""
    parameters: dict[str, Any] = {}
    """`binary_data_size`: its data follows the JSON."""
    data: list[Any] | None = None
    """Its values, flat or nested; missing where they follow as bytes."""


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()
    """Read when its datatype is known."""


class OutputIn(msgspec.Struct):
    """One output that is wanted."""

    name: str
    parameters: dict[str, Any] = {}
    """`binary_data`: whether as bytes; `classification`: only the best so many classes."""


class InferRequest(msgspec.Struct):
    """What is asked of a model."""

    inputs: list[InferInput]
    id: str = ""
    outputs: list[OutputIn] | None = None
    """Missing or empty: all."""
    parameters: dict[str, Any] = {}
    """`timeout` (microseconds), `unit` (as in predict), `binary_data_output` (outputs that say nothing follow as bytes)."""


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    outputs: list[OutputIn] | None = None
    parameters: dict[str, Any] = {}


class TensorOut(msgspec.Struct, omit_defaults=True):
    """One output."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    """`binary_data_size`, where its data follows."""
    data: list[Any] | None = None


class InferResponse(msgspec.Struct):
    model_name: str
    model_version: str
    id: str
    """The caller's, or the request id."""
    parameters: dict[str, Any]
    """`request_id`: what a label refers to later."""
    outputs: list[TensorOut]


class Encoded(NamedTuple):
    body: bytes
    header_length: int | None
    """Of the JSON at its beginning; None: all of it is JSON."""


_request = msgspec.json.Decoder(_Request)
_encode = msgspec.json.Encoder().encode
_floats = msgspec.json.Decoder(list[float])
_integers = msgspec.json.Decoder(list[int])
_booleans = msgspec.json.Decoder(list[bool])
_texts = msgspec.json.Decoder(list[str])
_anything = msgspec.json.Decoder(list[Any])
_PLAIN: dict[str, Any] = {"f": list[float], "b": list[bool], "O": list[str]}
_FLAT: dict[str, msgspec.json.Decoder[Any]] = {
    "f": _floats,
    "i": _integers,
    "u": _integers,
    "b": _booleans,
    "O": _texts,
}


def decode_infer(
    model: str, version: str, body: bytes, header_length: int | None, unit: bytes | None = None
) -> InferAsked:
    """`unit`: the header's, where the body has none. Raises Malformed, InvalidInput, NotSupported."""
    rest = memoryview(b"")
    if header_length is not None:
        if header_length > len(body):
            raise Malformed(
                f"Inference-Header-Content-Length: {header_length}, but the body has {len(body)} bytes", field="body"
            )
        rest = memoryview(body)[header_length:]
        body = body[:header_length]
    asked = decode(_request, body)
    inputs: list[Tensor] = []
    used = 0
    for i, each in enumerate(asked.inputs):
        array, size = _array(each, rest[used:], f"inputs[{i}]")
        used += size
        inputs.append(Tensor(each.name, each.datatype, array))
    if used != len(rest):
        raise Malformed(
            f"{len(rest)} bytes follow the JSON, and its inputs account for {used} (binary_data_size)", field="body"
        )
    if not inputs:
        raise InvalidInput("inputs: expected at least one", field="inputs")
    if unit is not None:
        asked.parameters = {"unit": text_of_unit(unit), **asked.parameters}
    binary = asked.parameters.get("binary_data_output") is True
    return InferAsked(
        model,
        inputs,
        version,
        asked.id,
        None if not asked.outputs else [_output(each, i, binary) for i, each in enumerate(asked.outputs)],
        binary,
        asked.parameters,
    )


def length_of(header: str | bytes | None) -> int | None:
    """The value of `Inference-Header-Content-Length`. Raises Malformed."""
    if header is None:
        return None
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise Malformed(
            f"Inference-Header-Content-Length: expected the length of the JSON, got {text[:40]!r}", field="body"
        )
    return int(text)


def encode_infer(answer: InferAnswer, asked: InferAsked) -> Encoded:
    """Raises InvalidInput for text that JSON cannot hold."""
    binary = {each.name: each.binary for each in asked.outputs or ()}
    outputs: list[TensorOut] = []
    raw: list[bytes] = []
    for tensor in answer.outputs:
        out = TensorOut(tensor.name, tensor.datatype, list(tensor.shape))
        if binary.get(tensor.name, asked.binary_output):
            data = write_raw(tensor.data, tensor.datatype)
            out.parameters = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            out.data = _listed(tensor)
        outputs.append(out)
    told = {"request_id": answer.request_id}
    head = _encode(InferResponse(answer.model, str(answer.version), answer.id, told, outputs))
    return Encoded(b"".join((head, *raw)), len(head)) if raw else Encoded(head, None)


def _array(each: _Input, rest: memoryview, field: str) -> tuple[Array, int]:
    """The values, and how many bytes of `rest` they took."""
    shape = tuple(each.shape)
    size = each.parameters.get("binary_data_size") if each.parameters else None
    if size is not None:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
            raise InvalidInput(
                f"{field}: binary_data_size is {str(size)[:40]}, and {len(rest)} bytes are left behind the JSON",
                field=f"{field}.parameters.binary_data_size",
            )
        if bytes(each.data):
            raise InvalidInput(f"{field}: its data is given twice, in the JSON and behind it", field=f"{field}.data")
        return read_raw(rest[:size], each.datatype, shape, field), size
    if not bytes(each.data):
        if "shared_memory_region" in each.parameters:
            raise NotSupported(f"{field}: shared memory regions are not supported", field=field)
        raise InvalidInput(f"{field}: it has no data", field=f"{field}.data")
    return _from_json(each.data, each.datatype, shape, field), 0


def _from_json(data: msgspec.Raw, datatype: str, shape: tuple[int, ...], field: str) -> Array:
    dtype = dtype_of(datatype, field)
    size = size_of(shape, field)
    try:
        values: list[Any] = _FLAT[dtype.kind].decode(data)
    except msgspec.ValidationError:
        values = _flattened(decode_any(data, field), shape, field, datatype)
    if len(values) != size:
        raise InvalidInput(
            f"{field}: {len(values)} values, expected {size}: those of the shape {list(shape)}", field=f"{field}.data"
        )
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
    except (OverflowError, ValueError):
        raise InvalidInput(f"{field}: a value is beyond what {datatype} holds", field=f"{field}.data") from None
    if dtype.kind == "f" and dtype.itemsize < 8 and not all_finite(array):
        raise InvalidInput(f"{field}: a value is beyond what {datatype} holds", field=f"{field}.data")
    return shaped(array, shape, field)


def decode_any(data: msgspec.Raw, field: str) -> list[Any]:
    try:
        return _anything.decode(data)
    except msgspec.ValidationError:
        raise InvalidInput(f"{field}: its data is no list", field=f"{field}.data") from None


def _flattened(values: list[Any], shape: tuple[int, ...], field: str, datatype: str) -> list[Any]:
    """Nested lists, each as long as its axis. Raises InvalidInput where something else is found."""
    level = values
    if any(isinstance(value, list) for value in values):
        level = [values]
        for axis in shape:
            if any(not isinstance(inner, list) or len(inner) != axis for inner in level):
                raise InvalidInput(
                    f"{field}: its data is not nested as its shape {list(shape)} says", field=f"{field}.data"
                )
            level = [value for inner in level for value in inner]
    try:
        flat: list[Any] = msgspec.convert(level, _PLAIN.get(dtype_of(datatype, field).kind, list[int]))
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{field}: a value is no {datatype}: {str(error)[:200]}", field=f"{field}.data") from None
    return flat


def _output(each: OutputIn, i: int, binary: bool) -> OutputAsked:
    parameters = each.parameters
    if "shared_memory_region" in parameters:
        raise NotSupported(f"outputs[{i}]: shared memory regions are not supported", field=f"outputs[{i}]")
    classes = parameters.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or not 0 <= classes <= MOST_CLASSES:
        raise InvalidInput(
            f"outputs[{i}].parameters.classification: expected a number of classes, got {str(classes)[:40]}",
            field=f"outputs[{i}].parameters.classification",
        )
    return OutputAsked(each.name, parameters.get("binary_data", binary) is True, classes)


def _listed(tensor: Tensor) -> list[Any]:
    data = tensor.data
    values: list[Any] = data.tolist() if data.ndim == 1 else data.ravel().tolist()
    if tensor.datatype != "BYTES":
        return values
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError:
        raise InvalidInput(
            f"outputs: {tensor.name!r} holds bytes that are no text; ask for it as binary (binary_data)",
            field="outputs",
        ) from None
