"""Between the messages of `inference.proto` and what `api.inference` speaks.

An answer comes in the form of its question: raw contents for raw contents, typed lists for typed lists, because a client that
sends one form may not read the other. FP16 has no typed list, so an answer with one of those is raw. Requests are decoded here
and not by gRPC: what is wrong with one is then told in words and as the caller's fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from google.protobuf.json_format import Parse
from google.protobuf.message import DecodeError, Message

from everloop.api.grpc._generated import inference_pb2 as pb
from everloop.api.inference import InferAnswer, InferAsked, OutputAsked
from everloop.api.raw_tensors import dtype_of, read_raw, size_of, write_raw
from everloop.core.errors import InvalidInput, Malformed, NotSupported, TooLarge
from everloop.core.tensors import Array, Tensor

M = TypeVar("M", bound=Message)

MOST_TENSORS = 1024
"""Inputs, or outputs, of one request."""
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype -> the list that holds its values where they are not raw."""


def decode(message: type[M], data: bytes) -> M:
    """Raises Malformed."""
    try:
        return message.FromString(data)
    except DecodeError:
        raise Malformed(f"these bytes are no {message.DESCRIPTOR.full_name}") from None


def decode_infer(data: bytes) -> tuple[InferAsked, bool]:
    """What is asked, and whether the answer should be raw. Raises Malformed, InvalidInput, NotSupported, TooLarge."""
    request = decode(pb.ModelInferRequest, data)
    tensors, raws = request.inputs, request.raw_input_contents
    if len(tensors) > MOST_TENSORS or len(request.outputs) > MOST_TENSORS:
        raise TooLarge(f"more than {MOST_TENSORS} inputs or outputs")
    inputs = []
    if raws:
        if len(raws) != len(tensors):
            raise InvalidInput(
                f"raw_input_contents: {len(raws)} of them for {len(tensors)} inputs, expected one for each",
                field="raw_input_contents",
            )
        for number, (each, raw) in enumerate(zip(tensors, raws, strict=True)):
            field = f"inputs[{number}]"
            if each.HasField("contents"):
                raise InvalidInput(f"{field}: has contents although its data is in raw_input_contents", field=field)
            datatype = each.datatype
            inputs.append(Tensor(each.name, datatype, read_raw(raw, datatype, tuple(each.shape), field)))
    else:
        inputs = [_typed(each, f"inputs[{number}]") for number, each in enumerate(tensors)]
    asked = InferAsked(request.model_name, inputs, request.model_version, request.id)
    if request.outputs:
        asked.outputs = [_output(each) for each in request.outputs]
    if request.parameters:
        asked.parameters = parameters(request.parameters)
    return asked, bool(raws) or not inputs


def request_id(data: bytes) -> str:
    """Of a request that could not be answered; empty where it cannot be read either."""
    try:
        return decode(pb.ModelInferRequest, data).id
    except Malformed:
        return ""


def encode_infer(answer: InferAnswer, raw: bool, *, final: bool = False) -> pb.ModelInferResponse:
    """`final`: to say, as some readers of a stream ask, that nothing more comes for this request."""
    message = pb.ModelInferResponse(model_name=answer.model, model_version=str(answer.version), id=answer.id)
    if answer.request_id:
        message.parameters["request_id"].string_param = answer.request_id
    if final:
        message.parameters["triton_final_response"].bool_param = True
    outputs = answer.outputs
    raw = raw or any(each.datatype not in _CONTENTS for each in outputs)
    for each in outputs:
        array, datatype = each.data, each.datatype
        written = message.outputs.add(name=each.name, datatype=datatype, shape=array.shape)
        if raw:
            message.raw_output_contents.append(write_raw(array, datatype))
        else:
            values = array.ravel().tolist()
            if datatype == "BYTES":
                values = [value if isinstance(value, bytes) else str(value).encode() for value in values]
            getattr(written.contents, _CONTENTS[datatype]).extend(values)
    return message


def parameters(given: Mapping[str, pb.InferParameter | pb.ModelRepositoryParameter]) -> dict[str, Any]:
    """Those with a value."""
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in given.items())
    return {name: getattr(value, choice) for name, value, choice in chosen if choice is not None}


def message_of(message: type[M], answer: Any) -> M:
    """A struct or mapping whose names are the message's own, as the message; what the message does not have is left out."""
    return Parse(msgspec.json.encode(answer), message(), ignore_unknown_fields=True)


def _typed(given: pb.ModelInferRequest.InferInputTensor, field: str) -> Tensor:
    if any(name.startswith("shared_memory") for name in given.parameters):
        raise NotSupported(f"{field}: this server reads no shared memory; send the data", field=field)
    datatype, shape = given.datatype, tuple(given.shape)
    dtype = dtype_of(datatype, field)
    size = size_of(shape, field)
    name = _CONTENTS.get(datatype)
    if name is None:
        raise InvalidInput(f"{field}: {datatype} comes in raw_input_contents only", field=field)
    values: Sequence[Any] = getattr(given.contents, name)
    if len(values) != size:
        raise InvalidInput(
            f"{field}: {len(values)} values in {name}, expected the {size} of {datatype} {list(shape)}", field=field
        )
    return Tensor(given.name, datatype, _array(values, dtype, field).reshape(shape))


def _array(values: Sequence[Any], dtype: np.dtype[Any], field: str) -> Array:
    if dtype.hasobject:
        array: Array = np.empty(len(values), object)
        array[:] = values
        return array
    wide = np.array(values, np.int64 if dtype.itemsize < 4 and dtype.kind in "iu" else dtype)
    narrow: Array = wide.astype(dtype, copy=False)
    if narrow is not wide and not np.array_equal(narrow, wide):
        raise InvalidInput(f"{field}: has values that are beyond its datatype", field=field)
    return narrow


def _output(given: pb.ModelInferRequest.InferRequestedOutputTensor) -> OutputAsked:
    asked = OutputAsked(given.name, binary=True)
    if given.parameters:
        said = parameters(given.parameters)
        if "shared_memory_region" in said:
            raise NotSupported(f"outputs: {given.name!r}: this server writes into no shared memory", field="outputs")
        classes = said.get("classification", 0)
        if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
            raise InvalidInput(f"outputs: classification of {given.name!r}: expected a whole number", field="outputs")
        asked.classification = classes
    return asked
