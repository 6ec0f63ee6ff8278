"""Both codecs of the Open Inference Protocol on whatever bytes: a request whose arrays are what their shapes say, or a refusal that is
the caller's fault; and never more memory than the bytes account for."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.api.test_identity import binary, raws, tensors

from everloop.api.http import oip_codec
from everloop.api.inference import InferAsked
from everloop.core.errors import EverloopError

pb: Any = import_module("everloop.api.grpc._generated.inference_pb2")

WIDEST = 16
"""Bytes in memory for a byte on the wire: `[0,0]` as eight bytes each, and what is around them."""
TYPES = ["BOOL", "UINT8", "UINT64", "INT8", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16", "", "fp32"]


def check(decode: Callable[[], InferAsked], sent: int) -> None:
    refused = None
    try:
        asked = decode()
    except EverloopError as error:
        refused = error
    if refused is not None:
        assert refused.fault == "caller", repr(refused)
        assert refused.message
        return
    held = 0
    for tensor in asked.inputs:
        array = tensor.data
        assert array.size == int(np.prod(array.shape, dtype=object))
        held += array.nbytes
    assert held <= WIDEST * sent + 1024


lies = st.sampled_from([2**31, 2**32, 2**40, 2**62, 2**63 - 1])
bombs = st.builds(
    lambda shape, datatype, data: {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}]},
    st.lists(st.one_of(lies, st.integers(-1, 2)), max_size=40),
    st.sampled_from(TYPES),
    st.lists(st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=2), st.none()), max_size=3),
)
changes = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9), st.binary(max_size=5)), max_size=3)


def changed(said: bytes, how: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, come in how:
        said = said[:at] + come + said[at + gone :]
    return said


FUZZ = settings(max_examples=200, suppress_health_check=list(HealthCheck), database=None)


@FUZZ
@given(
    st.one_of(
        st.builds(lambda asked: (json.dumps(asked).encode(), None), st.one_of(tensors, bombs)),
        st.builds(binary, st.one_of(tensors, bombs), raws, st.integers(-3, 3)),
        st.builds(lambda body: (body, None), st.binary(max_size=60)),
    ),
    changes,
    st.one_of(st.none(), st.binary(max_size=4)),
)
@example(
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":' + b"[" * 5000 + b"]" * 5000 + b"}]}", None),
    [],
    None,
)
@example((b'{"inputs":[{"name":"x","shape":[0,9223372036854775807],"datatype":"FP64","data":[]}]}', None), [], None)
@example((b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[300]}]}', None), [], None)
@example((b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1e300]}]}', None), [], None)
def test_json_and_binary(said: tuple[bytes, int | None], how: list[tuple[int, int, bytes]], unit: bytes | None) -> None:
    body, length = changed(said[0], how), said[1]
    length = None if length is None or length < 0 else length
    check(lambda: oip_codec.decode_infer("m", "", body, length, unit), len(body))


shapes = st.lists(st.one_of(lies, st.integers(-1, 3)), max_size=6)
contents = st.fixed_dictionaries(
    {},
    optional={
        "fp32_contents": st.lists(st.floats(width=32), max_size=6),
        "fp64_contents": st.lists(st.floats(), max_size=6),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6),
        "int64_contents": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6),
        "uint_contents": st.lists(st.integers(0, 2**32 - 1), max_size=6),
        "uint64_contents": st.lists(st.integers(0, 2**64 - 1), max_size=6),
        "bool_contents": st.lists(st.booleans(), max_size=6),
        "bytes_contents": st.lists(st.binary(max_size=4), max_size=6),
    },
)
proto_inputs = st.builds(
    lambda name, datatype, shape, found: pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape, contents=found),
    st.text(max_size=3), st.sampled_from(TYPES), shapes, st.one_of(st.none(), contents.map(lambda c: pb.InferTensorContents(**c))),
)  # fmt: skip
proto_parameters = st.dictionaries(
    st.sampled_from(["timeout", "classification", "x"]),
    st.one_of(
        st.integers(-9, 9).map(lambda v: pb.InferParameter(int64_param=v)),
        st.text(max_size=3).map(lambda v: pb.InferParameter(string_param=v)),
        st.just(pb.InferParameter()),
    ),
    max_size=2,
)
proto_requests = st.builds(
    lambda inputs, raw, outputs, parameters: pb.ModelInferRequest(
        model_name="m", inputs=inputs, raw_input_contents=raw, outputs=outputs, parameters=parameters
    ).SerializeToString(),
    st.lists(proto_inputs, max_size=3),
    st.one_of(st.just([]), st.lists(raws, max_size=3)),
    st.lists(
        st.builds(lambda p: pb.ModelInferRequest.InferRequestedOutputTensor(name="y", parameters=p), proto_parameters),
        max_size=2,
    ),
    proto_parameters,
)


@FUZZ
@given(st.one_of(proto_requests, st.binary(max_size=60)), changes)
def test_messages_of_grpc(said: bytes, how: list[tuple[int, int, bytes]]) -> None:
    from everloop.api.grpc import codec

    body = changed(said, how)
    check(lambda: codec.decode_infer(body)[0], len(body))
    assert isinstance(codec.request_id(body), str)
