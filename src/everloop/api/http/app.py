"""The Starlette app: every route of `http.operations`, under any ASGI server.

What surrounds an endpoint is here and in this order: a request that a foreign web page sent is refused, the endpoint runs, an
error becomes a problem document, and while the server drains every answer asks its connection to close. The fast lane
(`http.fastlane`) answers predictions before they get here, with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everloop.api.http import endpoints, rollout_endpoints, version_endpoints
from everloop.api.http.bodies import WrongMediaType
from everloop.api.http.endpoint import Api, Endpoint
from everloop.api.http.operation import Operation
from everloop.api.http.operations import OPERATIONS
from everloop.api.http.problems import Refusal, problem, refusal
from everloop.api.services import Services
from everloop.core.errors import EverloopError, TooLarge

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

_MODULES = {"versions": version_endpoints, "rollouts": rollout_endpoints}
"""By tag, where not `endpoints`."""


def create_app(services: Services) -> Starlette:
    """Every operation, over `services`. Starts and stops nothing: `app.server` does."""
    api = Api(services)
    by_path: dict[str, dict[str, Handler]] = {}
    for operation in OPERATIONS:
        handler = _guarded(api, operation.id, endpoint_of(operation))
        by_path.setdefault(operation.path, {})[operation.method] = handler
    app = Starlette(
        routes=[_route(path, handlers) for path, handlers in by_path.items()],
        exception_handlers={HTTPException: _unrouted},
        middleware=[Middleware(_Envelope, services=services)],
        lifespan=_lifespan(api),
    )
    app.router.redirect_slashes = False
    app.state.api = api
    return app


def endpoint_of(operation: Operation) -> Endpoint:
    found: Endpoint = getattr(_MODULES.get(operation.tag, endpoints), operation.id)
    return found


def _lifespan(api: Api) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        api.close()

    return lifespan


def _route(path: str, handlers: dict[str, Handler]) -> Route:
    """One route a path, so that a wrong method is told all the right ones."""
    allowed = ["HEAD", *handlers] if "GET" in handlers else [*handlers]

    async def dispatch(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, dispatch, methods=allowed)


def _guarded(api: Api, operation: str, endpoint: Endpoint) -> Handler:
    traffic = api.services.traffic

    async def handle(request: Request) -> Response:
        try:
            return await endpoint(api, request)
        except EverloopError as error:
            traffic.refuse(operation, error)
            if error.fault != "caller" and error.code == "internal":
                log.exception("%s %s failed", request.method, request.url.path)
            return _refused(problem(error), close=isinstance(error, TooLarge))
        except WrongMediaType as error:
            return _refused(
                refusal(415, "unsupported_media_type", "Unsupported media type", error.message, field=error.field)
            )
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as error:
            traffic.refuse(operation, error)
            log.exception("%s %s failed", request.method, request.url.path)
            return _refused(problem(error))

    return handle


def _refused(refused: Refusal, *, close: bool = False) -> Response:
    """`close`: the rest of an oversized body is not worth reading."""
    headers = dict(refused.headers)
    if close:
        headers["connection"] = "close"
    return Response(refused.body, refused.status, headers)


async def _unrouted(request: Request, error: Exception) -> Response:
    """What Starlette's router itself refuses: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    headers = tuple((k.lower(), v) for k, v in (error.headers or {}).items())
    if error.status_code == 405:
        allowed = ", ".join(sorted(dict(headers).get("allow", "").split(", ")))
        return _refused(
            refusal(
                405,
                "method_not_allowed",
                "Method not allowed",
                f"{request.method} is not possible on {path}; it takes {allowed}",
                headers=(("allow", allowed),),
            )
        )
    if error.status_code == 404:
        return _refused(refusal(404, "route_not_found", "Not found", f"there is nothing at {path}; see /docs"))
    return _refused(refusal(error.status_code, "http", "Refused", str(error.detail), headers=headers))


class _Envelope:
    """Around every request: refuses those of foreign web pages, and while draining asks connections to close.

    A page of another site that the user of this machine has open can send requests to 127.0.0.1 without asking (reading the
    answer it cannot); browsers mark them with `Origin`. Nothing that changes state is done for those."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._services.draining:
            send = _closing(send)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and foreign(scope):
            refused = refusal(
                403,
                "foreign_origin",
                "Foreign origin",
                "requests that change something are not taken from other sites' pages",
            )
            await _refused(refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def foreign(scope: Scope) -> bool:
    """Whether a browser says that this request comes from a page of another origin than the server's own.

    The rule of Go's `http.CrossOriginProtection`: what `Sec-Fetch-Site` says, which no page can forge and no proxy changes;
    from older browsers, whether `Origin` names the host that was asked. Programs send neither."""
    headers = dict(scope["headers"])
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    if origin is None:
        return False
    return bool(origin.partition(b"://")[2].lower() != headers.get(b"host", b"").lower())


def _closing(send: Send) -> Send:
    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(k, v) for k, v in message.get("headers", ()) if k.lower() != b"connection"]
            message = {**message, "headers": [*kept, (b"connection", b"close")]}
        await send(message)

    return closing
