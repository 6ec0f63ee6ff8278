"""Fetching an image from a URL that somebody else wrote, without letting them reach what only this machine can reach.

    URL ─► scheme, port, no credentials ─► resolve ─► every address is on the public internet ─► connect to one of *those* ─► read, bounded
     ▲                                                                                                       │
     └────────────────────────────── a redirect is such a URL, too ◄──────────────────────────────────────────┘

Theory of operation (OWASP, Server-Side Request Forgery Prevention). A name is resolved once, and the connection goes to an address that was
looked at, so that no second answer of the name server can lead elsewhere (DNS rebinding). One address of several that is not public
refuses them all. Proxies of the environment are not used. One deadline stands over everything: a server that sends a byte now and then
gains no time, since every wait is bounded by what is left. Only resolving cannot be interrupted; it ends by the system's own limit.
"""

from __future__ import annotations

import functools
import http.client
import io
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import everloop
from everloop.core.errors import InvalidInput, NotSupported, TooLarge
from everloop.showcase.config import ShowcaseConfig

FIELD = "image_url"
PORTS = (80, 443)
"""No others: what listens elsewhere is no web site, and whether something does is nobody's business."""
LONGEST_URL = 2048
_MOST_ADDRESSES = 3
"""Of a name, that are tried."""
_CHUNK = 64 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
_PUBLIC_6 = ipaddress.ip_network("2000::/3")
"""Global unicast, as far as any was given away (IANA, IPv6 Global Unicast Address Assignments)."""
_NOT_PUBLIC_4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
            "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
            "168.63.129.16/32",  # the host of a machine in Azure, which tells it its secrets
        ),
    )
)  # fmt: skip
_NOT_PUBLIC_6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2000::/16",  # given to nobody
            "2001::/23",  # the IETF's own: Teredo (2001::/32), which holds an IPv4 address that may be any, ORCHID, benchmarks
            "2001:db8::/32", "3fff::/20",  # documentation
            "2002::/16",  # 6to4: an IPv4 address, again
            "3ffe::/16",  # the 6bone, given back
        ),
    )
)  # fmt: skip
"""IANA's registries of special-purpose addresses (RFC 6890) as of 2025, for the tables of `ipaddress` are as old as the Python is."""
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""What an interface's identifier begins with that ends in an IPv4 address, which may be any (RFC 5214)."""
_FAILED = (OSError, http.client.HTTPException)
_BESIDE = 1 << 20
"""Bytes that may come beside an image: heads, and what chunks are wrapped in."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Of a name and a port: addresses. Raises OSError."""


def resolve(host: str, port: int) -> list[str]:
    """As the system does it."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def is_public(address: Address) -> bool:
    """Whether it belongs to a machine on the internet, and to nothing nearer: not this machine, its network, its link or its cloud's
    metadata, no carrier's inside (100.64.0.0/10), no group, and no address of version 4 in the clothes of version 6."""
    if isinstance(address, ipaddress.IPv6Address):
        if (
            address not in _PUBLIC_6
            or any(address in net for net in _NOT_PUBLIC_6)
            or (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP
        ):
            return False
    elif any(address in net for net in _NOT_PUBLIC_4):
        return False
    return address.is_global and not address.is_multicast


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The system's certificates, which take tens of milliseconds to read."""
    return ssl.create_default_context()


@dataclass(frozen=True)
class Way:
    """To the internet; in tests, to a server on this machine."""

    resolve: Resolve = resolve
    allowed: Callable[[Address], bool] = is_public
    ports: Sequence[int] = PORTS
    context: Callable[[], ssl.SSLContext] = _trusted


INTERNET = Way()


def fetch(url: str, config: ShowcaseConfig, way: Way = INTERNET) -> bytes:
    """What is there. Takes as long as `url_timeout_sec`: never call it on an event loop.

    Raises NotSupported (switched off), InvalidInput (no such URL, a private address, an error, too late), TooLarge."""
    if not config.image_urls:
        raise NotSupported(
            f"{FIELD}: this server fetches nothing from URLs: send the file as image, in base64 or in a form; whoever runs the server "
            "can allow it, showcase.image_urls",
            field=FIELD,
        )
    deadline = monotonic() + config.url_timeout_sec
    for _ in range(config.url_redirects + 1):
        try:
            with _Exchange(url, way, deadline, config.url_max_bytes) as exchange:
                if exchange.redirect is None:
                    return exchange.read(config.url_max_bytes)
                url = _joined(url, exchange.redirect)
        except TimeoutError as error:
            raise _wrong(f"it did not come within {config.url_timeout_sec:g} seconds") from error
        except _FAILED as error:
            raise _wrong(f"it cannot be fetched: {_told(error)}") from error
    raise _wrong(f"it leads elsewhere more than {config.url_redirects} times")


class _Exchange:
    """One request, up to the answer's head."""

    def __init__(self, url: str, way: Way, deadline: float, most: int) -> None:
        parts, port = _checked(url, way)
        host = parts.hostname or ""
        self._connection = _Connection(host, port, _addresses(host, port, way), deadline, most)
        if parts.scheme == "https":
            self._connection.context = way.context()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": f"everloop/{everloop.__version__}", "Accept": "image/*", "Connection": "close"}
        try:
            self._connection.request("GET", _quoted(target), headers=headers)
            self._answer = self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise

    @property
    def redirect(self) -> str | None:
        return self._answer.getheader("Location") if self._answer.status in _REDIRECTS else None

    def read(self, most: int) -> bytes:
        """Raises InvalidInput, TooLarge."""
        answer = self._answer
        if answer.status != 200:
            raise _wrong(f"its server answered {answer.status}")
        if answer.getheader("Content-Encoding", "identity").lower() != "identity":
            raise _wrong("its server sent it compressed, though nobody asked for that")
        parts, left = [], most
        if (answer.length or 0) <= most:
            while chunk := self._piece(min(_CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    break
                parts.append(chunk)
            else:
                if answer.length:
                    raise _wrong("it was cut short")
                return b"".join(parts)
        raise TooLarge(f"{FIELD}: it is larger than {most:,} bytes", field=FIELD)

    def _piece(self, most: int) -> bytes:
        try:
            return self._answer.read(most)
        except ValueError as error:  # the size of a chunk is below zero
            raise _wrong("its server does not speak HTTP") from error

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()


class _Connection(http.client.HTTPConnection):
    """To an address that was looked at, under a deadline."""

    def __init__(self, host: str, port: int, addresses: Sequence[str], deadline: float, most: int) -> None:
        super().__init__(host, port)
        self._most = most
        self.context: ssl.SSLContext | None = None
        self._addresses = addresses
        self._deadline = deadline

    def connect(self) -> None:
        """Raises OSError."""
        failed: OSError | None = None
        for address in self._addresses:
            try:
                plain = socket.create_connection((address, self.port), timeout=_left(self._deadline))
            except OSError as error:
                failed = error
                continue
            try:
                self.sock = _Bounded(
                    plain if self.context is None else self._secured(plain), self._deadline, self._most
                )
            except BaseException:
                plain.close()
                raise
            return
        assert failed is not None
        raise failed

    def _secured(self, plain: socket.socket) -> socket.socket:
        assert self.context is not None
        plain.settimeout(_left(self._deadline))
        return self.context.wrap_socket(plain, server_hostname=self.host)


class _Bounded:
    """What `http.client` needs of a socket; nothing on it waits beyond the deadline.

    `http.client` closes the socket as soon as it has the head of an answer that ends with the connection, and reads the body after that:
    as with any socket, what `makefile` gave stays open until it is closed itself."""

    def __init__(self, inner: socket.socket, deadline: float, most: int) -> None:
        self._inner = inner
        self._deadline = deadline
        self._most = most

    def sendall(self, data: Any) -> None:
        self._inner.settimeout(_left(self._deadline))
        self._inner.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._inner, self._deadline, self._most))

    def close(self) -> None:
        self._inner.close()


class _Reader(io.RawIOBase):
    """Ends after an image of `most` bytes and a little: a chunk of -1 bytes is to `http.client` whatever comes."""

    def __init__(self, inner: socket.socket, deadline: float, most: int) -> None:
        self._inner = inner
        self._deadline = deadline
        self._left = most + _BESIDE
        self._raw = inner.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._inner.settimeout(_left(self._deadline))
        got = self._raw.readinto(buffer) if self._left > 0 else 0
        self._left -= got or 0
        return got

    def close(self) -> None:
        self._raw.close()
        super().close()


def _checked(url: str, way: Way) -> tuple[SplitResult, int]:
    """Its parts and its port. Raises InvalidInput."""
    if len(url) > LONGEST_URL or any(ord(c) <= 32 or ord(c) == 127 or c == "\\" for c in url):
        raise _wrong(f"expected a URL of at most {LONGEST_URL} characters, without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80
    except ValueError as error:
        raise _wrong(f"it is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _wrong("expected http://… or https://…")
    if parts.username is not None or parts.password is not None:
        raise _wrong("credentials in a URL are not used")
    if way.ports and port not in way.ports:
        raise _wrong(f"expected port {' or '.join(map(str, way.ports))}, got {port}")
    return parts, port


def _joined(url: str, location: str) -> str:
    """Raises InvalidInput."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise _wrong("it leads to what is no URL") from error


def _addresses(host: str, port: int, way: Way) -> list[str]:
    """All of them allowed. Raises InvalidInput."""
    try:
        name = host if ":" in host else host.encode("idna").decode()
        found = way.resolve(name, port)
    except (OSError, UnicodeError) as error:
        raise _wrong(f"there is no host {host[:100]!r}") from error
    for each in found:
        if not way.allowed(ipaddress.ip_address(each.partition("%")[0])):
            raise _wrong(f"{host[:100]!r} is no host on the public internet")
    if not found:
        raise _wrong(f"there is no host {host[:100]!r}")
    return list(found)[:_MOST_ADDRESSES]


def _left(deadline: float) -> float:
    """Raises TimeoutError."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError("too late")
    return left


def _quoted(target: str) -> str:
    from urllib.parse import quote

    return quote(target, safe="/%:@!$&'()*+,;=?~-._")


def _told(error: BaseException) -> str:
    """Without what the other side may have written."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _wrong(what: str) -> InvalidInput:
    return InvalidInput(f"{FIELD}: {what}", field=FIELD)
