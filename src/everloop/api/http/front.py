"""What a server shows to whom, as far as HTTP alone knows: names that it answers to, origins whose pages may call it, the port of its
administration. And the headers that every answer carries.

Names. A page of an attacker can let its own host name point to 127.0.0.1 and then speak to a server there as to its own (DNS rebinding);
the browser sees no foreign origin, but the `Host` header still says the page's name. So a server that asks nobody for a key answers only
to addresses, to `localhost`, and to the names that it was told.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from everloop.api.door import Caller

SECURITY_HEADERS: tuple[tuple[str, str], ...] = (("x-content-type-options", "nosniff"),)
"""Of every answer. What is shown as a page says more (`http.docs_page`)."""
HSTS = ("strict-transport-security", "max-age=31536000")
"""Of every answer over TLS: RFC 6797."""
CORS_HEADERS = (
    "authorization, content-type, idempotency-key, everloop-key, everloop-timeout, everloop-unit, everloop-version, "
    "inference-header-content-length, last-event-id, traceparent, tracestate, x-request-id"
)
CORS_EXPOSED = "inference-header-content-length, ratelimit, ratelimit-policy, retry-after, traceparent, x-request-id"
CORS_SECONDS = "600"


class Hosts:
    """Which `Host` headers are answered: addresses, `localhost` and what is below it, and the given names (`*.example.org`: all below)."""

    __slots__ = ("_below", "_names")

    def __init__(self, names: Iterable[str] = ()) -> None:
        given = {name.lower().rstrip(".") for name in names} | {"localhost", "*.localhost"}
        self._names = frozenset(name for name in given if not name.startswith("*."))
        self._below = tuple(name[1:] for name in given if name.startswith("*."))

    def admits(self, header: str) -> bool:
        name = _without_port(header).lower().rstrip(".")
        return name in self._names or name.endswith(self._below) or _is_address(name)


@dataclass(frozen=True)
class Front:
    hosts: Hosts | None = None
    """None: any name."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call, like `https://app.example.org`; `*`: all."""
    admin_port: int | None = None
    """The only port on which what needs the scope `admin` is there; None: every port."""

    def trusts(self, origin: str) -> bool:
        return "*" in self.cors_origins or origin.lower() in self.cors_origins


def quota_headers(caller: Caller) -> tuple[tuple[str, str], ...]:
    """draft-ietf-httpapi-ratelimit-headers: what the caller may ask for, and what is left of it."""
    bucket = caller.bucket
    if bucket is None:
        return ()
    return (
        ("ratelimit-policy", f'"key";q={bucket.capacity};w={bucket.window}'),
        ("ratelimit", f'"key";r={bucket.left};t={bucket.reset}'),
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
