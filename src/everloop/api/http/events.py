"""`/v1/events`: what happens to models, as server-sent events.

Theory of operation: an event has its id from the journal, so the journal is what is read; the bus only wakes the reader. One
`EventHub` an app tails the journal while somebody listens, on a thread, and fans out into one bounded queue a client. A client
first reads what it missed (Last-Event-ID) straight from the journal, in pages, then its queue from there on: ids only grow, so
the seam is a comparison. An id beyond the newest is of another journal (a server without a store began anew): its reader is told
by an event `reset`, and reads this journal from its beginning. A client that is too slow for its queue is let go: its browser
comes back with Last-Event-ID. The tail also looks without being woken, for events that other processes wrote.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec

from everloop.api import verbs
from everloop.api.http.threads import Threads
from everloop.api.services import Services
from everloop.core.errors import Draining, EverloopError, Overloaded
from everloop.core.events import Event

HEARTBEAT_SECONDS = 15.0
"""A comment at least so often, so that proxies keep the connection and a dead one is noticed."""
POLL_SECONDS = 1.0
RETRY_MILLISECONDS = 2000

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


def encode_event(event: Event) -> bytes:
    """JSON has no line breaks outside strings and escapes them inside, so one `data:` line holds it."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.kind.encode(), _encode(verbs.event_info(event)))


class Client:
    """One stream's queue. Touched on the event loop only."""

    def __init__(self, most: int) -> None:
        self.events: deque[Event] = deque()
        self.most = most
        self.closed = False
        self.awake = asyncio.Event()

    def put(self, event: Event) -> None:
        if len(self.events) >= self.most:
            self.close()
        if not self.closed:
            self.events.append(event)
            self.awake.set()

    def close(self) -> None:
        self.closed = True
        self.awake.set()


class EventHub:
    def __init__(self, services: Services, threads: Threads, *, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self.services = services
        self._threads = threads
        self.heartbeat = heartbeat
        self._clients: set[Client] = set()
        self._tail: asyncio.Task[None] | None = None
        self._cursor = 0

    def __repr__(self) -> str:
        return f"<EventHub clients={len(self._clients)} cursor={self._cursor}>"

    async def open(self, after: int | None, model: str | None) -> EventStream:
        """A stream of its own for one client. `after`: replay what came after that id first; None: only what happens from
        now on. Raises Overloaded (too many streams) and Draining. Whoever opens it closes it."""
        if self.services.draining:
            raise Draining("the server is shutting down", retry_after=1.0)
        if len(self._clients) >= self.services.limits.max_streams:
            raise Overloaded(f"{len(self._clients)} event streams are open, which is the limit", retry_after=5.0)
        client = Client(self.services.limits.stream_queue)
        self._clients.add(client)
        try:
            newest = await self._threads.run(verbs.newest_event, self.services)
        except BaseException:
            self.leave(client)
            raise
        if self._tail is None:
            self._cursor = newest
            self._tail = asyncio.get_running_loop().create_task(self._follow())
        # An id beyond the newest comes from a journal that is no more: whoever names it has seen nothing of this one.
        reset = after is not None and after > newest
        cursor = 0 if reset else newest if after is None else after
        # What the tail has read before this client came is not in its queue: read that from the journal.
        return EventStream(self, client, cursor, max(newest, self._cursor), model, reset=reset)

    def leave(self, client: Client) -> None:
        self._clients.discard(client)
        if not self._clients and self._tail is not None:
            self._tail.cancel()
            self._tail = None

    async def read(self, after: int) -> list[Event]:
        """One page of the journal."""
        return await self._threads.run(verbs.events, self.services, after, self.services.limits.max_page)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        awake = asyncio.Event()

        def wake(_: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(awake.set)

        unsubscribe = self.services.bus.subscribe(wake)
        try:
            while True:
                try:
                    events = await self.read(self._cursor)
                except (
                    EverloopError
                ):  # the journal's trouble is told by /health; the next look finds what this one missed
                    events = []
                for event in events:
                    for client in tuple(self._clients):
                        client.put(event)
                    self._cursor = event.id
                if len(events) == self.services.limits.max_page:
                    continue
                try:
                    await asyncio.wait_for(awake.wait(), POLL_SECONDS)
                except TimeoutError:
                    continue
                awake.clear()
        except Exception:
            log.exception("the event tail failed; its readers are sent away to come back")
            raise
        finally:
            unsubscribe()
            for client in tuple(self._clients):
                client.close()


class EventStream:
    """The lines of one client's stream, from `cursor` on; up to `seam` from the journal, then from the client's queue."""

    def __init__(
        self, hub: EventHub, client: Client, cursor: int, seam: int, model: str | None, *, reset: bool = False
    ) -> None:
        self._hub = hub
        self._client = client
        self._cursor = cursor
        self._seam = seam
        self._model = model
        self._reset = reset
        self._undo = hub.services.on_drain(self._closer())
        self.stands: Callable[[], bool] = lambda: True
        """Whether its reader may still see it: looked at before each line."""

    def close(self) -> None:
        """Idempotent; on the event loop."""
        self._undo()
        self._client.close()
        self._hub.leave(self._client)

    async def lines(self) -> AsyncIterator[bytes]:
        client = self._client
        # The id goes out before there is an event, so that a reader whose connection breaks early misses nothing either.
        yield b"retry: %d\nid: %d\n\n" % (RETRY_MILLISECONDS, self._cursor)
        if self._reset:
            yield b"event: reset\ndata: {}\n\n"
        while self._cursor < self._seam and not client.closed:
            events = await self._hub.read(self._cursor)
            if not events:  # pruned
                break
            for event in events:
                if line := self._line(event):
                    yield line
        while True:
            while client.events and self.stands():
                if line := self._line(client.events.popleft()):
                    yield line
            if client.closed or not self.stands():
                return
            client.awake.clear()
            try:
                await asyncio.wait_for(client.awake.wait(), self._hub.heartbeat)
            except TimeoutError:
                yield b": still here\n\n"

    def _line(self, event: Event) -> bytes | None:
        """None for what this client has had already, or does not want."""
        if event.id <= self._cursor:
            return None
        self._cursor = event.id
        return encode_event(event) if self._model is None or event.model == self._model else None

    def _closer(self) -> Callable[[], None]:
        loop, client = asyncio.get_running_loop(), self._client

        def close() -> None:  # from whichever thread begins to drain
            if not loop.is_closed():
                loop.call_soon_threadsafe(client.close)

        return close
