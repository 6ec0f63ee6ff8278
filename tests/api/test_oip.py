"""The Open Inference Protocol over HTTP beyond what its client can say: both ways through the server, versions, splits, what is broken."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api.oip_models import X, echo, iris, put, sums, values_of
from tests.api.test_fastlane import Server

from everloop.api.door import Caller
from everloop.api.http import oip_codec
from everloop.api.inference import InferAnswer, InferAsked, OutputAsked
from everloop.api.oip_infer import infer
from everloop.api.services import Services
from everloop.app.build import build_engine
from everloop.app.settings import EngineSettings
from everloop.core.errors import EverloopError, Forbidden, InvalidInput
from everloop.core.tensors import DATATYPES, Tensor
from everloop.learning.config import LearningConfig
from everloop.policy.keys import KeyRecord

# -- the codec --


@settings(deadline=None, max_examples=60)
@given(
    datatypes=st.lists(st.sampled_from(sorted(DATATYPES)), min_size=1, max_size=4),
    binary=st.lists(st.booleans(), min_size=4, max_size=4),
    rows=st.integers(0, 3),
)
def test_what_is_written_is_what_is_read(datatypes: list[str], binary: list[bool], rows: int) -> None:
    tensors = [Tensor(f"t{i}", name, values_of(name)[:rows]) for i, name in enumerate(datatypes)]
    asked = InferAsked("m", [], outputs=[OutputAsked(t.name, b) for t, b in zip(tensors, binary, strict=False)])
    encoded = oip_codec.encode_infer(InferAnswer("m", 1, tensors, "a", "b"), asked)
    length = len(encoded.body) if encoded.header_length is None else encoded.header_length
    answer = json.loads(encoded.body[:length])
    again = msgspec.json.encode({"inputs": answer["outputs"]})
    found = oip_codec.decode_infer("m", "", again + encoded.body[length:], len(again))
    for tensor, read in zip(tensors, found.inputs, strict=True):
        expected = tensor.data
        if tensor.datatype == "BYTES":
            expected = np.array([_text(value) for value in tensor.data.flat], object).reshape(tensor.shape)
            read.data = np.array([_text(value) for value in read.data.flat], object).reshape(read.shape)
        assert read.data.shape == expected.shape
        np.testing.assert_array_equal(read.data, expected)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_whatever_comes_is_read_or_refused_in_words(data: st.DataObject) -> None:
    value = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    )
    tensor = st.fixed_dictionaries(
        {
            "name": st.text(max_size=3) | value,
            "shape": st.lists(st.integers(-2, 4) | st.integers(2**30, 2**70), max_size=4) | value,
            "datatype": st.sampled_from([*DATATYPES, "BF16", ""]) | value,
        },
        optional={
            "data": st.lists(value, max_size=5) | value,
            "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 40) | value}) | value,
        },
    )
    body = msgspec.json.encode(
        {"inputs": data.draw(st.lists(tensor, max_size=3) | value), "parameters": data.draw(st.just({}) | value)}
    )
    rest = data.draw(st.binary(max_size=40))
    length = data.draw(st.just(len(body)) | st.integers(0, len(body) + 50) | st.none())
    try:
        found = oip_codec.decode_infer("m", "", body + rest, length)
    except EverloopError as error:
        refused = error
        found = None
    assert all(
        each.data.dtype == np.dtype(DATATYPES[each.datatype]) for each in ([] if found is None else found.inputs)
    )
    assert found is not None or (refused.fault, bool(refused.message)) == ("caller", True)


@pytest.mark.parametrize(
    ("shape", "data", "told"),
    [
        ([2, 2], [[1, 2], [3]], "nested"),
        ([2, 2], [1, 2, 3], "3 values, expected 4"),
        ([2], [1, "2"], "no INT8"),
        ([1], [300], "beyond what INT8"),
        ([1], [1.5], "no INT8"),
        ([-1], [], "every axis"),
    ],
)
def test_data_that_is_not_what_it_says(shape: list[int], data: list[Any], told: str) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": "INT8", "data": data}]}).encode()
    with pytest.raises(InvalidInput, match=told):
        oip_codec.decode_infer("m", "", body, None)


# -- the server --


@pytest.fixture(scope="module")
def engine() -> Iterator[Services]:
    engine = build_engine(EngineSettings(learning=LearningConfig(interval_sec=3600)))
    engine.start(learning=False)
    put(engine.services, "iris", iris())
    put(engine.services, "sums", sums())
    put(engine.services, "echo", echo())
    yield engine.services
    engine.stop()


@pytest.fixture
def server(engine: Services) -> Iterator[Server]:
    with Server(engine) as running:
        yield running
    engine.recorder.stop()  # its thread would linger
    engine.recorder.start()


def post(port: int, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        kept = {
            name.lower(): value for name, value in answer.getheaders() if name.lower() not in ("date", "connection")
        }
        return answer.status, kept, answer.read()
    finally:
        connection.close()


def body_of(
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]], *, binary: bool, **more: Any
) -> tuple[bytes, dict[str, str]]:
    inputs, raw = [], b""
    for name, (datatype, array) in tensors.items():
        each: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if binary:
            data = array.tobytes()
            each["parameters"] = {"binary_data_size": len(data)}
            raw += data
        else:
            each["data"] = array.ravel().tolist()
        inputs.append(each)
    head = json.dumps({"inputs": inputs, **more}).encode()
    headers = {"content-type": "application/json"}
    if binary:
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return head + raw, headers


def test_both_ways_through_the_server_answer_alike(engine: Services, server: Server) -> None:
    """The fast lane and the app: the same bytes but for request ids, whatever is asked."""
    rng = np.random.default_rng(3)
    asked: list[tuple[str, bytes, dict[str, str]]] = []
    for binary in (True, False):
        for rows in (0, 1, 3):
            a, b = rng.normal(size=(2, rows, 2)).astype(np.float32)
            body, headers = body_of({"a": ("FP32", a), "b": ("FP32", b)}, binary=binary, id="mine")
            asked.append(("sums", body, headers))
            asked.append(("sums", body[:-1], headers))
            asked.append(("iris", *body_of({"X": ("FP32", X[:rows])}, binary=binary, id="me")))
        out = {"parameters": {"binary_data_output": True}, "id": "x"}
        asked.append(("iris", *body_of({"X": ("FP32", X[:2])}, binary=binary, **out)))
        asked.append(("iris", *body_of({"X": ("FP64", X[:2].astype(float))}, binary=binary, id="x")))
        asked.append(("iris", *body_of({"X": ("FP32", X[:2])}, binary=binary, id="x", outputs=[{"name": "who"}])))
        asked.append(("iris", *body_of({"X": ("FP32", X[:2])}, binary=binary, id="x", parameters={"timeout": "soon"})))
    asked += [
        ("iris", b"{}", {}),
        ("iris", b"[", {}),
        ("iris", b"", {"content-type": "application/json"}),
        ("no", b"{}", {}),
    ]
    with Server(engine, fast=False) as ordinary:
        for name, body, headers in asked:
            path = f"/v2/models/{name}/infer"
            fast, plain = (post(each.port, path, body, headers) for each in (server, ordinary))
            assert _without_id(fast) == _without_id(plain)


def _without_id(answer: tuple[int, dict[str, str], bytes]) -> Any:
    status, headers, body = answer
    length = int(headers.get("inference-header-content-length", len(body)))
    told = json.loads(body[:length])
    told.pop("request_id", None)
    told.get("parameters", {}).pop("request_id", None)
    kept = {k: v for k, v in headers.items() if "length" not in k and k != "x-request-id"}
    return status, kept, told, body[length:]


def test_tensors_on_a_kept_connection_take_the_fast_lane(server: Server) -> None:
    body, headers = body_of({"X": ("FP32", X[:1])}, binary=True, parameters={"binary_data_output": True})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for _ in range(3):
        connection.request("POST", "/v2/models/iris/versions/1/infer", body, headers)
        answer = connection.getresponse()
        assert (answer.status, len(answer.read())) == (200, int(answer.headers["content-length"]))
    connection.close()
    assert server.app_requests == 0


def test_a_model_of_tensors_is_asked_by_tensors_only(server: Server) -> None:
    status, _, body = post(
        server.port, "/v1/models/sums/predict", b'{"features": [1.0]}', {"content-type": "application/json"}
    )
    assert (status, json.loads(body)["code"]) == (422, "not_supported")
    assert "Open Inference Protocol" in json.loads(body)["detail"]


def test_a_deadline_that_cannot_be_kept_is_told_before_it_runs(server: Server) -> None:
    body, headers = body_of({"X": ("FP32", X[:1])}, binary=False)
    status, _, answer = post(server.port, "/v2/models/iris/infer", body, headers | {"everloop-timeout": "0"})
    assert (status, json.loads(answer)["code"]) == (504, "deadline_exceeded")
    row = json.dumps({"features": X[0].tolist()}).encode()
    status, _, answer = post(server.port, "/v1/models/iris/predict", row, headers | {"everloop-timeout": "0"})
    assert (status, json.loads(answer)["code"]) == (504, "deadline_exceeded")
    assert post(server.port, "/v1/models/iris/predict", row, headers | {"everloop-timeout": "60"})[0] == 200


def test_another_version_than_the_champion_takes_a_key(services: Services) -> None:
    import asyncio

    from tests.api.oip_models import IRIS  # the same classes from other numbers

    put(services, "iris", iris())
    IRIS.coef_ *= 1.5
    try:
        second = put(services, "iris", iris(), live=False)
    finally:
        IRIS.coef_ /= 1.5
    services.registry.set_traffic("iris", {1: 0.5, second: 0.5}, by="test")
    services.reconciler.step()
    assert services.reconciler.wait_open("iris", second, 20)
    record = KeyRecord("k", "0" * 64, "a key", 0.0, scopes=("predict",))
    caller = Caller(record, key_id="k", name="a key")

    def ask(version: str, caller: Caller | None = None, unit: str | None = None) -> int:
        asked = InferAsked(
            "iris", [Tensor("X", "FP32", X[:1])], version, parameters={} if unit is None else {"unit": unit}
        )

        async def main() -> int:
            answer = await (infer(services, asked) if caller is None else infer(services, asked, caller))
            return answer.version

        return asyncio.run(main())

    assert ask("1", caller) == 1
    assert ask(str(second)) == second
    with pytest.raises(Forbidden, match="scope admin"):
        ask(str(second), caller)
    by_unit = {unit: {ask("", unit=unit) for _ in range(3)} for unit in map(str, range(30))}
    assert all(len(versions) == 1 for versions in by_unit.values())
    assert {version for versions in by_unit.values() for version in versions} == {1, second}
