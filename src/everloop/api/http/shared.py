"""What the connections of one server have in common: heads that are known, heads of answers, and a way back to the loop."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from typing import Any

from everloop.api.http.crowd import Crowd
from everloop.api.http.heads import AnswerHeads, KnownHeads


class Shared:
    """Touched by the event loop's thread only, but for `call_soon`."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.known = KnownHeads()
        self.answers = AnswerHeads()
        self.crowd = Crowd(loop)
        self._loop = loop
        self._calls: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._waking = False

    def call_soon(self, callback: Callable[[Any], None], result: Any) -> None:
        """From any thread: the loop calls `callback(result)`, and one wake-up serves all that have come until then."""
        self._calls.append((callback, result))
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._call)
            except RuntimeError:  # the loop is closed, and with it every connection
                self._calls.clear()

    def _call(self) -> None:
        self._waking = False
        while self._calls:
            callback, result = self._calls.popleft()
            callback(result)
