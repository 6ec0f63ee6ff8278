"""Load over gRPC: one call again and again, so many at a time, by just enough HTTP/2 that the server is the slower side.

gRPC's own clients cost as much a call as its servers, so they would be what is measured. Here every request is the same bytes but for
its stream's number, and of an answer only its frames are read: a call counts if a message came before its end.
"""

from __future__ import annotations

import asyncio
import statistics
import struct
import time
from typing import Any

import msgspec

from everloop.app.bench.processes import load_core, on_core

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW = 2**31 - 1
RENEW = 2**28
"""Bytes received after which the connection's window is opened again."""
LAST_STREAM = 2**31 - 2**16


class GrpcRun(msgspec.Struct):
    calls: int
    per_second: float
    p50: float
    """Seconds."""
    failed: int


def grpc_load(port: int, method: str, message: bytes, *, connections: int, calls: int, seconds: float) -> GrpcRun:
    """`calls` at a time on each connection. Blocks, on the load's core. Raises OSError where nobody listens."""
    import uvloop

    async def go() -> GrpcRun:
        loop = asyncio.get_running_loop()
        opened = [_Connection(method, message, calls, f"127.0.0.1:{port}") for _ in range(connections)]
        began = time.perf_counter()
        for each in opened:
            await loop.create_connection(lambda each=each: each, "127.0.0.1", port)  # type: ignore[misc]
        timers = [loop.call_later(seconds, each.stop) for each in opened]
        await asyncio.gather(*(each.done for each in opened))
        for timer in timers:
            timer.cancel()
        taken = time.perf_counter() - began
        latencies = [value for each in opened for value in each.latencies]
        return GrpcRun(
            calls=len(latencies),
            per_second=len(latencies) / taken,
            p50=statistics.median(latencies) if latencies else float("nan"),
            failed=sum(each.failed for each in opened),
        )

    with on_core(load_core()):
        return uvloop.run(go())


class _Connection(asyncio.Protocol):
    def __init__(self, method: str, message: bytes, calls: int, authority: str) -> None:
        self._head = _headers(method, authority)
        self._body = struct.pack(">BI", 0, len(message)) + message
        self._wanted = calls
        self._next = 1
        self._window = 65_535
        self._received = 0
        self._buffer = b""
        self._under_way: dict[int, float] = {}
        self._answered: set[int] = set()
        self._stopped = False
        self.latencies: list[float] = []
        self.failed = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        settings = struct.pack(">HI", 4, WINDOW)  # SETTINGS_INITIAL_WINDOW_SIZE
        opening = _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - 65_535))
        transport.write(PREFACE + _frame(SETTINGS, 0, 0, settings) + opening)
        self._send()

    def stop(self) -> None:
        """Calls under way still get their answer."""
        self._stopped = True
        self._rest()

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        at, end = 0, len(data)
        while end - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            if end - at < 9 + size:
                break
            kind, flags, stream = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big")
            self._frame(kind, flags, stream, data[at + 9 : at + 9 + size])
            at += 9 + size
        self._buffer = data[at:]
        self._send()
        self._rest()

    def connection_lost(self, _error: Exception | None) -> None:
        self.failed += len(self._under_way)
        self._under_way.clear()
        self._stopped = True
        self._rest()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._answered.add(stream)
            self._received += len(payload)
            if self._received > RENEW:
                self._transport.write(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
                self._received = 0
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._transport.write(_frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self._stopped = True
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            began = self._under_way.pop(stream, None)
            if began is None:
                return
            if stream in self._answered and kind != RST_STREAM:
                self.latencies.append(time.perf_counter() - began)
            else:
                self.failed += 1
            self._answered.discard(stream)

    def _send(self) -> None:
        now = time.perf_counter()
        out = []
        while not self._stopped and len(self._under_way) < self._wanted and self._window >= len(self._body):
            stream, self._next = self._next, self._next + 2
            self._window -= len(self._body)
            self._under_way[stream] = now
            out.append(_frame(HEADERS, END_HEADERS, stream, self._head) + _frame(DATA, END_STREAM, stream, self._body))
            self._stopped = self._next > LAST_STREAM
        if out:
            self._transport.write(b"".join(out))

    def _rest(self) -> None:
        if self._stopped and not self._under_way and not self.done.done():
            self.done.set_result(None)
            self._transport.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _headers(method: str, authority: str) -> bytes:
    """HPACK without its dynamic table: static names and literals (RFC 7541, 6.1 and 6.2.2)."""

    def text(value: str) -> bytes:
        return bytes((len(value),)) + value.encode()

    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + text(method),  # :path
            b"\x01" + text(authority),  # :authority
            b"\x0f\x10" + text("application/grpc"),  # content-type
            b"\x00" + text("te") + text("trailers"),
        )
    )
