"""One socket to Node: a thread that reads requests, and an outbox that any thread answers through.

The reader never waits for Node to read: what the socket does not take at once is written by a second thread. So a Node that is
itself blocked (in `callPythonSync`) cannot stop the pool that it waits for."""

from __future__ import annotations

import os
import platform
import queue
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everloop_bridge import wire
from everloop_bridge.engine import Call, Engine, told

_READ = 1 << 17
_END = 0
"""What is no pin: they count from 1."""


class Outbox:
    """Frames on their way out, in order and whole, whichever thread gave them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._backlog: deque[bytes | memoryview] = deque()
        self._writing = False
        self._closed = False

    def send(self, data: bytes) -> None:
        with self._lock:
            if self._closed:
                return
            if not self._backlog:
                try:
                    sent = self._sock.send(data, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self._closed = True  # Node is gone: nobody waits for these answers.
                    return
                if sent == len(data):
                    return
                data = memoryview(data)[sent:]  # type: ignore[assignment]
            self._backlog.append(data)
            if not self._writing:
                self._writing = True
                threading.Thread(target=self._write, name="everloop-bridge-writer", daemon=True).start()

    def flush(self, timeout: float) -> None:
        """Wait until everything is out."""
        with self._more:
            self._more.wait_for(lambda: not self._backlog, timeout)

    def _write(self) -> None:
        while True:
            with self._lock:
                data = self._backlog[0]
            try:
                self._sock.sendall(data)
            except OSError:
                with self._more:
                    self._closed = True
                    self._backlog.clear()
                    self._more.notify_all()
                return
            with self._more:
                self._backlog.popleft()
                if not self._backlog:
                    self._writing = False
                    self._more.notify_all()
                    return


class Releases:
    """Pins of JavaScript's memory that Python has let go of, on their way back: with the next answer, or at once by a thread
    that waits for them, for there may be no next answer."""

    def __init__(self, post: Callable[[list[int]], None]) -> None:
        self._post = post
        # Its `put` may run in a finalizer, in the middle of any other code of the same thread.
        self._pins: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.expected = False

    def expect(self) -> None:
        if not self.expected:
            self.expected = True
            threading.Thread(target=self._wait, name="everloop-bridge-releases", daemon=True).start()

    def add(self, pin: int) -> None:
        self._pins.put(pin)

    def end(self) -> None:
        self._pins.put(_END)

    def taken(self) -> list[int]:
        """All that are there now."""
        pins: list[int] = []
        while not self._pins.empty():
            try:
                pin = self._pins.get_nowait()
            except queue.Empty:
                break  # Another thread took the last one.
            if pin == _END:
                self.end()
                break
            pins.append(pin)
        return pins

    def _wait(self) -> None:
        while (pin := self._pins.get()) != _END:
            self._post([pin, *self.taken()])


class Connection:
    """Serves one socket until Node closes it or says so; `ended(asked)` is called then, on the reader's thread."""

    def __init__(
        self, sock: socket.socket, engine: Engine, *, same_process: bool, ended: Callable[[bool], None] | None = None
    ) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._engine = engine
        self._same_process = same_process
        self._ended = ended
        self._outbox = Outbox(sock)
        self._calls: dict[int, Call] = {}
        self._lent: dict[int, list[Any]] = {}
        """Arrays that Node still has to copy, by the call that they answer."""
        self._releases = Releases(lambda pins: self._outbox.send(self._release_frame(pins)))
        self._reader = 0
        self._batch: list[bytes] = []
        self._codec = wire.Codec(self._releases if same_process else None)

    def start(self) -> None:
        threading.Thread(target=self.serve, name="everloop-bridge-reader", daemon=True).start()

    def hello(self) -> None:
        about = {
            "version": platform.python_version(),
            "executable": sys.executable,
            "prefix": sys.prefix,
            "pid": os.getpid(),
        }
        self._outbox.send(wire.frame(wire.HELLO, 0, self._codec.encode(about)))

    def serve(self) -> None:
        self._reader = threading.get_ident()
        asked = False
        space = bytearray(_READ)
        rest = bytearray()  # Of a frame whose end has not come yet.
        try:
            with memoryview(space) as view:
                while not asked and (size := self._sock.recv_into(space)):
                    if rest:
                        rest += view[:size]
                        with memoryview(rest) as whole:
                            used, asked = self._take(whole)
                        del rest[:used]
                    else:
                        used, asked = self._take(view[:size])
                        if used < size:
                            rest += view[used:size]
                    self._send_batch()
        except OSError:
            asked = False  # The socket broke: the same as Node's going away.
        finally:
            self._end(asked)

    def _end(self, asked: bool) -> None:
        try:
            for call in list(self._calls.values()):
                self._engine.cancel(call)
            if self._ended is not None:
                self._ended(asked)
        finally:
            # Whatever happens here: Node must not wait for a reader that has gone.
            if asked:
                self._outbox.send(wire.frame(wire.CLOSED, 0, b"\xc0"))
                self._outbox.flush(5.0)
            self._releases.end()
            self._lent.clear()
            self._sock.close()

    def _take(self, view: memoryview) -> tuple[int, bool]:
        """Handle the whole frames in `view`; how many bytes they were, and whether Node asked to close."""
        head, at, size = wire.HEAD, 0, len(view)
        while at + head.size <= size:
            length, kind, number = head.unpack_from(view, at)
            end = at + 4 + length
            if end > size:
                break
            with view[at + head.size : end] as body:
                at = end
                if kind == wire.CALL:
                    self._call(number, body)
                elif not self._control(kind, number, body):
                    return at, True
        return at, False

    def _call(self, number: int, body: memoryview) -> None:
        try:
            module, function, args = self._codec.decode(body)
        except BaseException as error:
            failure = told(error, "", "")
            failure["message"] = f"the arguments could not be read in Python: {failure['message']}"
            self.answer(wire.UNREAD, number, {**failure, "traceback": ""})
            return
        call = Call(self, number, module, function, args)
        del args
        self._calls[number] = call
        self._engine.start(call)

    def _control(self, kind: int, number: int, body: memoryview) -> bool:
        """Everything that is not a call; False if Node asked to close."""
        if kind == wire.CLOSE:
            return False
        value = self._codec.decode(body)
        if kind == wire.CANCEL:
            call = self._calls.get(number)
            if call is not None:
                self._engine.cancel(call)
        elif kind == wire.RELEASE:
            for answered in value:
                self._lent.pop(answered, None)
        elif kind == wire.WARMUP:
            self._engine.warm_up(self, number, value)
        elif kind == wire.LISTEN:
            listen(value, self._engine, same_process=self._same_process)
        return True

    def answer(self, kind: int, number: int, value: Any) -> None:
        call = self._calls.pop(number, None)
        if call is not None and call.cancelled:
            kind, value = wire.CANCELLED, None
        try:
            body = self._codec.encode(value)
        except BaseException as error:
            where = (call.module, call.function) if call is not None else ("", "")
            kind, body = wire.FAILED, self._codec.encode(told(error, *where))
        lent = self._codec.lent()
        if lent:
            self._lent[number] = lent
        del value
        self._post(wire.frame(kind, number, body))

    def _post(self, data: bytes) -> None:
        if self._releases.expected and (pins := self._releases.taken()):
            data += self._release_frame(pins)
        if threading.get_ident() == self._reader:
            self._batch.append(data)
        else:
            self._outbox.send(data)

    def _send_batch(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._outbox.send(b"".join(batch))

    def _release_frame(self, pins: list[int]) -> bytes:
        return wire.frame(wire.RELEASED, 0, self._codec.encode(pins))


def listen(path: str, engine: Engine, *, same_process: bool) -> None:
    """Take one more connection of the same bridge, at a Unix socket in a folder that only its user may enter."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(1)
    except OSError:
        traceback.print_exc()  # `callPythonSync` waits in vain; the other calls do not.
        listener.close()
        return

    def accept() -> None:
        with listener:
            sock, _ = listener.accept()
        Path(path).unlink()
        Connection(sock, engine, same_process=same_process).serve()

    threading.Thread(target=accept, name="everloop-bridge-sync", daemon=True).start()
