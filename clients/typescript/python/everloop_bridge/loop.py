"""The event loop of an engine's coroutines, on a thread of its own.

It ends only when it is told to, or when its selector breaks. What a task raises beyond `Exception`, asyncio gives to the thread
as well as to whoever awaits the task: the loop then goes on where it was, as it does when a coroutine stops it. The calls of a
loop that did break are told so, and the engine makes another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Call = TypeVar("Call")


class Loop(Generic[Call]):
    """`lost(call, error)` is called, on the loop's thread, for each call under way when the loop breaks."""

    def __init__(self, lost: Callable[[Call, BaseException], None]) -> None:
        self.loop = asyncio.new_event_loop()
        self.ended = False
        self._closing = False
        self._lost = lost
        self._calls: set[Call] = set()
        threading.Thread(target=self._run, name="everloop-bridge-loop", daemon=True).start()

    def take(self, call: Call, step: Callable[..., None], *args: Any) -> None:
        """Have the loop run `step(*args)` for `call`, which is under way until `done`. Raises RuntimeError if the loop ended."""
        self._calls.add(call)
        if self.ended:
            self._calls.discard(call)
            raise RuntimeError("the event loop has ended")
        self.loop.call_soon_threadsafe(step, *args)

    def done(self, call: Call) -> None:
        self._calls.discard(call)

    def soon(self, step: Callable[[], object]) -> None:
        """Run `step` on the loop, or not at all if it has ended."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(step)

    def close(self) -> None:
        self._closing = True
        self.soon(self.loop.stop)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        why: BaseException = RuntimeError("the event loop has ended")
        try:
            while not self._closing:
                with contextlib.suppress(SystemExit, KeyboardInterrupt):  # Its task keeps it for whoever awaits that.
                    self.loop.run_forever()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
        except BaseException as error:
            why = error
        self.ended = True
        try:
            self.loop.close()
        finally:
            for call in list(self._calls):
                self._lost(call, why)
