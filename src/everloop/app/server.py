"""One engine behind one port: start-up, the event loop, and an end that loses nothing.

Starting. The port is taken first, so that a second server is told at once. Then the socket answers (live, not yet ready) while
the engine opens its models on a thread; then it is ready.

Ending, in this order, because each step needs the later ones still to work:

1. A signal makes readiness fail; event streams end; every answer now says `Connection: close`. New requests are still served
   for `notice` seconds.
2. The port closes. Connections without a request are closed, those with one get their answer, for at most `grace` seconds.
3. The engine stops: the learner is joined, lanes let go, the journal commits and closes. Exit code 0.

A second signal ends the process at once. That is safe: whatever was acknowledged is on disk already.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import uvicorn

from everloop.api.http.front import HSTS
from everloop.api.override import OverrideKeys
from everloop.app.interpreter import few_arenas, many_files, quick_switches
from everloop.app.listening import BACKLOG, Address, bind, bind_admin
from everloop.app.security import Certificates, Security, check_public, front_of
from everloop.app.settings import ServerSettings
from everloop.app.tracing import observing
from everloop.core.errors import MissingExtra

if TYPE_CHECKING:
    from everloop.api.grpc.server import Certificate, GrpcServer
    from everloop.api.http.endpoint import Api
    from everloop.api.services import Services

KEEP_ALIVE_SECONDS = 75.0
"""Longer than the 60 s after which common proxies let go of an idle connection, so that it is they who close it."""
LINGER_SECONDS = 0.05
"""What a connection accepted just before the port closed gets to send its first request."""
TICK_SECONDS = 0.01
OTHER_FILES = 512
"""What stores, models and processes may need besides connections."""

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What of `app.build.Engine` is needed here."""

    @property
    def services(self) -> Services: ...

    def start(self) -> None:
        """Make live what should be live, and keep it so."""

    def stop(self) -> None:
        """Finish and close everything. Safe to call twice."""


def run(
    engine: Engine,
    settings: ServerSettings,
    *,
    prepare: Callable[[], None] | None = None,
    on_ready: Callable[[Address], None] | None = None,
) -> int:
    """Serve until a signal, then drain. Returns the exit code, 0. Call it on the main thread: only that gets signals.

    `prepare` runs on a thread after `engine.start()`, before the server is ready: what it registers is live when `on_ready` is
    called with the address. `engine` is stopped however this ends. Raises InvalidInput (no such address), Conflict (the port is
    taken), StoreUnavailable (the address cannot be had), and whatever starting the engine or `prepare` raised."""

    def ready(address: Address) -> None:
        gc.freeze()  # what is here now stays: the collector need not look at it again
        if on_ready is not None:
            on_ready(address)

    few_arenas()
    _bound_connections(engine.services)
    with _second_signal_ends(), quick_switches(), contextlib.ExitStack() as stack:
        stack.callback(engine.stop)
        stack.enter_context(observing(engine.services, settings.observe))
        listener = stack.enter_context(bind(settings))
        server = Server(engine, listener, settings, admin=_admin(stack, settings), prepare=prepare, on_ready=ready)
        server.run()
        server.started_up(settings.grace)
    if server.failure is not None:
        raise server.failure
    return 0


@contextlib.contextmanager
def serving(engine: Engine, settings: ServerSettings) -> Iterator[Address]:
    """The same on a thread of this process, for the time of a `with` block; drains at its end and stops the engine."""
    ready = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.callback(engine.stop)
        stack.enter_context(observing(engine.services, settings.observe))
        listener = stack.enter_context(bind(settings))
        server = Server(engine, listener, settings, admin=_admin(stack, settings), on_ready=lambda _: ready.set())

        def work() -> None:
            try:
                server.run()
            except BaseException as error:
                server.failure = error
            finally:
                ready.set()

        thread = threading.Thread(target=work, name="everloop-server", daemon=True)
        thread.start()
        try:
            ready.wait()
            if server.failure is None:
                yield server.address
        finally:
            server.stop()
            thread.join()
            server.started_up(settings.grace)
    if server.failure is not None:
        raise server.failure


def _admin(stack: contextlib.ExitStack, settings: ServerSettings) -> socket.socket | None:
    listener = bind_admin(settings)
    return None if listener is None else stack.enter_context(listener)


def _bound_connections(services: Services) -> None:
    """No more connections than the system lets this process have files: what could not be accepted could not be refused either."""
    wanted = services.limits.max_connections
    files = many_files(wanted + OTHER_FILES)
    if files is not None and files - OTHER_FILES < wanted:
        most = max(1, files - OTHER_FILES)
        log.warning("the system lets this process open %d files, so at most %d connections (ulimit -n)", files, most)
        services.limits = replace(services.limits, max_connections=most)


@contextlib.contextmanager
def _second_signal_ends() -> Iterator[None]:
    """While the server runs, its own handlers are in force; when it has ended and the engine still stops, these are again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(sig: int, _: FrameType | None) -> None:
        os._exit(128 + sig)

    before = {sig: signal.signal(sig, end) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


class Server(uvicorn.Server):
    """uvicorn's server with our protocol class and our way to end. Its connections are uvicorn's, and so is its parser."""

    def __init__(
        self,
        engine: Engine,
        listener: socket.socket,
        settings: ServerSettings,
        *,
        admin: socket.socket | None = None,
        prepare: Callable[[], None] | None = None,
        on_ready: Callable[[Address], None] | None = None,
    ) -> None:
        """Raises InvalidInput: an address that other machines reach and no key, a certificate that cannot be used."""
        from everloop.api.http.app import create_app
        from everloop.api.http.fastlane import make_protocol

        self._engine = engine
        self._services = engine.services
        self._services.preparing = True
        self._services.override_keys = OverrideKeys(settings.override_keys)
        security, door = settings.security, self._services.door
        check_public(security, settings.host, door, insecure=settings.insecure)
        self._certificates = Certificates(security) if security.tls_cert is not None else None
        self._admin = admin
        self._services.front = front_of(
            security, settings.host, door, None if admin is None else admin.getsockname()[1]
        )
        self._settings = settings
        self._listener = listener
        self._grpc: GrpcServer | None = None
        self._grace = settings.grace
        self._notice = settings.notice
        self._prepare = prepare
        self._on_ready = on_ready
        self._signals = 0
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starter: threading.Thread | None = None
        self.failure: BaseException | None = None
        """What starting the engine, or `prepare`, raised."""
        self._app = app = create_app(self._services)
        super().__init__(
            uvicorn.Config(
                app,
                http=make_protocol(self._services),
                loop="auto",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=int(KEEP_ALIVE_SECONDS),
                **self._tls(),
            )
        )

    @property
    def address(self) -> Address:
        """Once it has started."""
        grpc_port = None if self._grpc is None else self._grpc.port
        return Address.of(self._listener, grpc_port, tls=self._certificates is not None, admin=self._admin)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        own = [self._listener] if self._admin is None else [self._listener, self._admin]
        with self._services.door.watching():
            super().run(sockets or own)

    def _tls(self) -> dict[str, Any]:
        """Of uvicorn's options."""
        if self._certificates is None:
            return {}
        context = self._certificates.context
        return {"ssl_context_factory": lambda *_: context, "headers": [HSTS]}

    def stop(self) -> None:
        """Drain and end, as a signal would. From any thread."""
        self._drain_from_elsewhere(self._notice)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """A signal handler: it interrupts whatever the main thread does, so it takes no lock and starts nothing itself."""
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + sig)
        self._drain_from_elsewhere(self._notice if sig != signal.SIGINT else self._notice / 5)

    def _drain_from_elsewhere(self, notice: float) -> None:
        self.should_exit = True
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._drain, notice)

    def _drain(self, notice: float) -> None:
        assert self._stopping is not None
        assert self._loop is not None
        if self._services.draining:
            return
        if self.failure is None:  # else it never was ready, and what went wrong is told by whoever started it
            log.info("draining: %.1f s until the port closes", notice)
        self._services.drain()
        self._loop.call_later(notice, self._stopping.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        if self._settings.grpc_port is not None:
            self._grpc = grpc_server(self._app.state.api, self._settings, self._listener)
            await self._grpc.start()
        await super().startup(sockets)
        self.should_exit = False  # uvicorn would leave without its main loop; a signal this early drains there
        if self._signals:
            self._drain(0.0)
        self._starter = threading.Thread(target=self._make_ready, name="everloop-start", daemon=True)
        self._starter.start()

    def started_up(self, timeout: float) -> None:
        """Wait for the thread that starts the engine: it must not be stopped in the middle of that."""
        if self._starter is not None:
            self._starter.join(timeout)

    def _make_ready(self) -> None:
        """On a thread of its own: models take long to open."""
        try:
            self._engine.start()
            if self._prepare is not None:
                self._prepare()
            self._services.preparing = False
            if self._on_ready is not None:
                self._on_ready(self.address)
        except BaseException as error:
            if not self._services.draining:  # else it is a part that was closed under its hands
                self.failure = error
            self._drain_from_elsewhere(0.0)

    async def main_loop(self) -> None:
        """uvicorn's wakes ten times a second; once is enough for the date header, and the end comes as an event."""
        assert self._stopping is not None
        while not self._stopping.is_set():
            await self.on_tick(0)
            if self._certificates is not None:
                self._certificates.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Closing a listening socket resets connections that the kernel has completed and nobody has accepted. So first let no
        # more of them queue, take those that are there, then close.
        for listener in sockets or ():
            with contextlib.suppress(OSError):  # where a system will not: then a few are reset
                listener.listen(0)
        await asyncio.sleep(LINGER_SECONDS)
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        ending = None if self._grpc is None else asyncio.ensure_future(self._grpc.stop(self._grace))
        await asyncio.sleep(LINGER_SECONDS)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            await asyncio.wait_for(self._finished(), self._grace)
        except TimeoutError:
            log.warning(
                "%d requests were not finished after %.0f s; they are cut off",
                len(self.server_state.tasks),
                self._grace,
            )
            for task in list(self.server_state.tasks):
                task.cancel(msg="the server has stopped")
            for connection in list(self.server_state.connections):
                _abort(connection)
            await asyncio.sleep(TICK_SECONDS)
        if ending is not None:
            await ending
        await self.lifespan.shutdown()

    async def _finished(self) -> None:
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  uvicorn keeps plain sets
            await asyncio.sleep(TICK_SECONDS)


def grpc_server(api: Api, settings: ServerSettings, listener: socket.socket) -> GrpcServer:
    """On the running event loop, on the address of `listener`. Raises MissingExtra, InvalidInput, Conflict."""
    # gRPC's C core would write to stderr what its exceptions say as well.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from everloop.api.grpc.server import GrpcServer
    except ImportError as error:
        raise MissingExtra.of("grpc", "speaking gRPC (grpc_port)") from error
    assert settings.grpc_port is not None
    return GrpcServer(
        api,
        host=listener.getsockname()[0],
        port=settings.grpc_port,
        certificate=_certificate(settings.security),
    )


def _certificate(security: Security) -> Certificate | None:
    """For gRPC, which wants the bytes. They have just been looked at by `Certificates`."""
    from everloop.api.grpc.server import Certificate

    if security.tls_cert is None:
        return None
    chain = security.tls_cert.read_bytes()
    key = chain if security.tls_key is None else security.tls_key.read_bytes()
    return Certificate(chain, key, None if security.tls_client_ca is None else security.tls_client_ca.read_bytes())


def _abort(connection: Any) -> None:
    transport = getattr(connection, "transport", None)
    if transport is not None:
        transport.abort()
