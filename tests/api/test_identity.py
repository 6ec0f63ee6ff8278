"""The fast lane and the app say the same: status, headers and bytes, for whatever is asked, but for dates and ids.

`benchmarks/identity.py` asks ten thousand times.
"""

from __future__ import annotations

import json
import os
import re
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api.test_fastlane import Client, Server, bodies, request, serve, unit_headers, units, values, with_unit

from everloop.api.http.fastlane import make_protocol

__all__ = ["serve"]  # a fixture

EXAMPLES = int(os.environ.get("IDENTITY_EXAMPLES", "400"))
ID = re.compile(rb"[0-9a-f]{6,}-[0-9a-f]+")


def ordinary(services: Any) -> type[Any]:
    """The same connection, but that nothing is answered on it."""

    class Ordinary(make_protocol(services)):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._possible = False

    return Ordinary


DATATYPES = ["FP64", "FP32", "INT64", "UINT8", "BOOL", "BYTES", "FP16", "FP128", "", None, 7]
shapes = st.one_of(
    st.sampled_from([[1, 2], [2], [0, 2], [2, 2], [1, 3]]),
    st.lists(st.integers(-2, 3), max_size=3),
    st.none(),
    st.text(max_size=2),
)
data = st.one_of(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2),
    st.lists(st.lists(st.floats(-9, 9), min_size=2, max_size=2), max_size=3),
    st.lists(values, max_size=5),
    values,
)
parameters = st.dictionaries(
    st.sampled_from(["timeout", "priority", "binary_data", "binary_data_size", "classification", "x", "sequence_id"]),
    st.one_of(st.booleans(), st.integers(-2, 10_000_000), st.text(max_size=3), st.just([1])),
    max_size=2,
)  # fmt: skip
names = st.sampled_from(["features", "input-0", "age", "city", "", "x" * 300])
inputs = st.fixed_dictionaries(
    {"name": names, "shape": shapes, "datatype": st.sampled_from(DATATYPES)},
    optional={"data": data, "parameters": parameters},
)
sound = st.builds(
    lambda found: {
        "name": "features",
        "shape": [len(found), 2],
        "datatype": "FP64",
        "data": [v for row in found for v in row],
    },
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), min_size=1, max_size=4),
)
outputs = st.fixed_dictionaries(
    {"name": st.sampled_from(["prediction", "probabilities", "y"])}, optional={"parameters": parameters}
)
tensors = st.fixed_dictionaries(
    {"inputs": st.lists(st.one_of(sound, inputs), max_size=2)},
    optional={"id": st.one_of(st.text(max_size=4), values), "outputs": st.lists(outputs, max_size=2), "parameters": parameters, "typo": values},
)  # fmt: skip


def binary(asked: dict[str, Any], raw: bytes, wrong: int) -> tuple[bytes, int]:
    """(body, what it says the length of its JSON is)"""
    for tensor in asked["inputs"][:1]:
        tensor.pop("data", None)
        tensor["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(asked).encode()
    return head + raw, len(head) + wrong


raws = st.one_of(
    st.binary(max_size=40), st.lists(st.floats(-9, 9), min_size=2, max_size=2).map(lambda v: b"".join(map(_le, v)))
)


def _le(value: float) -> bytes:
    import struct

    return struct.pack("<d", value)


MODELS = ["sum", "sum", "person", "shared", "nobody"]
nothing: st.SearchStrategy[dict[str, str]] = st.just({})
odd = st.dictionaries(
    st.sampled_from(["Everloop-Timeout", "X-Request-Id", "Accept", "Content-Type", "Host", "traceparent", "Authorization", "Origin"]),
    st.sampled_from(["1", "0.000001", "-1", "soon", "1e9", "application/json", "application/json; charset=utf-8", "text/plain",
                     "application/octet-stream", "localhost", "evil.example", "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "Bearer x", "x" * 300]),
    max_size=2,
)  # fmt: skip
extra = st.one_of(nothing, nothing, odd)
usual = st.builds(
    lambda body, unit, header, model, verb, more: request(
        body if unit == "nothing" else with_unit(body, unit),
        f"/v1/models/{model}/{verb}",
        headers={**({} if header is None else {"Everloop-Unit": header}), **more},
    ),
    bodies, st.one_of(st.just("nothing"), units), unit_headers, st.sampled_from([m for m in MODELS if m != "shared"]),
    st.sampled_from(["predict", "feedback"]), extra,
)  # fmt: skip
infer_paths = st.builds(
    lambda model, version: f"/v2/models/{model}{version}/infer",
    st.sampled_from([m for m in MODELS if m != "shared"]),
    st.sampled_from(["", "", "", "/versions/1", "/versions/9", "/versions/x", "/versions/01"]),
)
infer = st.builds(
    lambda body, path, more: request(body, path, headers=more), st.one_of(tensors, tensors, bodies), infer_paths, extra
)
infer_binary = st.builds(
    lambda found, path, more: request(found[0], path, headers={"Inference-Header-Content-Length": str(found[1]), "Content-Type": "application/octet-stream", **more}),
    st.builds(binary, tensors, raws, st.sampled_from([0, 0, 0, 1, -1, 10_000, -10_000])), infer_paths, extra,
)  # fmt: skip
pair = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2)
fine = st.one_of(
    st.builds(lambda row, more: request({"features": row}, headers=more), pair, extra),
    st.builds(lambda found, more: request({"instances": found}, headers=more), st.lists(pair, min_size=1, max_size=4), extra),
    st.builds(lambda row, more: request({"features": row, "label": row[0]}, "/v1/models/sum/feedback", headers=more), pair, extra),
    st.builds(
        lambda tensor, rest, more: request({**rest, "inputs": [tensor]}, "/v2/models/sum/infer", headers=more),
        sound, st.one_of(nothing, st.fixed_dictionaries({"id": st.text(max_size=4), "parameters": parameters})), extra,
    ),
)  # fmt: skip
asked = st.one_of(fine, usual, infer, infer_binary)


def told(answer: tuple[int, dict[str, str], bytes]) -> tuple[Any, ...]:
    status, headers, body = answer
    kept = {
        name: ID.sub(b"ID", value.encode("latin-1"))
        for name, value in headers.items()
        if name not in ("date", "content-length")
    }
    return status, kept, ID.sub(b"ID", body)


def compare(fast: Server, slow: Server, examples: int) -> int:
    """Asserts that both say the same. Returns how many of the answers were good ones."""
    clients: dict[Server, Client] = {}
    good = 0

    def answer(server: Server, sent: bytes) -> tuple[Any, ...]:
        client = clients.get(server)
        if client is None:
            client = clients[server] = server.connect()
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(sent)
        found = told(client.answer())
        if found[1].get("connection") == b"close":
            assert client.closed()
            clients.pop(server).close()
        return found

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(asked)
    def once(sent: bytes) -> None:
        nonlocal good
        one, other = answer(fast, sent), answer(slow, sent)
        assert one == other, sent
        good += one[0] < 300

    try:
        once()
    finally:
        for client in clients.values():
            client.close()
    return good


@pytest.fixture
def both(serve: Any, services: Any) -> tuple[Server, Server]:
    fast, slow = serve(), serve()
    slow.config.http_protocol_class = ordinary(services)
    return fast, slow


def test_both_ways_say_the_same(both: tuple[Server, Server]) -> None:
    fast, slow = both
    good = compare(fast, slow, EXAMPLES)
    assert good > EXAMPLES // 10
    assert fast.app_requests < slow.app_requests


def test_a_row_of_each_kind_is_among_them(both: tuple[Server, Server]) -> None:
    """Of what most is asked: neither way refuses it, and only one needs the app."""
    fast, slow = both
    for sent in (
        request({"features": [1.0, 2.0]}),
        request(
            {"inputs": [{"name": "features", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 2.0]}]},
            "/v2/models/sum/infer",
        ),
    ):
        found = []
        for server in (fast, slow):
            with server.connect() as client:
                client.send(sent)
                found.append(told(client.answer()))
        assert found[0] == found[1]
        assert found[0][0] == 200
    assert (fast.app_requests, slow.app_requests) == (0, 2)
