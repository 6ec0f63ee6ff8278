"""Frames: what is said over the pipes between a parent and its worker process, and the buffers at both ends.

    frame    HEAD, then `parts` little-endian uint64 lengths, the payload, and the parts (pickle's out-of-band buffers)
    HEAD     kind, flags, parts, number, payload's length, count, and three floats whose meaning depends on the kind

A frame that fits into one read is taken from it as it is. Of a longer one each part gets memory of its own, and what is still to come
is read straight into that: a NumPy array of a result lies where the pipe has delivered it.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from itertools import islice

HEAD = struct.Struct("<BBxxIqQIxxxxddd")
_LENGTH = struct.Struct("<Q")
_READ = 1 << 16
_PIPE = 1 << 20
_AT_ONCE = 256
"""Buffers that one system call takes; the limit is 1024 (IOV_MAX)."""

# From the parent. OPEN: the function, `number` counts them. CHUNK: items, (slice, timeout, 0). FORGET: drop the function.
# QUIT: end in good order.
OPEN, CHUNK, FORGET, QUIT = 1, 2, 3, 4
# From the worker. HELLO: (monotonic time, 0, 0). LOADED: (seconds, 0, 0). RESULT: `count` values, (seconds, squares, CPU seconds).
# BEAT: item `count` of chunk `number` begins. BACK: the chunk was not begun. UNREADABLE: nor can its items be unpickled.
HELLO, LOADED, RESULT, BEAT, BACK, UNREADABLE = 11, 12, 13, 14, 15, 16

SEPARATE = 1
"""Flag: the payload is a list of pickles, so that one which cannot be read spoils no other."""
FAILURES = 2
"""Flag: the last part is the pickled list of failures."""
RAW = 4
"""Flag of OPEN: the function gets each item's bytes and answers bytes; neither is a pickle."""
BROKEN = 8
"""Flag of LOADED: the function could not be unpickled; the payload says why."""

Bytes = bytes | bytearray | memoryview


class Frame:
    __slots__ = ("count", "flags", "kind", "number", "numbers", "parts", "payload", "size")

    def __init__(self, kind: int, flags: int, number: int, count: int, numbers: tuple[float, float, float]) -> None:
        self.kind = kind
        self.flags = flags
        self.number = number
        self.count = count
        self.numbers = numbers
        self.payload: Bytes = b""
        self.parts: list[Bytes] = []
        self.size = 0
        """Bytes of payload and parts."""


def pieces(
    kind: int,
    number: int = 0,
    payload: Bytes = b"",
    parts: list[memoryview] | tuple[()] = (),
    *,
    flags: int = 0,
    count: int = 0,
    numbers: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> list[Bytes]:
    """A frame, as buffers to be written one after the other; a short one is one piece."""
    head = HEAD.pack(kind, flags, len(parts), number, len(payload), count, *numbers)
    if not parts:
        return [head + payload] if len(payload) < _READ else [head, payload]
    lengths = struct.pack(f"<{len(parts)}Q", *(part.nbytes for part in parts))
    return [head + lengths, payload, *parts]


class Reader:
    """Frames out of a pipe, blocking or not as the pipe is."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._data: bytes = b""
        self._at = 0
        self._frame: Frame | None = None
        """A long one that is being read."""
        self._missing: list[memoryview] = []
        self.ended = False

    @property
    def midway(self) -> bool:
        """A long frame has begun to come."""
        return self._frame is not None

    def fill(self) -> bool:
        """One read. False where there was nothing to read, or the other end is closed (`ended`)."""
        try:
            if self._missing:
                got = os.readv(self._pipe, self._missing[:_AT_ONCE])
                self._drop(got)
            else:
                data = os.read(self._pipe, _READ)
                got = len(data)
                self._data = self._data[self._at :] + data if self._at < len(self._data) else data
                self._at = 0
        except BlockingIOError:
            return False
        except ConnectionResetError:
            got = 0
        self.ended = got == 0
        return got > 0

    def next(self) -> Frame | None:
        """The next whole frame of what was read so far."""
        if self._frame is not None:
            if self._missing:
                return None
            frame, self._frame = self._frame, None
            return frame
        data, at = self._data, self._at
        have = len(data) - at
        if have < HEAD.size:
            return None
        kind, flags, parts, number, length, count, first, second, third = HEAD.unpack_from(data, at)
        start = at + HEAD.size + parts * _LENGTH.size
        if len(data) < start:
            return None
        frame = Frame(kind, flags, number, count, (first, second, third))
        lengths = struct.unpack_from(f"<{parts}Q", data, at + HEAD.size) if parts else ()
        frame.size = length + sum(lengths)
        if len(data) - start >= frame.size and not parts:
            self._at = start + length
            frame.payload = data[start : self._at] if start or self._at < len(data) else data
            return frame
        return self._begin(frame, start, (length, *lengths))

    def _begin(self, frame: Frame, start: int, lengths: tuple[int, ...]) -> Frame | None:
        """Memory for a frame's payload and parts, what has come of them already, and the list of what has not."""
        targets = [bytearray(length) for length in lengths]
        frame.payload, frame.parts = targets[0], list(targets[1:])
        data, at = memoryview(self._data), start
        missing = []
        for target in targets:
            got = min(len(target), len(data) - at)
            target[:got] = data[at : at + got]
            at += got
            if got < len(target):
                missing.append(memoryview(target)[got:])
        self._at = at
        if not missing:
            return frame
        self._frame, self._missing = frame, missing
        return None

    def _drop(self, got: int) -> None:
        missing = self._missing
        done = 0
        while done < len(missing) and got >= len(missing[done]):
            got -= len(missing[done])
            done += 1
        if got:
            missing[done] = missing[done][got:]
        del missing[:done]


class Outbox:
    """What is still to be written to a pipe. Where that blocks, nothing is left after `put`."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._waiting: deque[memoryview] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, buffers: list[Bytes]) -> bool:
        """Write what the pipe takes now. False once the other end is closed."""
        if not self._waiting and len(buffers) == 1:
            only = buffers[0]
            try:
                written = os.write(self._pipe, only)
            except BlockingIOError:
                written = 0
            except BrokenPipeError:
                return False
            if written == len(only):
                return True
            buffers = [memoryview(only)[written:]]
        self.hold(buffers)
        return self.flush()

    def hold(self, buffers: list[Bytes]) -> None:
        """To be written with what comes after it: waking the other side costs more than a short frame itself."""
        for buffer in buffers:
            if len(buffer):
                self._waiting.append(memoryview(buffer))

    def flush(self) -> bool:
        """The same for what waits."""
        waiting = self._waiting
        while waiting:
            try:
                written = os.writev(self._pipe, list(islice(waiting, _AT_ONCE)))
            except BlockingIOError:
                return True
            except BrokenPipeError:
                return False
            while waiting and written >= waiting[0].nbytes:
                written -= waiting.popleft().nbytes
            if written:
                waiting[0] = waiting[0][written:]
        return True


def widen(pipe: int) -> None:
    """A pipe of 1 MB where the system allows it: a large result is then one switch between two processes instead of sixteen."""
    import fcntl

    size = getattr(fcntl, "F_SETPIPE_SZ", None)
    if size is None:
        return
    try:
        fcntl.fcntl(pipe, size, _PIPE)
    except OSError:  # over what this user may have in pipes: it works with the small one, too
        return
