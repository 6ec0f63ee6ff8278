"""One connection of the fast lane: bytes in, requests that are fast ones out to `process`, one write a request back.

    bytes ─► known head? ─yes──────────────► body ─► process
               │no                            ▲
               └► httptools ─► fast route? ─yes┘
                                 └no─► uvicorn's own way ─► the Starlette app

Theory of operation.

- The connection itself stands where uvicorn keeps its request-response cycle (`self.cycle`): uvicorn's `shutdown` and
  `connection_lost` read and set `response_complete`, `keep_alive`, `disconnected`, `message_event` there. So a signal to
  stop finds fast requests in flight, lets them be answered, and closes the connection after.
- Known heads (`http.heads`): a client on a kept-alive connection sends the same head again and again, and it is parsed once.
- One timer a connection, not one a request: it looks how long the connection has been idle, or a request has stalled that
  began to come, and sleeps on. uvicorn alone waits without end for a first request and for the rest of one.
- A client that does not read its answers, or pipelines without end: nothing more is read from a connection while its answers
  wait above the transport's high-water mark, or while requests wait behind an unanswered one (`http.flow`). uvicorn alone reads
  on after every answer, and its queue of requests grows with whatever arrives.

It relies on uvicorn 0.54; `tests/api/test_fastlane.py` fails if the base class changes.
"""

from __future__ import annotations

import asyncio
import weakref
from asyncio import AbstractEventLoop, TimerHandle
from typing import TYPE_CHECKING, Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from everloop.api.http import framing, heads
from everloop.api.http.entrance import CALLER
from everloop.api.http.flow import Flow, NobodyWaits
from everloop.api.http.heads import END_OF_HEAD, Head, recognise
from everloop.api.http.shared import Shared
from everloop.api.observing import CLIENT_GONE

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from everloop.api.http.problems import Refusal
    from everloop.api.observing import Observed
    from everloop.api.services import Services
    from everloop.serving.batcher import Batcher


class Connection(HttpToolsProtocol):
    """One connection, with at most one fast request in flight: `head` says which."""

    services: ClassVar[Services]
    servers: ClassVar[weakref.WeakKeyDictionary[ServerState, Shared]]

    message_event = NobodyWaits()
    """Read by uvicorn, as are `response_complete`, `disconnected`, `keep_alive`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        shared = self.servers.get(server_state)
        if shared is None:
            shared = self.servers[server_state] = Shared(self.loop)
        self.shared = shared
        self._heads = shared.known.heads
        self._table = self.services.table
        self._possible = not config.root_path and config.limit_concurrency is None
        """Whether anything is answered here: a path prefix and uvicorn's own limit are left to uvicorn."""
        self.response_complete = True
        self.disconnected = False
        self.keep_alive = True
        self._between = True
        """The parser is between two messages."""
        self._reading = False
        """The parser is inside a fast request."""
        self._head_size = -1
        """Bytes of a head that is still coming, without those of its first chunk; -1 outside of heads."""
        self._bodyless = -1
        """Bytes behind a head that came without any of the body, since the last of it: chunks' own lines, trailers."""
        self.head: Head | None = None
        self._body = b""
        self._chunk = b""
        self.batcher: Batcher | None = None
        self._running: RequestResponseCycle | None = None
        """What the app answers, or has answered last."""
        self.observed: Observed | None = None
        """The request in flight, where somebody looks at it."""
        self._idle_since = 0.0
        self._idle_timer: TimerHandle | None = None
        self._begun = 0.0
        """When the first part came of a request that comes in several; 0 before that."""
        self._came = 0
        """Bytes of it since."""

    # -- in --

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        most = self.services.limits.max_connections
        if len(self.connections) >= most:
            self.services.traffic.refuse(
                "connect", self.shared.crowd.turn_away(transport, most, self.server_state.default_headers)
            )
            return
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self._watch()

    def data_received(self, data: bytes) -> None:
        cycle = self.cycle
        if self._between and (cycle is None or cycle.response_complete):
            head, _, body = data.partition(END_OF_HEAD)
            known = self._heads.get(head)
            if known is not None and len(body) == known.length:
                self.head = known
                self.cycle = cast("RequestResponseCycle", self)
                self.response_complete = False
                self.process(known, body)
                return
            self._chunk = data
        self._parse(data)
        self._chunk = b""
        if not self._between:
            self._wait_for_rest(len(data))

    def _parse(self, data: bytes) -> None:
        """In the place of uvicorn's: a request that asks for another protocol is answered as if it had not."""
        rest = memoryview(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as stopped:
                    rest = rest[stopped.args[0] :]
                    head = framing.as_if_not_asked(
                        self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers
                    )
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.feed_data(head)
        except (httptools.HttpParserError, framing.NotHttp) as error:
            large = isinstance(error.__context__, framing.HeadTooLarge)
            refused = framing.HEAD_TOO_LARGE if large else framing.NOT_HTTP
            if not self.transport.is_closing():
                self.transport.write(heads.last_answer(refused, self.server_state.default_headers))
                self._hang_up()

    def on_message_begin(self) -> None:
        # What a scope costs is paid only by those who need one.
        self._between = self._reading = False
        self._head_size = 0
        self._begun = 0.0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._head_size = self._bodyless = -1
        if self.parser.should_upgrade():
            return  # the parser stops behind this head, and gets it again without that wish
        framing.check_head(self.url, self.parser.get_http_version(), self.headers)
        cycle = self.cycle
        if self._possible and (cycle is None or cycle.response_complete):
            known = recognise(
                self.parser, self.url, self.headers, self.services.limits.max_body, self.services.front.hosts
            )
            if known is not None:
                self.head, self._reading, self._body = known, True, b""
                self.cycle = cast("RequestResponseCycle", self)
                self.response_complete = False
                return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)  # the list that the scope holds
        super().on_headers_complete()
        self.headers = framing.Dropped()

    def on_body(self, body: bytes) -> None:
        if self._reading:
            self._body = self._body + body if self._body else body
        else:
            self._bodyless = -1
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._reading:
            if not self.parser.should_upgrade():
                self._between = True
                super().on_message_complete()
            return
        self._between = True
        self._reading = False
        known, body, chunk = self.head, self._body, self._chunk
        assert known is not None
        self._body = self._chunk = b""
        head, _, rest = chunk.partition(END_OF_HEAD)
        if chunk and rest == body:
            self.shared.known.remember(head, known)
        self.process(known, body)

    def process(self, known: Head, body: bytes) -> None:
        """Decode and submit; then `write` answers, or the app does. Must not raise: it may run inside the parser."""
        self.hand_over(known, body)

    # -- out --

    def hand_over(self, known: Head, body: bytes) -> None:
        """Let the app answer a request that has been read already."""
        self.observed = None
        self.response_complete = True
        super().on_message_begin()
        path = known.url.decode("ascii")
        self.url = known.url
        self.headers.extend(known.headers)
        if known.caller is not None:
            self.scope[CALLER] = known.caller  # type: ignore[literal-required]  # ours, beside those of ASGI
        self.scope.update({"method": "POST", "path": path, "raw_path": known.url, "query_string": b""})
        cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=self.on_response_complete,
        )
        cycle.body += body
        cycle.more_body = False
        cycle.message_event.set()
        self.cycle = cycle
        self._start_asgi_task(cycle, self.app)

    @property
    def caller(self) -> str:
        """On whose behalf it asks: the id of a key, or the address that it comes from."""
        known = None if self.head is None else self.head.caller
        return (known and known.id) or (self.client[0] if self.client else "")

    def write(self, status: int, head: bytes, body: bytes) -> None:
        """One answer, in one write; `head` ends where the content length follows."""
        self.response_complete = True
        self.batcher = None
        if self.access_log:
            self._log(status)
        assert self.head is not None
        echo, caller = self.head.echo, self.head.caller
        if caller is not None and caller.bucket is not None:
            echo += heads.quota_lines(caller)
        if self.observed is not None and (traceresponse := self.observed.traceresponse):
            echo += b"traceresponse: %b\r\n" % traceresponse.encode()
        if self.keep_alive:
            self.transport.write(b"%b%d\r\n%b\r\n%b" % (head, len(body), echo, body))
            if self.observed is not None:
                self.seen(status)
            if self.pipeline:
                self.on_response_complete()
                return
            self.server_state.total_requests += 1
            self._watch()
        else:
            self.server_state.total_requests += 1
            self.transport.write(b"%b%d\r\n%bconnection: close\r\n\r\n%b" % (head, len(body), echo, body))
            if self.observed is not None:
                self.seen(status)
            self.transport.close()

    def seen(self, status: int) -> None:
        """The observed request has its answer."""
        observer, observed = self.services.observer, self.observed
        self.observed = None
        if observer is not None and observed is not None:
            if self.head is not None and self.head.caller is not None:
                observed.caller = self.head.caller.name
            observer.end(observed, status)

    def _log(self, status: int) -> None:
        assert self.head is not None
        client = ":".join(map(str, self.client)) if self.client else ""
        path = self.head.url.decode("ascii")
        self.access_logger.info('%s - "%s %s HTTP/%s" %d', client, "POST", path, "1.1", status)

    # -- the connection --

    def on_response_complete(self) -> None:
        """As uvicorn's, for the app's answers, but with the one timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            self.flow.resume_reading()
            return
        self.flow.resume_reading()
        self._watch()

    def _watch(self) -> None:
        """From now on the client has `timeout_keep_alive` seconds."""
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_idle)

    def _wait_for_rest(self, size: int) -> None:
        """A chunk ended inside a request. The whole head has to come in time, and the body at some pace."""
        now = self.loop.time()
        if self._begun == 0.0:
            self._begun, self._came = now, 0
        self._came += size
        self._idle_since = now
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = self.loop.call_later(self._due() - now, self._look_idle)
        if self._head_size < 0:
            self._bodyless += size if self._bodyless >= 0 else 1
            if self._bodyless > framing.MOST_HEAD:
                self._hang_up()
            return
        if self._head_size == 0:
            self._head_size = 1
            return
        self._head_size += size
        if self._head_size > framing.MOST_HEAD:
            self._dismiss(framing.HEAD_TOO_LARGE)

    def _due(self) -> float:
        """Until when the client has to send something, or the rest of what it has begun to send."""
        due = self._idle_since + self.timeout_keep_alive
        if self._between:
            return due
        limits = self.services.limits
        within = limits.head_sec if self._head_size >= 0 else limits.body_sec + self._came / heads.LEAST_PACE
        return min(due, self._begun + within)

    def _look_idle(self) -> None:
        self._idle_timer = None
        cycle = self.cycle
        if self.transport.is_closing() or (self._between and not (cycle is None or cycle.response_complete)):
            return  # busy: armed again by the next answer
        now = self.loop.time()
        if not self._between and self.flow.read_paused:
            self._idle_since = self._begun = now  # it is not the client who is slow
        left = self._due() - now
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._look_idle)
        elif self._between:
            self.timeout_keep_alive_handler()
        else:
            self._dismiss(heads.TOO_SLOW)

    def _dismiss(self, refused: Refusal) -> None:
        """Close on a client that will not finish its request; with an answer, where none is on its way."""
        if self.transport.is_closing():
            return
        if self._reading or self.cycle is None or self.cycle.response_complete:
            self.transport.write(heads.last_answer(refused, self.server_state.default_headers))
        self._hang_up()

    def _hang_up(self) -> None:
        """Close, although somebody may still be answering."""
        self.transport.close()
        self._stop_answering()

    def _stop_answering(self) -> None:
        """What is written from now on goes nowhere. uvicorn tells its newest cycle alone, not the one that runs before it."""
        self.disconnected = True
        for cycle in (self.cycle, self._running):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        self._running = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_answering()
        if self.observed is not None:
            self.seen(CLIENT_GONE)
        if self.batcher is not None:
            self.batcher.abandon()
            self.batcher = None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)
        if self.cycle is cast("RequestResponseCycle", self):
            self.cycle = None  # type: ignore[assignment]
