"""`inference.GRPCInferenceService`: the verbs of `api.oip`, decoded, asked and encoded.

Predictions (`ModelInfer`, and each request of a `ModelStreamInfer`) are awaited on the event loop, where the batcher puts them
together with those of HTTP; what reads or writes a store runs on a thread. A caller that goes or whose deadline passes cancels
its call, and what has not run of it is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

import grpc

from everloop.api import oip
from everloop.api.door import ANYBODY, Caller, Need
from everloop.api.grpc import codec
from everloop.api.grpc._generated import inference_pb2 as pb
from everloop.api.grpc.codec import message_of
from everloop.api.grpc.gathering import Gathering
from everloop.api.grpc.reflection import until
from everloop.api.grpc.refusals import refusal, words
from everloop.api.health import ready
from everloop.api.http.threads import Threads
from everloop.api.inference import InferAsked
from everloop.api.override import KEY_HEADER
from everloop.api.services import Services
from everloop.core.errors import EverloopError

SERVICE = "inference.GRPCInferenceService"
AHEAD = 32
"""Requests of one stream that are under way at once; further ones are not read."""

OVERRIDE = KEY_HEADER.lower()

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

log = logging.getLogger(__name__)


class Verb(NamedTuple):
    """One that a thread answers."""

    request: type[Any]
    response: type[Any]
    need: Need
    answer: Callable[[Services, Any], Any]
    """A struct or mapping with the names of the response's fields; None: the response has none."""
    model: Callable[[Any], str | None] = lambda _: None
    """Which one a request names."""


def _name(request: Any) -> str:
    name: str = request.name
    return name


def _model_name(request: Any) -> str:
    name: str = request.model_name
    return name


VERBS: dict[str, Verb] = {
    "ServerLive": Verb(pb.ServerLiveRequest, pb.ServerLiveResponse, "open", lambda _services, _asked: {"live": True}),
    "ServerReady": Verb(
        pb.ServerReadyRequest, pb.ServerReadyResponse, "open", lambda services, _asked: {"ready": ready(services)}
    ),
    "ServerMetadata": Verb(
        pb.ServerMetadataRequest,
        pb.ServerMetadataResponse,
        "open",
        lambda services, _asked: oip.server_metadata(services),
    ),
    "ModelReady": Verb(
        pb.ModelReadyRequest,
        pb.ModelReadyResponse,
        "open",
        lambda services, asked: {"ready": oip.model_ready(services, asked.name, asked.version)},
        _name,
    ),
    "ModelMetadata": Verb(
        pb.ModelMetadataRequest,
        pb.ModelMetadataResponse,
        "key",
        lambda services, asked: oip.model_metadata(services, asked.name, asked.version),
        _name,
    ),
    "ModelConfig": Verb(
        pb.ModelConfigRequest,
        pb.ModelConfigResponse,
        "key",
        lambda services, asked: {"config": oip.config(services, asked.name, asked.version)},
        _name,
    ),
    "ModelStatistics": Verb(
        pb.ModelStatisticsRequest,
        pb.ModelStatisticsResponse,
        "key",
        lambda services, asked: oip.statistics(services, asked.name, asked.version),
        _name,
    ),
    "RepositoryIndex": Verb(
        pb.RepositoryIndexRequest,
        pb.RepositoryIndexResponse,
        "key",
        lambda services, asked: {"models": oip.repository_index(services, ready=asked.ready)},
    ),
    "RepositoryModelLoad": Verb(
        pb.RepositoryModelLoadRequest,
        pb.RepositoryModelLoadResponse,
        "admin",
        lambda services, asked: oip.load(services, asked.model_name, by="grpc"),
        _model_name,
    ),
    "RepositoryModelUnload": Verb(
        pb.RepositoryModelUnloadRequest,
        pb.RepositoryModelUnloadResponse,
        "admin",
        lambda services, asked: oip.unload(services, asked.model_name, by="grpc"),
        _model_name,
    ),
}


def _metadata(context: Context, wanted: str) -> str | None:
    for name, value in context.invocation_metadata():
        if name == wanted:
            return value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return None


class InferenceService:
    """`closing` is set when the port closes: streams end then."""

    def __init__(self, services: Services, threads: Threads, closing: asyncio.Event) -> None:
        self._services = services
        self._door = services.door
        self._threads = threads
        self._closing = closing
        self._gathering = Gathering(asyncio.get_running_loop())

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Bytes in, messages or bytes out: what is wrong with a message is for us to say."""
        found = {name: grpc.unary_unary_rpc_method_handler(self._unary(name, verb)) for name, verb in VERBS.items()}
        found["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer)
        found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return found

    def _unary(self, name: str, verb: Verb) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(data: bytes, context: Context) -> bytes:
            try:
                caller = self._caller(context)
                asked = codec.decode(verb.request, data)
                self._door.allow(caller, verb.need, verb.model(asked))
                answer = await self._threads.run(verb.answer, self._services, asked)
                message: bytes = message_of(verb.response, answer or {}).SerializeToString()
                return message
            except Exception as error:
                return self._refuse(name, error, context)

        return handle

    async def _infer(self, data: bytes, context: Context) -> bytes:
        try:
            return (await self._answer(data, self._caller(context), context)).SerializeToString()
        except Exception as error:
            return self._refuse("ModelInfer", error, context)

    async def _answer(
        self, data: bytes, caller: Caller, context: Context, *, final: bool = False
    ) -> pb.ModelInferResponse:
        asked, raw = codec.decode_infer(data)
        if caller.record is not None:
            self._door.allow(caller, "predict", asked.model)
        left = context.time_remaining()
        deadline = None if left is None else time.perf_counter() + left
        await self._gathering.join()
        answer = await oip.infer(
            self._services,
            asked,
            run=self._threads.run,
            caller=caller,
            key=self._key(asked, context),
            deadline=deadline,
        )
        return codec.encode_infer(answer, raw, final=final)

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Several requests at a time, answered in their order. One that fails says so in its place, and the stream goes on."""
        try:
            caller = self._caller(context)
        except EverloopError as error:
            self._refuse("ModelStreamInfer", error, context)
            return
        coming: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(AHEAD)
        under_way: set[asyncio.Task[bytes]] = set()

        async def read() -> None:
            try:
                async for data in until(self._closing, requests):
                    task = asyncio.ensure_future(self._streamed(data, caller, context))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    await coming.put(task)
            finally:
                await coming.put(None)

        reader = asyncio.ensure_future(read())
        try:
            while (task := await coming.get()) is not None:
                yield await task
            await reader
        finally:
            for left in (reader, *under_way):
                left.cancel()

    async def _streamed(self, data: bytes, caller: Caller, context: Context) -> bytes:
        try:
            answer = await self._answer(data, caller, context, final=True)
            return pb.ModelStreamInferResponse(infer_response=answer).SerializeToString()
        except Exception as error:
            self._note("ModelStreamInfer", error)
            failed = pb.ModelInferResponse(id=codec.request_id(data))
            return pb.ModelStreamInferResponse(error_message=words(error), infer_response=failed).SerializeToString()

    def _key(self, asked: InferAsked, context: Context) -> str | None:
        """One of the server's override keys, from whoever asks for a version."""
        return _metadata(context, OVERRIDE) if asked.version else None

    def _caller(self, context: Context) -> Caller:
        """Raises Unauthenticated."""
        door = self._door
        if not door.closed:
            return ANYBODY
        return door.enter(_metadata(context, "authorization"))

    def _refuse(self, name: str, error: Exception, context: Context) -> bytes:
        """Not by `context.abort`: what that raises, as any traceback, keeps the whole call in memory until the collector comes."""
        self._note(name, error)
        error.__traceback__ = None
        code, details, trailers = refusal(error)
        context.set_code(code)
        context.set_details(details)
        context.set_trailing_metadata(trailers)
        return b""

    def _note(self, name: str, error: Exception) -> None:
        self._services.traffic.refuse(f"grpc_{name}", error)
        if not isinstance(error, EverloopError) or error.code == "internal":
            log.error("%s failed", name, exc_info=error)
