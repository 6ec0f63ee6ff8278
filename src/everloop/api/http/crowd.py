"""Connections beyond `limits.max_connections`: told so, and let go.

Each connection holds a file of the system and some 10 kB, and a server that has used up its files accepts nobody, not even who would ask
for its health. So one too many gets its 503 before it has asked, as no client may keep it waiting by not asking. It is then read for a
moment and closed: a socket that is closed on bytes that nobody has read resets its connection, and its client would not see the answer
(RFC 9112, 9.6). Where too many are being told already, the rest is cut off.
"""

from __future__ import annotations

import asyncio
from typing import Any

from everloop.api.http import heads
from everloop.api.http.problems import problem
from everloop.core.errors import Overloaded

LINGER_SECONDS = 1.0
MOST_TOLD = 256
"""Connections at once that are told why."""


class Crowd:
    """Of one server: those that found no room. Touched by the event loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.refused = 0
        """Connections turned away since the start."""
        self._loop = loop
        self._told: set[_TurnedAway] = set()

    def turn_away(self, transport: Any, most: int, defaults: heads.Headers) -> Overloaded:
        """Instead of whoever would have spoken over `transport`. Returns what was told, or would have been."""
        self.refused += 1
        error = Overloaded(f"{most} connections are open, as many as may be; try again", retry_after=1.0)
        if len(self._told) >= MOST_TOLD:
            transport.abort()
            return error
        stays = _TurnedAway(transport, self._told)
        transport.set_protocol(stays)
        self._told.add(stays)
        transport.write(heads.last_answer(problem(error), defaults))
        if transport.can_write_eof():
            transport.write_eof()
            self._loop.call_later(LINGER_SECONDS, transport.close)
        else:
            transport.close()
        return error


class _TurnedAway(asyncio.Protocol):
    """Listens politely and does nothing."""

    def __init__(self, transport: Any, told: set[_TurnedAway]) -> None:
        self._transport = transport
        self._told = told

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - asyncio's signature
        return

    def eof_received(self) -> bool:
        return False  # it has heard, or gone: close

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._told.discard(self)
