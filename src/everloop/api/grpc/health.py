"""`grpc.health.v1`: readiness as load balancers ask for it, once (`Check`) or for as long as they like (`Watch`).

The empty name stands for the server, `inference.GRPCInferenceService` for its one service; both are as ready as `api.health.ready`
says. While the server drains they are NOT_SERVING and still answer; watchers are let go when the port closes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2

from everloop.api.health import ready
from everloop.api.http.threads import Threads
from everloop.api.services import Services

SERVICE = "grpc.health.v1.Health"
WATCH_SECONDS = 1.0
"""How soon a watcher learns of a change other than draining, which it learns at once."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Status = health_pb2.HealthCheckResponse.ServingStatus


class Health:
    """`names`: of the services that are asked about. `closing` is set when the port closes."""

    def __init__(self, services: Services, threads: Threads, names: tuple[str, ...], closing: asyncio.Event) -> None:
        self._services = services
        self._threads = threads
        self._names = names
        self._closing = closing

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        forms: dict[str, Any] = {
            "request_deserializer": health_pb2.HealthCheckRequest.FromString,
            "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
        }
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, **forms),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, **forms),
        }

    async def _check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:
        status = await self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details(f"there is no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def _watch(self, request: health_pb2.HealthCheckRequest, _: Context) -> AsyncIterator[Any]:
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def drains() -> None:
            loop.call_soon_threadsafe(changed.set)

        forget = self._services.on_drain(drains)
        told = None
        try:
            while True:
                status = await self._status(request.service)
                if status != told:
                    yield health_pb2.HealthCheckResponse(status=status)
                    told = status
                if self._services.draining:
                    await self._closing.wait()
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), WATCH_SECONDS)
        finally:
            forget()

    async def _status(self, name: str) -> Any:
        if name and name not in self._names:
            return _Status.SERVICE_UNKNOWN
        # The parts are looked at on a thread: one of them reads the journal.
        up = not self._services.draining and await self._threads.run(ready, self._services)
        return _Status.SERVING if up else _Status.NOT_SERVING
