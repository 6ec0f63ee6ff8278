"""Calls over gRPC that somebody looks at: as `http.observation` does, with metadata in the place of headers.

Statuses are told in HTTP's numbers, as those of the other requests beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias

from everloop.api.observing import CLIENT_GONE, Observed, checked_id
from everloop.api.status import status_of
from everloop.core.errors import EverloopError
from everloop.serving.tickets import WATCHER

if TYPE_CHECKING:
    import grpc

    from everloop.api.door import Caller
    from everloop.api.services import Services

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
P = ParamSpec("P")

Handle: TypeAlias = Callable[Concatenate[bytes, Context, P], Awaitable[bytes]]


def observed(services: Services, method: str, handle: Handle[P]) -> Handle[P]:
    """What answers one call, or one request of a stream; `handle` itself where nobody looks. `method`: with its service, `a.B/C`."""
    observer = services.observer
    if observer is None:
        return handle

    async def watched(data: bytes, context: Context, /, *args: P.args, **named: P.kwargs) -> bytes:
        traceparent = next((str(value) for name, value in context.invocation_metadata() if name == "traceparent"), "")
        seen = observer.begin(
            "POST",
            f"/{method}",
            route=f"/{method}",
            request_id=request_id_of(context),
            client=context.peer().partition(":")[2],
            traceparent=traceparent,
        )
        seen.status = 200
        token = WATCHER.set(seen)
        try:
            return await handle(data, context, *args, **named)
        except asyncio.CancelledError:
            seen.status = CLIENT_GONE
            raise
        finally:
            WATCHER.reset(token)
            observer.end(seen, seen.status)

    return watched


def request_id_of(context: Context) -> str:
    """The caller's own; empty if it has none."""
    for name, value in context.invocation_metadata():
        if name == "x-request-id":
            return checked_id(str(value))
    return ""


def note(error: Exception) -> None:
    """What the call that this task answers is refused with."""
    seen = WATCHER.get()
    if isinstance(seen, Observed):
        seen.code = error.code if isinstance(error, EverloopError) else "internal"
        seen.status = status_of(error).http


def note_caller(caller: Caller) -> None:
    seen = WATCHER.get()
    if isinstance(seen, Observed):
        seen.caller = caller.name if caller.id else ""
