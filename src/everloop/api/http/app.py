"""The Starlette app: every route of `http.operations`, under any ASGI server.

What surrounds an endpoint, in this order: what is so of every answer (`http.envelope`), the door and the audit (`http.entrance`), the
endpoint, and an error becomes a problem document. The fast lane (`http.fastlane`) answers predictions before they get here, with
the same bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from everloop.api.audit import DONE
from everloop.api.http import (
    cache_endpoints,
    endpoints,
    entrance,
    key_endpoints,
    oip_endpoints,
    rollout_endpoints,
    showcase_endpoints,
    version_endpoints,
)
from everloop.api.http.bodies import WrongMediaType
from everloop.api.http.endpoint import Api, Endpoint
from everloop.api.http.envelope import Envelope
from everloop.api.http.observation import ROUTE, Observation, note, told_of
from everloop.api.http.operation import Operation
from everloop.api.http.operations import OPERATIONS
from everloop.api.http.problems import Refusal, problem, refusal
from everloop.api.services import Services
from everloop.core.errors import EverloopError, TooLarge
from everloop.serving.tickets import CALLER

Handler = Callable[[Request], Awaitable[Response]]

_MODULES = {
    "versions": version_endpoints,
    "rollouts": rollout_endpoints,
    "inference": oip_endpoints,
    "showcase": showcase_endpoints,
    "cache": cache_endpoints,
    "keys": key_endpoints,
}
"""By tag, where not `endpoints`."""


def create_app(services: Services) -> Starlette:
    """Every operation, over `services`. Starts and stops nothing: `app.server` does."""
    api = Api(services)
    by_path: dict[str, dict[str, Handler]] = {}
    for operation in OPERATIONS:
        handler = _guarded(api, operation, endpoint_of(operation))
        by_path.setdefault(operation.path, {})[operation.method] = handler
    app = Starlette(
        routes=[_route(path, handlers) for path, handlers in by_path.items()],
        exception_handlers={HTTPException: _unrouted},
        middleware=[Middleware(Observation, services=services), Middleware(Envelope, services=services)],
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
        request.scope[ROUTE] = path
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, dispatch, methods=allowed)


def _guarded(api: Api, operation: Operation, endpoint: Endpoint) -> Handler:
    services = api.services
    traffic = services.traffic

    async def answer(request: Request) -> tuple[Response, str]:
        """And the outcome: `done`, or the code of what was wrong."""
        try:
            CALLER.set(entrance.enter(services, operation, request).id or entrance.address_of(request))
            return await endpoint(api, request), DONE
        except EverloopError as error:
            traffic.refuse(operation.id, error)
            made = services.errors.heard(operation.id, error, **told_of(request))
            return _refused(problem(error, request_id=made), close=isinstance(error, TooLarge)), error.code
        except WrongMediaType as error:
            told = refusal(415, "unsupported_media_type", "Unsupported media type", error.message, field=error.field)
            return _refused(told), "unsupported_media_type"
        except ClientDisconnect:
            return Response(status_code=400), "disconnected"  # nobody reads it
        except Exception as error:
            traffic.refuse(operation.id, error)
            made = services.errors.heard(operation.id, error, **told_of(request))
            return _refused(problem(error, request_id=made)), "internal"

    async def handle(request: Request) -> Response:
        if operation.role:
            request.path_params["model"] = getattr(services.showcase, operation.role)
        if not entrance.there(services, operation, request):
            return _refused(nothing_at(request.url.path, elsewhere=True))
        response, outcome = await answer(request)
        note(request, "" if outcome == DONE else outcome)
        return entrance.leave(services, operation, request, response, outcome)

    return handle


def _refused(refused: Refusal, *, close: bool = False) -> Response:
    """`close`: the rest of an oversized body is not worth reading."""
    headers = dict(refused.headers)
    if close:
        headers["connection"] = "close"
    return Response(refused.body, refused.status, headers)


def nothing_at(path: str, *, elsewhere: bool = False) -> Refusal:
    """`elsewhere`: it is on the port of the administration."""
    why = " on this port; what needs the scope admin has a port of its own here" if elsewhere else "; see /docs"
    return refusal(404, "route_not_found", "Not found", f"there is nothing at {path[:200]}{why}")


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
        return _refused(nothing_at(path))
    return _refused(refusal(error.status_code, "http", "Refused", str(error.detail), headers=headers))
