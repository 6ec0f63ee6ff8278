"""Around everything else that the app does: a request's id comes in and goes out, and whoever looks at single requests does.

What the fast lane does for its own requests (`http.connection`), with the same headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everloop.api.http.entrance import CALLER
from everloop.api.observing import CLIENT_GONE, checked_id
from everloop.api.services import Services
from everloop.serving.tickets import WATCHER

if TYPE_CHECKING:
    from everloop.api.door import Caller
    from everloop.api.observing import Observed, Observer

OBSERVED = "everloop.observed"
"""Of a scope: the `Observed`, for who answers to say more of it."""
ROUTE = "everloop.route"
"""Of a scope: the path of its operation, with the names of its parts."""
REQUEST_ID = "everloop.request_id"
"""Of a scope: the caller's own id; empty if it has none."""

LONGEST_NAME = 128
"""Characters of a model's name that are told of, whether there is such a model or not."""


class Observation:
    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in (b"x-request-id", b"traceparent"):
                found.setdefault(name, value)
        request_id = scope[REQUEST_ID] = checked_id(found.get(b"x-request-id", b"").decode("latin-1"))
        observer = self._services.observer
        if observer is None:
            await self._app(scope, receive, _echoing(send, request_id) if request_id else send)
            return
        observed = scope[OBSERVED] = observer.begin(
            scope["method"],
            scope["path"],
            request_id=request_id,
            client=scope.get("client"),
            traceparent=found.get(b"traceparent", b"").decode("latin-1"),
        )
        watched = _Watched(send, request_id, observed, observer)
        token = WATCHER.set(observed)
        try:
            await self._app(scope, receive, watched.send)
        finally:
            WATCHER.reset(token)
            observed.route = scope.get(ROUTE, "")
            watched.end()


class _Watched:
    """Sees the answer go out; `end` says that nothing more will."""

    def __init__(self, send: Send, request_id: str, observed: Observed, observer: Observer) -> None:
        self._send = send
        self._request_id = request_id
        self._observed = observed
        self._observer = observer
        self._status = CLIENT_GONE

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = _with(message, self._request_id, self._observed.traceresponse)
        await self._send(message)

    def end(self) -> None:
        self._observer.end(self._observed, self._status)


def told_of(request: Request) -> dict[str, str]:
    """What a line of an error says of its request."""
    return {"request_id": request.scope[REQUEST_ID], "model": request.path_params.get("model", "")[:LONGEST_NAME]}


def note(request: Request, code: str) -> None:
    """What became of it: the code of its error, empty where there is none."""
    observed: Observed | None = request.scope.get(OBSERVED)
    if observed is not None:
        observed.code = code
        caller: Caller | None = request.scope.get(CALLER)
        if caller is not None and caller.id:
            observed.caller = caller.name
        observed.model = observed.model or request.path_params.get("model", "")[:LONGEST_NAME]


def _echoing(send: Send, request_id: str) -> Send:
    async def echoing(message: Message) -> None:
        await send(_with(message, request_id) if message["type"] == "http.response.start" else message)

    return echoing


def _with(message: Message, request_id: str, traceresponse: str = "") -> Message:
    headers = [*message.get("headers", ())]
    if request_id:
        headers.append((b"x-request-id", request_id.encode()))
    if traceresponse:
        headers.append((b"traceresponse", traceresponse.encode()))
    return {**message, "headers": headers}
