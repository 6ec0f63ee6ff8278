"""Telling what a signal handler of the program has raised from what an item has raised, where items run on the main thread.

A service that ends by `signal.signal(SIGTERM, lambda *_: sys.exit())` must end, whatever is to be done with items that fail. A handler runs
in the middle of whatever the main thread is at, so what it raises looks like the item's own; only the traceback tells: one of its
frames is the handler's. Timers are left out: they are mostly an item's own time limit.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import CodeType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGBREAK")


def by_a_handler(error: BaseException) -> bool:
    """Whether a handler that is installed now has raised it."""
    handlers = set(_handlers())
    trace = error.__traceback__
    while handlers and trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _handlers() -> Iterator[CodeType]:
    for name in _NAMES:
        number = getattr(signal, name, None)
        handler: Any = signal.getsignal(number) if number is not None else None
        if callable(handler):
            while hasattr(handler, "func"):  # partials
                handler = handler.func
            function = (
                handler if hasattr(handler, "__code__") or hasattr(handler, "__func__") else type(handler).__call__
            )
            code = getattr(getattr(function, "__func__", function), "__code__", None)
            if code is not None:
                yield code
