"""`inference.GRPCInferenceService`: the verbs of `api.oip`, decoded, asked and encoded.

Predictions (`ModelInfer`, and each request of a `ModelStreamInfer`) are awaited on the event loop, where the batcher puts them
together with those of HTTP; what reads or writes a store runs on a thread. A caller that goes or whose deadline passes cancels
its call, and what has not run of it is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc

from everloop.api import audit, oip
from everloop.api.door import ANYBODY, Caller, Need
from everloop.api.grpc import codec
from everloop.api.grpc._generated import inference_pb2 as pb
from everloop.api.grpc.codec import message_of
from everloop.api.grpc.gathering import Gathering
from everloop.api.grpc.observation import note, note_caller, observed, request_id_of
from everloop.api.grpc.reflection import until
from everloop.api.grpc.refusals import refusal, words
from everloop.api.grpc.verbs import VERBS, Verb, model_of
from everloop.api.http.threads import Threads
from everloop.api.inference import InferAsked
from everloop.api.override import KEY_HEADER
from everloop.api.services import Services
from everloop.core.errors import EverloopError, NotSupported
from everloop.serving.tickets import CALLER

SERVICE = "inference.GRPCInferenceService"
AHEAD = 32
"""Requests of one stream that are under way at once; further ones are not read."""

OVERRIDE = KEY_HEADER.lower()

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class InferenceService:
    """`closing` is set when the port closes: streams end then."""

    def __init__(self, services: Services, threads: Threads, opening: Threads, closing: asyncio.Event) -> None:
        self._services = services
        self._door = services.door
        self._calls = services.traffic.calls
        self._threads = threads
        self._opening = opening
        """For what may take as long as opening a model does."""
        self._closing = closing
        self._gathering = Gathering(asyncio.get_running_loop())

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Bytes in, messages or bytes out: what is wrong with a message is for us to say."""
        unary = {name: self._unary(name, verb) for name, verb in VERBS.items()}
        unary["ModelInfer"] = self._infer
        found = {
            name: grpc.unary_unary_rpc_method_handler(observed(self._services, f"{SERVICE}/{name}", handle))
            for name, handle in unary.items()
        }
        found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return found

    def _unary(self, name: str, verb: Verb) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(data: bytes, context: Context) -> bytes:
            self._calls[name] += 1
            try:
                asked = codec.decode(verb.request, data)
                caller = self._admit(verb, model_of(asked), context)
                answer = await self._run(verb, asked, caller, context)
                message: bytes = message_of(verb.response, answer or {}).SerializeToString()
                return message
            except Exception as error:
                return self._refuse(name, error, context)

        return handle

    def _admit(self, verb: Verb, model: str | None, context: Context) -> Caller:
        """Raises Unauthenticated, Forbidden, QuotaExceeded, NotSupported."""
        if verb.need == "open" or not (self._door.closed or verb.need == "admin"):
            return ANYBODY
        port = self._services.front.admin_port
        if verb.need == "admin" and port is not None:
            raise NotSupported(f"what changes the server is done on its own port, {port}, and over HTTP")
        caller = self._caller(verb.operation, context)
        need = "key" if verb.need == "own" and model is not None else verb.need
        self._allow(verb.operation, caller, need, model, context)
        return caller

    async def _run(self, verb: Verb, asked: Any, caller: Caller, context: Context) -> Any:
        threads = self._opening if verb.slow else self._threads
        if verb.need != "admin":
            return await threads.run(verb.answer, self._services, asked, caller)
        outcome = "internal"
        try:
            answer = await threads.run(verb.answer, self._services, asked, caller)
            outcome = audit.DONE
            return answer
        except EverloopError as error:
            outcome = error.code
            raise
        finally:
            audit.audit(
                self._services,
                verb.operation,
                caller,
                address=_address(context),
                outcome=outcome,
                model=model_of(asked) or "",
                target=model_of(asked) or "",
                via="grpc",
            )

    async def _infer(self, data: bytes, context: Context) -> bytes:
        self._calls["ModelInfer"] += 1
        try:
            return (await self._answer(data, self._caller("infer", context), context)).SerializeToString()
        except Exception as error:
            return self._refuse("ModelInfer", error, context)

    async def _answer(
        self, data: bytes, caller: Caller, context: Context, *, final: bool = False
    ) -> pb.ModelInferResponse:
        asked, raw = codec.decode_infer(data)
        if self._door.closed:
            self._allow("infer", caller, "predict", asked.model, context)
        CALLER.set(caller.id or _address(context))
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
            caller = self._caller("infer", context)
        except EverloopError as error:
            self._refuse("ModelStreamInfer", error, context)
            return
        streamed = observed(self._services, f"{SERVICE}/ModelStreamInfer", self._streamed)
        coming: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(AHEAD)
        under_way: set[asyncio.Task[bytes]] = set()

        async def read() -> None:
            try:
                async for data in until(self._closing, requests):
                    task = asyncio.ensure_future(streamed(data, context, caller))
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

    async def _streamed(self, data: bytes, context: Context, caller: Caller) -> bytes:
        self._calls["ModelStreamInfer"] += 1
        try:
            answer = await self._answer(data, caller, context, final=True)
            return pb.ModelStreamInferResponse(infer_response=answer).SerializeToString()
        except Exception as error:
            self._note("ModelStreamInfer", error, context)
            failed = pb.ModelInferResponse(id=codec.request_id(data))
            return pb.ModelStreamInferResponse(error_message=words(error), infer_response=failed).SerializeToString()

    def _key(self, asked: InferAsked, context: Context) -> str | None:
        """One of the server's override keys, from whoever asks for a version."""
        return _metadata(context, OVERRIDE) if asked.version else None

    def _caller(self, operation: str, context: Context) -> Caller:
        """Raises Unauthenticated."""
        door = self._door
        if not door.closed:
            return ANYBODY
        try:
            caller = door.enter(_metadata(context, "authorization"))
        except EverloopError as error:
            self._services.refusals.tell(operation, None, address=_address(context), code=error.code)
            raise
        note_caller(caller)
        return caller

    def _allow(self, operation: str, caller: Caller, need: Need, model: str | None, context: Context) -> None:
        """Raises Forbidden, QuotaExceeded."""
        try:
            self._door.allow(caller, need, model)
        except EverloopError as error:
            self._services.refusals.tell(operation, caller, address=_address(context), code=error.code)
            raise

    def _refuse(self, name: str, error: Exception, context: Context) -> bytes:
        """Not by `context.abort`: what that raises, as any traceback, keeps the whole call in memory until the collector comes."""
        made = self._note(name, error, context)
        error.__traceback__ = None
        code, details, trailers = refusal(error)
        if made:
            trailers = (*trailers, ("x-request-id", made))
        context.set_code(code)
        context.set_details(details)
        context.set_trailing_metadata(trailers)
        return b""

    def _note(self, name: str, error: Exception, context: Context) -> str:
        """Returns the id under which the log has it, where the caller gave none."""
        note(error)
        self._services.traffic.refuse(f"grpc_{name}", error)
        return self._services.errors.heard(name, error, request_id=request_id_of(context))


def _address(context: Context) -> str:
    """Without its kind and its port: `ipv4:127.0.0.1:40000`, `ipv6:%5B::1%5D:40000`, `unix:`."""
    peer: str = unquote(context.peer())
    return peer.partition(":")[2].rpartition(":")[0].strip("[]")


def _metadata(context: Context, wanted: str) -> str | None:
    for name, value in context.invocation_metadata():
        if name == wanted:
            return value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return None
