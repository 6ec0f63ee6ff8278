"""Where a server listens: its sockets, taken before anything else, and what is said of them."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from everloop.core.errors import Conflict, InvalidInput, StoreUnavailable

if TYPE_CHECKING:
    from everloop.app.settings import ServerSettings

BACKLOG = 2048


class Address(NamedTuple):
    host: str
    port: int
    grpc_port: int | None = None
    """On the same host; None: gRPC is not spoken."""
    tls: bool = False
    admin: tuple[str, int] | None = None
    """Host and port of the administration, where that has its own."""

    @property
    def url(self) -> str:
        return f"{self._scheme}://{_bracketed(self.host)}:{self.port}"

    @property
    def admin_url(self) -> str | None:
        return None if self.admin is None else f"{self._scheme}://{_bracketed(self.admin[0])}:{self.admin[1]}"

    @property
    def grpc(self) -> str | None:
        """As gRPC's clients take it."""
        return None if self.grpc_port is None else f"{_bracketed(self.host)}:{self.grpc_port}"

    @property
    def _scheme(self) -> str:
        return "https" if self.tls else "http"

    @classmethod
    def of(
        cls,
        listener: socket.socket,
        grpc_port: int | None = None,
        *,
        tls: bool = False,
        admin: socket.socket | None = None,
    ) -> Address:
        host, port = listener.getsockname()[:2]
        return cls(host, port, grpc_port, tls, None if admin is None else admin.getsockname()[:2])


def bind(settings: ServerSettings) -> socket.socket:
    """The listening socket of a server. Raises InvalidInput (no such address, a port for the superuser), Conflict (it is taken),
    StoreUnavailable (it cannot be had)."""
    return listen(settings.host, settings.port, "")


def bind_admin(settings: ServerSettings) -> socket.socket | None:
    """That of its administration, where it has its own. Raises as `bind`."""
    security = settings.security
    return None if security.admin_port is None else listen(security.admin_host, security.admin_port, "admin_")


def listen(host: str, port: int, option: str) -> socket.socket:
    """`option`: how the names of both options begin."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, OverflowError) as error:
        raise InvalidInput(f"{option}host: cannot listen on {host!r}: {error}", field=f"{option}host") from error
    # `localhost` may be both; clients try IPv4 too.
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            flag = "admin_port" if option else "--port"
            raise Conflict(
                f"port {port} on {host} is taken by another program; choose another ({flag}), or 0 for any free one",
                field=f"{option}port",
            ) from error
        if error.errno == errno.EACCES:
            raise InvalidInput(
                f"{option}port: this user may not listen on port {port}; choose one above 1023", field=f"{option}port"
            ) from error
        raise StoreUnavailable(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
