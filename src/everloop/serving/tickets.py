"""Who waits for a batcher's answer: a connection of the server, or a coroutine in this process."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from everloop.core.errors import EverloopError
from everloop.core.types import Prediction, PredictionBatch

if TYPE_CHECKING:
    from everloop.serving.batcher import Batcher
    from everloop.serving.evidence import Tally


class Ticket(Protocol):
    """Who waits for an answer. Its methods are called on the event loop's thread and must not block. It may have a `caller` (hashable):
    on whose behalf it waits, for shares of a queue that is full."""

    @property
    def disconnected(self) -> bool:
        """Whether the client has gone: nobody needs the answer."""

    def deliver(self, prediction: Any, batcher: Batcher, number: int) -> None:
        """The answer to a single row."""

    def deliver_rows(self, predictions: list[Any], batcher: Batcher, number: int) -> None:
        """The answers to a request of several rows."""

    def fail(self, error: EverloopError) -> None: ...


class Watcher(Protocol):
    """Who wants to know how a request was answered, besides whoever is answered."""

    def settled(self, batcher: Batcher, number: int, rows: int) -> None:
        """Called when it is being answered, while `batcher.ran` tells of its batch."""


WATCHER: ContextVar[Watcher | None] = ContextVar("everloop_watcher", default=None)
"""Who watches the request that this task answers."""


CALLER: ContextVar[str | None] = ContextVar("everloop_caller", default=None)
"""On whose behalf this task asks: the id of a key, or an address. None: this program itself, which has no share to keep to."""


class FutureTicket:
    """A coroutine in this process that waits."""

    __slots__ = ("caller", "future", "watcher")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()
        self.watcher = WATCHER.get()
        self.caller = CALLER.get()

    @property
    def disconnected(self) -> bool:
        return self.future.done()

    def deliver(self, prediction: Any, batcher: Batcher, number: int) -> None:
        if not self.future.done():
            if self.watcher is not None:
                self.watcher.settled(batcher, number, 1)
            self.future.set_result(Prediction(prediction, batcher.version, batcher.key, number))

    def deliver_rows(self, predictions: list[Any], batcher: Batcher, number: int) -> None:
        if not self.future.done():
            if self.watcher is not None:
                self.watcher.settled(batcher, number, len(predictions))
            self.future.set_result(PredictionBatch(predictions, batcher.version, batcher.key, number))

    def fail(self, error: EverloopError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class SecondTry:
    """A ticket whose version failed, on its way through the champion. If that fails as well, the first error is what is told."""

    __slots__ = ("_error", "_tally", "_ticket")

    def __init__(self, ticket: Ticket, tally: Tally | None, error: EverloopError) -> None:
        """`tally`: where the champion's answer is held against that version; None where it was never tried."""
        self._ticket = ticket
        self._tally = tally
        self._error = error

    @property
    def disconnected(self) -> bool:
        return self._ticket.disconnected

    @property
    def caller(self) -> Any:
        return getattr(self._ticket, "caller", None)

    def deliver(self, prediction: Any, batcher: Batcher, number: int) -> None:
        self._tell()
        self._ticket.deliver(prediction, batcher, number)

    def deliver_rows(self, predictions: list[Any], batcher: Batcher, number: int) -> None:
        self._tell()
        self._ticket.deliver_rows(predictions, batcher, number)

    def fail(self, error: EverloopError) -> None:  # noqa: ARG002  the first one tells more
        self._ticket.fail(self._error)

    def _tell(self) -> None:
        if self._tally is not None:
            self._tally.decisive(self._error)
