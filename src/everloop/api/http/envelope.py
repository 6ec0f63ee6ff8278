"""Around every request that the app answers, also one that no route takes: names, origins, and the headers of all answers.

In this order: a request for a name that is not this server's is refused (`http.front`); a preflight of CORS is answered; a request that
changes something and comes from a foreign web page is refused; then the app. While the server drains, every answer asks its
connection to close.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everloop.api.http.front import CORS_EXPOSED, CORS_HEADERS, CORS_SECONDS, SECURITY_HEADERS
from everloop.api.http.problems import Refusal, refusal
from everloop.api.services import Services

FOREIGN = refusal(
    403,
    "foreign_origin",
    "Foreign origin",
    "requests that change something are not taken from other sites' pages, but for those in the option cors_origins",
)
MISDIRECTED = refusal(
    421,
    "unknown_host",
    "Unknown host",
    "this server does not answer to the name in the header Host; if it is one of its names, add it to the option allowed_hosts",
    field="Host",
)


class Envelope:
    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        front = self._services.front
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        trusted = origin if origin and front.trusts(origin) else ""
        send = _sealing(send, trusted, any_origin="*" in front.cors_origins, closing=self._services.draining)
        refused: Refusal | None = None
        if front.hosts is not None and not front.hosts.admits(headers.get(b"host", b"").decode("latin-1")):
            refused = MISDIRECTED
        elif trusted and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await _preflight(headers)(scope, receive, send)
            return
        elif not trusted and scope["method"] not in ("GET", "HEAD", "OPTIONS") and foreign(scope):
            refused = FOREIGN
        if refused is not None:
            await Response(refused.body, refused.status, dict(refused.headers))(scope, receive, send)
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


def _preflight(headers: dict[bytes, bytes]) -> Response:
    """Keys come in `Authorization`, which a page sets itself; no cookie is ever looked at, so credentials are not allowed."""
    method = headers[b"access-control-request-method"].decode("latin-1")
    known = method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": method if known else "GET",
            "access-control-allow-headers": CORS_HEADERS,
            "access-control-max-age": CORS_SECONDS,
        },
    )


def _sealing(send: Send, origin: str, *, any_origin: bool, closing: bool) -> Send:
    """Adds what every answer carries. `origin`: of a page that may read it; empty: none."""

    async def sealing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [(k, v) for k, v in message.get("headers", ())]}
            headers = MutableHeaders(raw=message["headers"])
            for name, value in SECURITY_HEADERS:
                headers.setdefault(name, value)
            if origin:
                headers["access-control-allow-origin"] = "*" if any_origin else origin
                headers["access-control-expose-headers"] = CORS_EXPOSED
                if not any_origin:
                    headers.add_vary_header("Origin")
            if closing:
                headers["connection"] = "close"
        await send(message)

    return sealing
