"""What goes over the wire is what came in: every datatype, raw and typed; what is no request is told, and nothing else happens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from everloop.api.grpc import codec, regenerate
from everloop.api.grpc._generated import inference_pb2 as pb
from everloop.api.inference import InferAnswer
from everloop.api.raw_tensors import read_raw, write_raw
from everloop.core.errors import EverloopError, InvalidInput, Malformed, NotSupported
from everloop.core.tensors import DATATYPES, Tensor


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(list(DATATYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)))
    size = int(np.prod(shape))
    if datatype == "BYTES":
        values = draw(st.lists(st.binary(max_size=9), min_size=size, max_size=size))
        array = np.empty(size, object)
        array[:] = values
    else:
        dtype = np.dtype(DATATYPES[datatype])
        data = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
        array = np.frombuffer(bytes(byte & 1 for byte in data) if datatype == "BOOL" else data, dtype)
    return Tensor(draw(st.text(max_size=5)), datatype, array.reshape(shape))


def same(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and (a.tolist() == b.tolist() or a.tobytes() == b.tobytes())


def contents_of(tensor: Tensor) -> dict[str, Any]:
    return {codec._CONTENTS[tensor.datatype]: tensor.data.ravel().tolist()}


@given(tensors())
def test_raw_tensors_come_back_as_they_were(tensor: Tensor) -> None:
    raw = write_raw(tensor.data, tensor.datatype)
    assert same(read_raw(raw, tensor.datatype, tensor.shape, "x"), tensor.data)


@given(st.lists(tensors(), max_size=3), st.booleans())
def test_a_request_is_read_as_it_was_meant(given_tensors: list[Tensor], raw: bool) -> None:
    request = pb.ModelInferRequest(model_name="m", model_version="2", id="i")
    if any(each.datatype == "FP16" for each in given_tensors):
        raw = True
    for each in given_tensors:
        added = request.inputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        if raw:
            request.raw_input_contents.append(write_raw(each.data, each.datatype))
        else:
            added.contents.CopyFrom(pb.InferTensorContents(**contents_of(each)))
    asked, answer_raw = codec.decode_infer(request.SerializeToString())
    assert (asked.model, asked.version, asked.id) == ("m", "2", "i")
    assert answer_raw == (raw or not given_tensors)
    assert len(asked.inputs) == len(given_tensors)
    for found, each in zip(asked.inputs, given_tensors, strict=True):
        assert (found.name, found.datatype) == (each.name, each.datatype)
        if raw or each.datatype not in ("FP32", "FP64"):
            assert same(found.data, each.data)
        else:  # a NaN's own bits are protobuf's affair
            np.testing.assert_array_equal(found.data, each.data)


@given(st.lists(tensors(), min_size=1, max_size=3), st.booleans())
def test_an_answer_is_read_by_the_protocols_own_messages(outputs: list[Tensor], raw: bool) -> None:
    encoded = codec.encode_infer(InferAnswer("m", 3, outputs, "id", "known"), raw).SerializeToString()
    message = service_pb2.ModelInferResponse.FromString(encoded)
    assert (message.model_name, message.model_version, message.id) == ("m", "3", "id")
    assert message.parameters["request_id"].string_param == "known"
    raw = raw or any(each.datatype == "FP16" for each in outputs)
    assert len(message.raw_output_contents) == (len(outputs) if raw else 0)
    for number, each in enumerate(outputs):
        written = message.outputs[number]
        assert (written.name, written.datatype, tuple(written.shape)) == (each.name, each.datatype, each.shape)
        if raw:
            data = message.raw_output_contents[number]
            assert same(read_raw(data, each.datatype, each.shape, "x"), each.data)
        else:
            values = getattr(written.contents, codec._CONTENTS[each.datatype])
            assert len(values) == each.data.size


def refusal_of(data: bytes) -> str | None:
    """Whose fault it is that it cannot be read."""
    try:
        codec.decode_infer(data)
    except EverloopError as error:
        return error.fault
    return None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_are_refused_in_words(data: bytes) -> None:
    assert refusal_of(data) in (None, "caller")


@given(st.data())
def test_a_damaged_request_is_a_request_or_is_refused_in_words(data: st.DataObject) -> None:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype=data.draw(st.sampled_from([*DATATYPES, "FP8"])), shape=[2, 2])
    request.raw_input_contents.append(data.draw(st.binary(max_size=40)))
    whole = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert refusal_of(bytes(whole)) in (None, "caller")


def request_of(*inputs: dict[str, Any], raw: tuple[bytes, ...] = (), **fields: Any) -> bytes:
    made = pb.ModelInferRequest(model_name="m", raw_input_contents=raw, **fields)
    for each in inputs:
        made.inputs.add(**each)
    return made.SerializeToString()


ONE = {"name": "x", "datatype": "FP32", "shape": [2]}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (request_of(ONE, raw=(b"1234",)), "4 bytes of data, expected 8"),
        (request_of(ONE, ONE, raw=(b"12345678",)), "1 of them for 2 inputs"),
        (request_of({**ONE, "datatype": "FP128"}, raw=(b"",)), "no datatype 'FP128'"),
        (request_of({**ONE, "shape": [-1]}, raw=(b"",)), "is no shape"),
        (request_of({**ONE, "shape": [1] * 40}, raw=(b"1234",)), "40 axes"),
        (request_of({**ONE, "shape": [2**40, 2**40]}, raw=(b"1234",)), "is no shape"),
        (request_of({**ONE, "datatype": "BYTES", "shape": [2**40]}, raw=(b"1234",)), "cannot hold|is no shape"),
        (request_of({**ONE, "datatype": "BYTES", "shape": [1]}, raw=(b"\xff\xff\xff\xffab",)), "goes beyond"),
        (request_of({**ONE, "datatype": "BYTES", "shape": [1]}, raw=(b"\1\0\0\0ab",)), "another number"),
        (request_of({**ONE, "contents": {"fp32_contents": [1.0]}}), "1 values in fp32_contents"),
        (request_of({**ONE, "contents": {"fp64_contents": [1.0, 2.0]}}), "0 values in fp32_contents"),
        (request_of({**ONE, "contents": {"fp32_contents": [1, 2]}}, raw=(b"12345678",)), "although its data"),
        (request_of({**ONE, "datatype": "FP16", "contents": {}}), "raw_input_contents only"),
        (request_of({**ONE, "datatype": "INT8", "contents": {"int_contents": [1, 128]}}), "beyond its datatype"),
        (request_of({**ONE, "datatype": "UINT16", "contents": {"uint_contents": [1, 65_536]}}), "beyond its datatype"),
    ],
)
def test_what_does_not_fit_is_told(data: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as refused:
        codec.decode_infer(data)
    assert refused.value.field


def test_what_is_no_message_and_what_is_in_shared_memory() -> None:
    with pytest.raises(Malformed, match=r"no inference\.ModelInferRequest"):
        codec.decode_infer(b"\xff\xff")
    shared = {**ONE, "parameters": {"shared_memory_region": pb.InferParameter(string_param="r")}}
    with pytest.raises(NotSupported, match="shared memory"):
        codec.decode_infer(request_of(shared))
    into = {"name": "y", "parameters": {"shared_memory_region": pb.InferParameter(string_param="r")}}
    with pytest.raises(NotSupported, match="shared memory"):
        codec.decode_infer(request_of(outputs=[into]))


def test_parameters_and_outputs_are_read() -> None:
    parameters = {
        "timeout": pb.InferParameter(int64_param=5),
        "unit": pb.InferParameter(string_param="u"),
        "ratio": pb.InferParameter(double_param=0.5),
        "flag": pb.InferParameter(bool_param=True),
        "priority": pb.InferParameter(uint64_param=7),
        "nothing": pb.InferParameter(),
    }
    wanted = {"name": "y", "parameters": {"classification": pb.InferParameter(int64_param=3)}}
    asked, _ = codec.decode_infer(request_of(parameters=parameters, outputs=[wanted]))
    assert asked.parameters == {"timeout": 5, "unit": "u", "ratio": 0.5, "flag": True, "priority": 7}
    assert asked.outputs is not None
    assert (asked.outputs[0].name, asked.outputs[0].classification) == ("y", 3)
    bad = {"name": "y", "parameters": {"classification": pb.InferParameter(string_param="all")}}
    with pytest.raises(InvalidInput, match="classification"):
        codec.decode_infer(request_of(outputs=[bad]))


def test_the_generated_messages_are_those_of_the_proto_file(tmp_path: Any) -> None:
    regenerate.generate(tmp_path)
    for name in ("inference_pb2.py", "inference_pb2.pyi"):
        committed = (regenerate.HERE / "_generated" / name).read_text()
        assert (tmp_path / name).read_text() == committed, "python -m everloop.api.grpc.regenerate"


def test_names_and_numbers_are_the_protocols() -> None:
    """Against the messages of its reference client; that both live in one process is half the point."""
    from tritonclient.grpc import model_config_pb2

    def compare(ours: Any, theirs: Any) -> None:
        for field in ours.fields:
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
        for nested in ours.nested_types:
            compare(nested, theirs.nested_types_by_name[nested.name])

    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        theirs = getattr(service_pb2, name, None) or getattr(model_config_pb2, name)
        compare(message, theirs.DESCRIPTOR)
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        other = service.methods_by_name[method.name]
        assert (method.input_type.full_name, method.output_type.full_name, method.client_streaming) == (
            other.input_type.full_name,
            other.output_type.full_name,
            other.client_streaming,
        )
