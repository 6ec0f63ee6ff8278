"""Before an endpoint runs and after: the door, the port of the administration, the audit, the headers of a quota.

The fast lane asks the door itself. A request that it hands over to the app has been let in already, and is not counted twice: its
caller is in the scope, under `CALLER`.
"""

from __future__ import annotations

from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from everloop.api import audit
from everloop.api.door import ANYBODY, Caller
from everloop.api.http.front import quota_headers
from everloop.api.http.operation import Operation
from everloop.api.services import Services
from everloop.core.errors import EverloopError

CALLER = "everloop.caller"
_ADMITTED = "everloop.admitted"


def enter(services: Services, operation: Operation, request: Request) -> Caller:
    """Whoever calls, if they may. Raises Unauthenticated, Forbidden, QuotaExceeded."""
    scope = request.scope
    known: Caller | None = scope.get(CALLER)
    if known is not None:
        return known
    door = services.door
    if operation.need == "open" or not door.closed:
        scope[CALLER] = ANYBODY
        scope[_ADMITTED] = True
        return ANYBODY
    try:
        caller = scope[CALLER] = door.enter(request.headers.get("authorization"))
        door.allow(caller, operation.need, model_of(operation, request))
    except EverloopError as error:
        services.refusals.tell(operation.id, scope.get(CALLER), address=address_of(request), code=error.code)
        raise
    scope[_ADMITTED] = True
    return caller


def caller_of(request: Request) -> Caller:
    """Whom `enter` has let in."""
    caller: Caller = request.scope.get(CALLER, ANYBODY)
    return caller


def there(services: Services, operation: Operation, request: Request) -> bool:
    """Whether the operation is there at all, on the port that was asked."""
    port = services.front.admin_port
    return port is None or operation.need != "admin" or (request.scope.get("server") or ("", None))[1] == port


def leave(services: Services, operation: Operation, request: Request, response: Response, outcome: str) -> Response:
    """`outcome`: `done`, or the code of the error."""
    caller: Caller | None = request.scope.get(CALLER)
    if caller is None:
        return response
    if caller.bucket is not None:
        response.headers.update(dict(quota_headers(caller)))
    if operation.need == "admin" and _ADMITTED in request.scope:
        audit.audit(
            services,
            operation.id,
            caller,
            address=address_of(request),
            outcome=outcome,
            model=request.path_params.get("model") or _made(response),
            target=request.url.path,
            reading=operation.method == "GET",
        )
    return response


def model_of(operation: Operation, request: Request) -> str | None:
    """Which model the operation concerns; None: the server."""
    found: str | None = request.path_params.get("model")
    return request.query_params.get("model") if found is None and operation.id == "events" else found


def _made(response: Response) -> str:
    """The model that a request has made, which its path does not name."""
    return unquote(response.headers.get("location", "").removeprefix("/v1/models/"))


def address_of(request: Request) -> str:
    return request.client.host if request.client is not None else ""
