"""Where calls run: fast ones on the thread that read them, coroutines on one event loop, all others on a pool of threads.

One engine belongs to one `PolyglotBridge`; its connections (the main one, and the one of `callPythonSync`) share it. The pool's
threads are made when there is work for them and end with the engine; nothing that a called function does ends one. Python cannot stop a thread: a call that is cancelled
while it runs keeps its thread until it returns, and its answer is dropped."""

from __future__ import annotations

import inspect
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from everloop_bridge import wire
from everloop_bridge.calls import Target, find, load

if TYPE_CHECKING:
    import asyncio

    from everloop_bridge.loop import Loop

_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, dict, tuple})
"""What most answers are: no need to ask whether it is awaitable, which takes longer than many a fast function."""
_HERE = str(Path(__file__).parent)


class Asker(Protocol):
    """Who waits for a call: answers may come from any thread, one for each call."""

    def answer(self, kind: int, number: int, value: Any) -> None: ...


class Call:
    """One call under way. `cancelled` is set by the asker's thread and read by the one that runs it."""

    __slots__ = ("args", "asker", "cancelled", "function", "module", "number", "task")

    def __init__(self, asker: Asker, number: int, module: str, function: str, args: Any) -> None:
        self.asker = asker
        self.number = number
        self.module = module
        self.function = function
        self.args = args
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None


class Engine:
    """`fast` names functions ("module.function") that are called inline though nothing in Python declares them so; modules are
    looked for in `folders` before all others."""

    def __init__(self, pool_size: int, fast: Sequence[str] = (), folders: Sequence[str] = ()) -> None:
        self._pool_size = pool_size
        self._fast = frozenset(fast)
        self._folders = tuple(folders)
        self._targets: dict[tuple[str, str], Target] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._threads = 0
        self._lock = threading.Lock()
        self._loop: Loop[Call] | None = None

    def start(self, call: Call) -> None:
        """Run `call` here and now if it is declared fast; otherwise have it run. Whatever goes wrong is its answer."""
        target = self._targets.get((call.module, call.function))
        if target is not None and target.inline and not target.coroutine:
            self._run(call, target)
            return
        try:
            if target is None:
                # An import may take seconds: it must not hold up the calls behind it.
                self._submit(lambda: self._look_up_and_run(call))
            elif target.coroutine:
                self._on_loop(call, target)
            else:
                self._submit(lambda: self._run(call, target))
        except BaseException as error:
            self._failed(call, error)

    def warm_up(self, asker: Asker, number: int, modules: Sequence[str]) -> None:
        """Import each, call its `warmup` if it has one, and answer the milliseconds that each took."""
        self._submit(lambda: self._warm_up(asker, number, modules))

    def cancel(self, call: Call) -> None:
        call.cancelled = True
        if self._loop is not None:
            self._loop.soon(lambda: call.task.cancel() if call.task is not None else None)

    def close(self) -> None:
        with self._lock:
            for _ in range(self._threads):
                self._jobs.put(None)
        if self._loop is not None:
            self._loop.close()

    def _submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._waiting >= self._threads and self._threads < self._pool_size:
                try:
                    threading.Thread(
                        target=self._work, name=f"everloop-bridge-{self._threads + 1}", daemon=True
                    ).start()
                    self._threads += 1
                except RuntimeError:  # The system gives no more: those that are there will do it.
                    if self._threads == 0:
                        raise
            self._waiting += 1
        self._jobs.put(job)

    def _work(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                try:
                    job()
                finally:
                    del job
                    with self._lock:
                        self._waiting -= 1
        finally:
            # Jobs raise nothing, but code may have one thread raise in another; the next job gets a new thread then.
            with self._lock:
                self._threads -= 1

    def _look_up_and_run(self, call: Call) -> None:
        try:
            target = find(call.module, call.function, self._fast, self._folders)
            self._targets[call.module, call.function] = target
            if target.coroutine:
                self._on_loop(call, target)
                return
        except BaseException as error:
            self._failed(call, error)
            return
        self._run(call, target)

    def _run(self, call: Call, target: Target) -> None:
        if call.cancelled:
            call.asker.answer(wire.CANCELLED, call.number, None)
            return
        args, call.args = call.args, None
        try:
            value = target.call(args)
            del args
            if type(value) not in _PLAIN:
                if inspect.isawaitable(value):
                    self._on_loop(call, target, value)
                    return
                held = [value]
                del value
                value = wire.owned(held)
        except BaseException as error:
            self._failed(call, error)
            return
        call.asker.answer(wire.RESULT, call.number, value)

    def _failed(self, call: Call, error: BaseException) -> None:
        call.asker.answer(wire.FAILED, call.number, told(error, call.module, call.function))

    def _on_loop(self, call: Call, target: Target, awaitable: Any = None) -> None:
        loop = self._loop
        if loop is None or loop.ended:
            # All of asyncio comes with it, 7 MB: only where there are coroutines.
            from everloop_bridge.loop import Loop

            with self._lock:
                if self._loop is None or self._loop.ended:
                    self._loop = Loop(self._failed)
                loop = self._loop
        loop.take(call, self._spawn, loop, call, target, awaitable)

    def _spawn(self, loop: Loop[Call], call: Call, target: Target, awaitable: Any) -> None:
        if call.cancelled and awaitable is None:
            loop.done(call)
            call.asker.answer(wire.CANCELLED, call.number, None)
            return
        # The call holds its task: the loop itself keeps only weak references.
        call.task = loop.loop.create_task(self._await(loop, call, target, awaitable))

    async def _await(self, loop: Loop[Call], call: Call, target: Target, awaitable: Any) -> None:
        args, call.args = call.args, None
        try:
            value = await (target.call(args) if awaitable is None else awaitable)
            if type(value) not in _PLAIN:
                held = [value]
                del value
                value = wire.owned(held)
        except BaseException as error:
            from asyncio import CancelledError

            if isinstance(error, CancelledError) and call.cancelled:
                call.asker.answer(wire.CANCELLED, call.number, None)
            else:
                self._failed(call, error)
        else:
            call.asker.answer(wire.RESULT, call.number, value)
        finally:
            loop.done(call)

    def _warm_up(self, asker: Asker, number: int, modules: Sequence[str]) -> None:
        took: dict[str, float] = {}
        module = ""
        try:
            for module in modules:
                began = time.perf_counter()
                load(module, self._folders)
                try:
                    target = find(module, "warmup", folders=self._folders)
                except (AttributeError, TypeError):
                    target = None  # A module need not have one.
                if target is not None:
                    value = target.call({} if target.whole and target.required else None)
                    if inspect.isawaitable(value):
                        from asyncio import run

                        run(_awaited(value))
                took[module] = round((time.perf_counter() - began) * 1e3, 3)
        except BaseException as error:
            asker.answer(wire.FAILED, number, told(error, module, "warmup"))
            return
        asker.answer(wire.RESULT, number, took)


async def _awaited(value: Any) -> Any:
    return await value


def told(error: BaseException, module: str, function: str) -> dict[str, str]:
    """An exception as JavaScript gets it; the frames of the bridge itself are left out of the traceback."""
    kind = type(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
        trace = trace.tb_next
    try:
        message = str(error)
    except BaseException as broken:
        message = f"(its message cannot be read: {type(broken).__name__})"
    try:
        text = "".join(traceback.format_exception(kind, error, trace))
    except BaseException as broken:
        text = f"{kind.__qualname__}: {message} (its traceback cannot be read: {type(broken).__name__})\n"
    return {
        "type": kind.__qualname__
        if kind.__module__ in ("builtins", "__main__")
        else f"{kind.__module__}.{kind.__qualname__}",
        "message": _sendable(message),
        "traceback": _sendable(text),
        "module": module,
        "function": function,
    }


def _sendable(text: str) -> str:
    """Without lone surrogates (of file names, say), which UTF-8 has not."""
    return str.encode(text, "utf-8", "backslashreplace").decode()
