"""The gRPC side of a server: health, reflection, keys, time, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.api.grpc_server import engine_of, running, speaking
from tests.api.oip_models import X, iris, put

from everloop.api import oip
from everloop.api.grpc._generated import inference_pb2 as pb
from everloop.api.grpc.gathering import COMPANY, STILL, Gathering
from everloop.api.grpc.refusals import MOST_WORDS, refusal, words
from everloop.api.oip import infer as infer_by_tensors
from everloop.api.services import Services
from everloop.app import server as app_server
from everloop.app.settings import ServerSettings
from everloop.core.errors import Conflict, InvalidInput, MissingExtra, ModelFailed, Overloaded, QuotaExceeded

SERVICE = "inference.GRPCInferenceService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WITHIN = 30.0


def prepare(services: Services) -> None:
    services.record = 0.0
    put(services, "iris", iris())


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    engine = engine_of(prepare)
    yield engine.services
    engine.stop()


@pytest.fixture
def channel(services: Services) -> Iterator[grpc.Channel]:
    with speaking(services) as target, grpc.insecure_channel(target) as made:
        yield made


def asked(model: str = "iris", rows: int = 1, **fields: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="X", datatype="FP32", shape=(rows, 4))
    request.raw_input_contents.append(X[:rows].tobytes())
    return request


def call(channel: grpc.Channel, method: str, request: Any, answer: Any, **more: Any) -> Any:
    path = method if "/" in method else f"/{SERVICE}/{method}"
    made = channel.unary_unary(path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=answer)
    return made(request, timeout=WITHIN, **more)


def infer(channel: grpc.Channel, request: Any, **more: Any) -> Any:
    return call(channel, "ModelInfer", request, pb.ModelInferResponse.FromString, **more)


def check(channel: grpc.Channel, name: str = "") -> Any:
    request = health_pb2.HealthCheckRequest(service=name)
    return call(channel, "/grpc.health.v1.Health/Check", request, health_pb2.HealthCheckResponse.FromString).status


# -- messages --


def test_typed_contents_are_answered_by_typed_contents(channel: grpc.Channel) -> None:
    request = pb.ModelInferRequest(model_name="iris")
    given = request.inputs.add(name="X", datatype="FP32", shape=(1, 4))
    given.contents.fp32_contents.extend(X[0].tolist())
    answer = infer(channel, request)
    assert not answer.raw_output_contents
    assert answer.outputs[0].contents.int64_contents == [0]
    assert len(answer.outputs[1].contents.fp32_contents) == 3
    assert infer(channel, asked()).raw_output_contents


def test_what_is_wrong_is_for_programs_too(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        infer(channel, asked("nobody"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert ("everloop-error", "model_not_found") in refused.value.trailing_metadata()
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"\xff\xff", timeout=WITHIN)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "these bytes are no inference.ModelInferRequest"
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{SERVICE}/ModelMetadata")(b"\xff\xff", timeout=WITHIN)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/a.B/C")(b"", timeout=WITHIN)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_refusal_says_when_to_come_back_and_keeps_secrets() -> None:
    code, told, trailers = refusal(Overloaded("full", retry_after=1.5))
    assert (code, told) == (grpc.StatusCode.UNAVAILABLE, "full")
    assert ("grpc-retry-pushback-ms", "1500") in trailers
    assert refusal(QuotaExceeded("slow down"))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    code, told, trailers = refusal(ValueError("password=hunter2"))
    assert code is grpc.StatusCode.INTERNAL
    assert "hunter2" not in told
    assert len(words(ModelFailed("é" * 5000))) == MOST_WORDS
    assert words(InvalidInput("\ud800")) == "\\ud800"
    assert dict(refusal(InvalidInput("x", field="é\n"))[2])["everloop-field"] == "\\xe9?"


# -- health and reflection --


def test_health_is_readiness(services: Services, channel: grpc.Channel) -> None:
    for name in ("", SERVICE, "grpc.health.v1.Health"):
        assert check(channel, name) == SERVING
    with pytest.raises(grpc.RpcError) as refused:
        check(channel, "iris")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    services.preparing = True
    try:
        assert check(channel) == NOT_SERVING
    finally:
        services.preparing = False


def test_reflection_knows_every_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = database.get_services()
    assert SERVICE in services
    assert "grpc.health.v1.Health" in services
    described = database.FindFileContainingSymbol(SERVICE)
    assert described.package == "inference"
    assert {"ModelInfer", "ModelStreamInfer"} <= {method.name for method in described.service[0].method}
    for name in services:
        assert database.FindFileContainingSymbol(name).service


# -- keys --


def test_a_closed_door_asks_for_a_key(
    services: Services, channel: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    door = services.door
    door.give(["all-of-it-1234567890"])
    key = (("authorization", "Bearer all-of-it-1234567890"),)
    try:
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.RpcError) as refused:
                infer(channel, asked(), metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert caplog.messages.count("infer by nobody known from 127.0.0.1: refused, unauthenticated") == 2
        assert infer(channel, asked(), metadata=key).model_version == "1"
        assert call(channel, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse.FromString).live
        assert check(channel) == SERVING
        unload = pb.RepositoryModelUnloadRequest(model_name="iris")
        with caplog.at_level(logging.INFO, "everloop.audit"):
            with pytest.raises(grpc.RpcError) as refused:
                call(channel, "RepositoryModelUnload", unload, pb.RepositoryModelUnloadResponse.FromString)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            call(
                channel,
                "RepositoryModelUnload",
                unload,
                pb.RepositoryModelUnloadResponse.FromString,
                metadata=key,
            )
            load = pb.RepositoryModelLoadRequest(model_name="iris")
            call(channel, "RepositoryModelLoad", load, pb.RepositoryModelLoadResponse.FromString, metadata=key)
        told = "\n".join(caplog.messages)
        assert "unload_model by nobody known from 127.0.0.1: refused, unauthenticated" in told
        assert "load_model by given key 1 (given-1) from 127.0.0.1: done" in told
        requests = iter([asked().SerializeToString()])
        with pytest.raises(grpc.RpcError) as refused:
            list(channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(requests, timeout=WITHIN))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        door.give([])
        door.closed = False


# -- time --


def test_the_deadline_of_a_call_is_that_of_its_request(channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes of a request whose deadline cannot be kept is the same for every protocol (`test_oip`)."""
    deadlines: list[float] = []

    async def seen(*given: Any, deadline: float, **named: Any) -> Any:
        deadlines.append(deadline)
        return await infer_by_tensors(*given, deadline=deadline, **named)

    monkeypatch.setattr(oip, "infer", seen)
    began = time.perf_counter()
    infer(channel, asked())
    (deadline,) = deadlines
    assert began < deadline <= time.perf_counter() + WITHIN


# -- the end --


def test_the_end_lets_calls_finish_and_streams_go() -> None:
    """Watchers, streams without a request and a stream of reflection do not hold the end up; an answer under way is given."""
    held = threading.Event()

    def requests() -> Iterator[bytes]:
        yield asked(id="a").SerializeToString()
        held.wait(WITHIN)

    with ThreadPoolExecutor(1) as pool:
        with running(prepare) as (_, address):
            channel = grpc.insecure_channel(str(address.grpc))
            watch = channel.unary_stream(
                "/grpc.health.v1.Health/Watch",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )(health_pb2.HealthCheckRequest(), timeout=WITHIN)
            assert next(watch).status == SERVING
            stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(requests(), timeout=WITHIN)
            assert pb.ModelStreamInferResponse.FromString(next(stream)).infer_response.id == "a"
            reflected = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(
                iter(lambda: held.wait(WITHIN) and None, None), timeout=WITHIN
            )
            left = pool.submit(lambda: ([each.status for each in watch], list(stream), list(reflected)))
        assert left.result() == ([NOT_SERVING], [], [])
        held.set()
        channel.close()


def test_a_port_that_is_taken_and_one_that_cannot_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = ServerSettings(port=0, grpc_port=other.getsockname()[1], notice=0.0)
        with pytest.raises(Conflict, match="--grpc-port"), running(settings=taken):
            pass
    with pytest.raises(InvalidInput, match="grpc_port"):
        ServerSettings(port=3000, grpc_port=3000)
    with pytest.raises(InvalidInput, match="grpc_port"):
        ServerSettings(grpc_port=70_000)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "everloop.api.grpc.server", None)
    with pytest.raises(MissingExtra, match=r"pip install 'everloop\[grpc\]'"), running():
        pass
    assert app_server.ServerSettings().grpc_port is None


# -- gathering --


def test_calls_that_come_in_the_same_turns_go_on_together() -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        gathering = Gathering(loop)
        first, second = gathering.join(), gathering.join()
        await first
        assert second.done()
        # In company now: one that comes some turns later is waited for.
        early = gathering.join()
        for _ in range(STILL - 2):
            await asyncio.sleep(0)
            assert not early.done()
        late = gathering.join()
        await late
        assert early.done()
        # A caller that is gone is passed over, and alone nobody is waited for.
        gone = gathering.join()
        gone.cancel()
        for _ in range(COMPANY + 1):
            await gathering.join()
        alone = gathering.join()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert alone.done()

    asyncio.run(go())
