"""The fast lane: predictions and labels answered inside uvicorn's protocol class, without ASGI.

    bytes ─► known head? ─yes──────────────► body ─► decode ─► batcher / intake ─► … ─► one transport.write
               │no                            ▲
               └► httptools ─► fast route? ─yes┘
                                 └no─► uvicorn's own way ─► the Starlette app

Everything that is not plainly a fast request goes uvicorn's own way, to the app that serves the very same routes: other
routes and methods, query strings, chunked bodies, `Expect`, upgrades, `Connection: close`, HTTP/1.0, requests that pipeline
behind an unanswered one, large bodies, content types that are not JSON, requests of foreign pages, unknown models, a server
that drains. Where the fast lane finds that out only after reading the body, it hands the request over with its body.

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
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from everloop.api.http import codec, heads
from everloop.api.http.flow import Flow, NobodyWaits
from everloop.api.http.heads import END_OF_HEAD, AnswerHeads, Head, KnownHeads, recognise, refusal_head
from everloop.api.http.problems import problem
from everloop.core.errors import EverloopError, InvalidInput, Malformed

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from everloop.api.services import Services
    from everloop.serving.batcher import Batcher
    from everloop.stores.ports import Appended


class _Wire:
    """What the fast lane keeps for one lane's batcher."""

    __slots__ = ("several", "single", "width")

    def __init__(self, batcher: Batcher, most_features: int) -> None:
        template = codec.AnswerTemplate(batcher.version, batcher.key)
        self.single = template.single
        self.several = template.several
        schema = batcher.runner.schema
        width = len(schema.fields)
        self.width = width if schema.numeric and width <= most_features else -1
        """How long a plain row is; -1 where rows are never plain numbers."""


class _Shared:
    """What all connections of one server share. Touched by the event loop's thread only, but for `committed`."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.known = KnownHeads()
        self.answers = AnswerHeads()
        self._loop = loop
        self._done: deque[tuple[FastLane, Appended | EverloopError]] = deque()
        self._waking = False

    def committed(self, connection: FastLane, result: Appended | EverloopError) -> None:
        """From the journal's writer thread, after a commit: one wake-up of the loop answers all labels of the commit."""
        self._done.append((connection, result))
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop is closed, and with it every connection
                self._done.clear()

    def _answer(self) -> None:
        self._waking = False
        while self._done:
            connection, result = self._done.popleft()
            connection.committed(result)


class FastLane(HttpToolsProtocol):
    """One connection. As a `serving.batcher.Ticket` it stands for its one request that is in flight."""

    services: ClassVar[Services]
    _servers: ClassVar[weakref.WeakKeyDictionary[ServerState, _Shared]]

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
        shared = self._servers.get(server_state)
        if shared is None:
            shared = self._servers[server_state] = _Shared(self.loop)
        self._shared = shared
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
        self._head: Head | None = None
        self._body = b""
        self._chunk = b""
        self._batcher: Batcher | None = None
        self._idle_since = 0.0
        self._idle_timer: TimerHandle | None = None

    # -- in --

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self._watch()

    def data_received(self, data: bytes) -> None:
        cycle = self.cycle
        if self._between and (cycle is None or cycle.response_complete):
            head, _, body = data.partition(END_OF_HEAD)
            known = self._heads.get(head)
            if known is not None and len(body) == known.length:
                self._head = known
                self.cycle = cast("RequestResponseCycle", self)
                self.response_complete = False
                self._process(known, body)
                return
            self._chunk = data
        super().data_received(data)
        self._chunk = b""
        if not self._between:
            self._wait_for_rest(len(data))

    def on_message_begin(self) -> None:
        # What a scope costs is paid only by those who need one.
        self._between = self._reading = False
        self._head_size = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._head_size = -1
        cycle = self.cycle
        if self._possible and (cycle is None or cycle.response_complete):
            known = recognise(self.parser, self.url, self.headers, self.services.limits.max_body)
            if known is not None:
                self._head, self._reading, self._body = known, True, b""
                self.cycle = cast("RequestResponseCycle", self)
                self.response_complete = False
                return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)  # the list that the scope holds
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._reading:
            self._body = self._body + body if self._body else body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._between = True
        if not self._reading:
            super().on_message_complete()
            return
        self._reading = False
        known, body, chunk = self._head, self._body, self._chunk
        assert known is not None
        self._body = self._chunk = b""
        head, _, rest = chunk.partition(END_OF_HEAD)
        if chunk and rest == body:
            self._shared.known.remember(head, known)
        self._process(known, body)

    # -- through --

    def _process(self, known: Head, body: bytes) -> None:
        """Decode and submit. Must not raise: it may run inside the parser."""
        services = self.services
        table = self._table.current
        lane = table.lanes.get(known.name)
        if lane is None or services.draining:
            # Why there is none, the registry knows, and the first labels of a model fix its schema: both may touch a disk.
            self._hand_over(known, body)
            return
        try:
            if known.feedback:
                items = codec.decode_feedback(body, services.limits)
                services.intake.accept(known.name, items, partial(self._shared.committed, self))
                return
            asked = codec.decode_usual(body, services.limits)
            unit, arm = codec.unit_of(asked, known.unit), None
            if known.name in table.splits:
                arm = table.splits[known.name].route(unit)
                lane = arm.lane
            self._batcher = batcher = lane.batcher_for(self.loop)
            if isinstance(asked, codec.PlainRow):
                if len(asked.features) == self._wire(batcher).width:
                    batcher.submit(self, asked.features, arm)
                    return
                asked = codec.decode_predict(body, services.limits)
            if asked.instances is not None:
                batcher.submit_rows(self, lane.checked(asked.instances), arm)
            else:
                assert asked.features is not None
                batcher.submit(self, lane.schema.row(asked.features), arm)
        except (InvalidInput, Malformed) as error:
            self.fail(error)
        except EverloopError as error:
            if error.code in ("overloaded", "draining"):
                self.fail(error)
            else:
                self._hand_over(known, body)
        except Exception:
            # A defect: the app meets it again, logs it and answers 500.
            self._hand_over(known, body)

    def _wire(self, batcher: Batcher) -> _Wire:
        wire: _Wire | None = batcher.wire
        if wire is None:
            wire = batcher.wire = _Wire(batcher, self.services.limits.max_features)
        return wire

    def _hand_over(self, known: Head, body: bytes) -> None:
        """Let the app answer a request that has been read already."""
        self.response_complete = True
        super().on_message_begin()
        path = known.url.decode("ascii")
        self.url = known.url
        self.headers.extend(known.headers)
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

    # -- out: a ticket's methods, on the loop's thread --

    def deliver(self, prediction: Any, batcher: Batcher, number: int) -> None:
        if self.disconnected:
            return
        try:
            body = self._wire(batcher).single % (codec.encode(prediction), number)
        except (TypeError, ValueError) as error:
            self.fail(batcher.runner.failed(f"its answer cannot be written as JSON: {error}"))
            return
        self._write(200, self._shared.answers.of(self.server_state.default_headers)[0], body)

    def deliver_rows(self, predictions: list[Any], batcher: Batcher, number: int) -> None:
        if self.disconnected:
            return
        try:
            body = self._wire(batcher).several % (codec.encode(predictions), number)
        except (TypeError, ValueError) as error:
            self.fail(batcher.runner.failed(f"its answers cannot be written as JSON: {error}"))
            return
        self._write(200, self._shared.answers.of(self.server_state.default_headers)[0], body)

    def committed(self, result: Appended | EverloopError) -> None:
        """The labels of this request are durable, or they are not."""
        if self.disconnected:
            return
        refused = result if isinstance(result, EverloopError) else codec.refused_whole(result)
        if refused is not None or isinstance(result, EverloopError):
            self.fail(cast("EverloopError", refused))
            return
        head = self._shared.answers.of(self.server_state.default_headers)[1]
        self._write(202, head, codec.encode_feedback(result))

    def fail(self, error: EverloopError) -> None:
        if self.disconnected:
            return
        assert self._head is not None
        self.services.traffic.refuse("feedback" if self._head.feedback else "predict", error)
        refused = problem(error)
        head = refusal_head(refused, self.server_state.default_headers)
        self._write(refused.status, head, refused.body)

    def _write(self, status: int, head: bytes, body: bytes) -> None:
        """One answer, in one write; `head` ends where the content length follows."""
        self.response_complete = True
        self._batcher = None
        if self.access_log:
            self._log(status)
        if self.keep_alive:
            self.transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
            if self.pipeline:
                self.on_response_complete()
                return
            self.server_state.total_requests += 1
            self._watch()
        else:
            self.server_state.total_requests += 1
            self.transport.write(b"%b%d\r\nconnection: close\r\n\r\n%b" % (head, len(body), body))
            self.transport.close()

    def _log(self, status: int) -> None:
        assert self._head is not None
        client = ":".join(map(str, self.client)) if self.client else ""
        path = self._head.url.decode("ascii")
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
        """A chunk ended inside a request. The whole head has to come in time, and each further piece of the body."""
        if self._head_size <= 0:
            self._head_size += self._head_size == 0
            self._watch()
            return
        self._head_size += size
        if self._head_size > heads.MOST_HEAD and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(heads.last_answer(heads.HEAD_TOO_LARGE, self.server_state.default_headers))
            self.transport.close()

    def _look_idle(self) -> None:
        self._idle_timer = None
        cycle = self.cycle
        if self.transport.is_closing() or (self._between and not (cycle is None or cycle.response_complete)):
            return  # busy: armed again by the next answer
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._look_idle)
        else:
            self.timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.disconnected = True
        if self._batcher is not None:
            self._batcher.abandon()
            self._batcher = None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)
        if self.cycle is cast("RequestResponseCycle", self):
            self.cycle = None  # type: ignore[assignment]


def make_protocol(services: Services) -> type[FastLane]:
    """The protocol class of one server: hand it to uvicorn as `http=`."""
    servers: weakref.WeakKeyDictionary[ServerState, _Shared] = weakref.WeakKeyDictionary()
    return type("FastLane", (FastLane,), {"services": services, "_servers": servers})
