"""The gRPC side of a server: its port, its services, and an end that loses nothing.

It runs on the event loop of the HTTP server, so that one lane's batcher puts the rows of both together. `app.server` starts it
before that one is ready and stops it when that one closes its port. From `stop` on no call is accepted, those under way get
their answer, for at most `grace` seconds; streams, which would never end by themselves, end after what they have been asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import grpc

from everloop.api.grpc import reflection
from everloop.api.grpc.health import SERVICE as HEALTH
from everloop.api.grpc.health import Health
from everloop.api.grpc.service import SERVICE, InferenceService
from everloop.api.http.endpoint import Api
from everloop.api.services import Services
from everloop.core.errors import Conflict, InvalidInput

MOST_CALLS = 4096
"""Under way at once, of all connections; beyond them a call is refused as RESOURCE_EXHAUSTED."""
MOST_STREAMS = 1024
"""Calls under way on one connection; beyond them its client waits."""
MOST_METADATA = 16 << 10
"""Bytes of one call's metadata."""
IDLE_SECONDS = 300
"""After which a connection without a call is closed; clients open it again by themselves."""
ALIVE_SECONDS = 60
"""After which a silent client is asked whether it is still there."""
PING_SECONDS = 5
"""How often a client may ask that of us."""


@dataclass(frozen=True)
class Certificate:
    """PEM, all of them. The key is in no repr."""

    chain: bytes
    key: bytes
    client_ca: bytes | None = None
    """What has to have signed the certificate of every client; None: clients need none."""

    def __repr__(self) -> str:
        return "<Certificate>"


class GrpcServer:
    """Make it on the event loop that it shall run on. Raises InvalidInput for an address that nobody can listen on, Conflict for a
    port that is taken."""

    def __init__(self, api: Api, *, host: str, port: int, certificate: Certificate | None = None) -> None:
        services, threads = api.services, api.threads
        self._closing = asyncio.Event()
        self._server = grpc.aio.server(options=_options(services), maximum_concurrent_rpcs=MOST_CALLS)
        names = (SERVICE, HEALTH, *reflection.SERVICES)
        parts: dict[str, dict[str, Any]] = {
            SERVICE: InferenceService(services, threads, api.fits, self._closing).handlers(),
            HEALTH: Health(services, threads, names, self._closing).handlers(),
            **reflection.handlers(names, self._closing),
        }
        # Not registered with gRPC's core, which would be a little faster a method: grpcio.aio waits anew for the next call of each
        # registered method whenever one of them came, and that costs twice as much as a whole call.
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in parts.items())
        )
        self.host = host
        self.port = self._listen(host, port, certificate)
        """The one that was taken, where any would do."""

    def __repr__(self) -> str:
        return f"<GrpcServer {self.address}>"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Once."""
        self._closing.set()
        await self._server.stop(grace)
        del self._server  # with the last of them ends the thread that polls for all of gRPC

    def _listen(self, host: str, port: int, certificate: Certificate | None) -> int:
        address = f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"
        with contextlib.suppress(RuntimeError):  # all that gRPC says is that it could not
            if certificate is None:
                return int(self._server.add_insecure_port(address))
            credentials = grpc.ssl_server_credentials(
                [(certificate.key, certificate.chain)], certificate.client_ca, certificate.client_ca is not None
            )
            return int(self._server.add_secure_port(address, credentials))
        del self._server
        raise _why(host, port)


def _options(services: Services) -> list[tuple[str, Any]]:
    return [
        # Two servers that share a port each get some of the calls, and nobody notices.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", services.limits.max_body),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", MOST_STREAMS),
        ("grpc.max_metadata_size", MOST_METADATA),
        ("grpc.absolute_max_metadata_size", MOST_METADATA),
        ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
        ("grpc.keepalive_time_ms", ALIVE_SECONDS * 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _why(host: str, port: int) -> InvalidInput | Conflict:
    import errno
    import socket

    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return InvalidInput(f"grpc_port: cannot listen on {host}:{port}: {error.strerror}", field="grpc_port")
    return Conflict(
        f"grpc_port: port {port} on {host} is taken by another program; choose another (--grpc-port), or 0 for any free one",
        field="grpc_port",
    )
