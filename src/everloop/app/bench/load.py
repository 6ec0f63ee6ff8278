"""Load over HTTP: `wrk` for what a server can do at most, and a client of our own for what its answers say.

`Client` keeps a number of connections busy, one request at a time on each, and hands every answer to the caller, who may
check it; it reaches some 15,000 requests a second on one core, enough for labels and swaps, too little for a throughput.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from everloop.app.bench.processes import everloop_server, load_core, on_core
from everloop.app.bench.rows import Context, Skip

JSON = {"content-type": "application/json"}
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class WrkRun(msgspec.Struct):
    requests: int
    per_second: float
    p50: float
    p99: float
    refused: int
    """Answers other than 2xx and 3xx."""
    socket_errors: int


def need_wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        raise Skip("wrk is not installed: apt install wrk, brew install wrk, or https://github.com/wg/wrk")
    return found


def wrk(
    port: int,
    path: str,
    body: bytes | Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    folder: Path,
    headers: Mapping[str, str] = JSON,
) -> WrkRun:
    """POST `body` from one thread for so long; several, without line feeds, take turns. Raises Skip where wrk is missing."""
    script, content = folder / "post.lua", folder / "post.body"
    content.write_bytes(body if isinstance(body, bytes) else b"\n".join(body))
    said = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())
    sent = f'wrk.body = io.open("{content}", "rb"):read("*a")\n' if isinstance(body, bytes) else _IN_TURNS % content
    script.write_text(f'wrk.method = "POST"\n{said}{sent}')
    command = [need_wrk(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "--timeout", "10s"]
    command += ["-s", str(script), f"http://127.0.0.1:{port}{path}"]
    with on_core(load_core()):
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    return parse_wrk(ran.stdout)


def ask_served(
    context: Context,
    folder: Path,
    served: str,
    path: str,
    bodies: Sequence[bytes],
    *,
    what: str,
    connections: int,
    rounds: int,
    seconds: float,
) -> list[WrkRun]:
    """`everloop serve SERVED`, and `bodies` in turns at its `path`, a round after the other; one more, before them, warms up."""
    runs = []
    with everloop_server(folder, served, "--memory") as server:
        server.wait()
        for turn in range(rounds + 1):
            context.say(f"{what} over HTTP, {turn}")
            runs.append(wrk(server.port, path, bodies, connections=connections, seconds=seconds, folder=folder))
    return runs[1:]


_IN_TURNS = """
local requests, turn = {}, 0
init = function()
  for body in io.lines("%s") do requests[#requests + 1] = wrk.format(nil, nil, nil, body) end
end
request = function()
  turn = turn %% #requests + 1
  return requests[turn]
end
"""


def parse_wrk(text: str) -> WrkRun:
    def number(pattern: str) -> float:
        found = re.search(pattern, text)
        return float(found[1]) if found else 0.0

    def percentile(name: str) -> float:
        found = re.search(rf"^\s+{name}%\s+([\d.]+)(us|ms|s|m)\b", text, re.MULTILINE)
        return float(found[1]) * UNITS[found[2]] if found else float("nan")

    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return WrkRun(
        requests=int(number(r"(\d+) requests in")),
        per_second=number(r"Requests/sec:\s+([\d.]+)"),
        p50=percentile("50"),
        p99=percentile("99"),
        refused=int(number(r"Non-2xx or 3xx responses: (\d+)")),
        socket_errors=sum(map(int, errors.groups())) if errors else 0,
    )


def post(path: str, body: bytes) -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


Next = Callable[[int], "bytes | None"]
"""The next request of a connection (by its number), or None: that connection is done."""
Answered = Callable[[int, int, bytes], None]
"""Connection, status, body."""


class Answer(NamedTuple):
    status: int
    body: bytes
    rest: bytes
    """What came after it."""
    closes: bool


def first_answer(buffer: bytes) -> Answer | None:
    """None while it is not all there. As our servers frame it, by `Content-Length`."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end].lower()
    at = head.find(b"content-length:")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    whole = end + 4 + length
    if len(buffer) < whole:
        return None
    return Answer(int(head[9:12]), buffer[end + 4 : whole], buffer[whole:], b"connection: close" in head)


class _Connection(asyncio.Protocol):
    def __init__(self, number: int, client: Client) -> None:
        self.number, self.client = number, client
        self.buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        request = None if self.client.stopped else self.client.next(self.number)
        if request is None:
            self.finish()
            self.transport.close()
        else:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        answer = first_answer(self.buffer)
        if answer is None:
            return
        self.buffer = answer.rest
        self.client.answered(self.number, answer.status, answer.body)
        if not answer.closes:
            self.send()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.done.done():
            self.client.socket_errors += 1
            self.finish()

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Client:
    """`connections` busy connections until every one is done, the time is over, or the server is gone.

    A connection that the server closes unasked counts as a socket error and is not opened again."""

    def __init__(self, port: int, connections: int, next_request: Next, answered: Answered) -> None:
        self.port, self.connections = port, connections
        self.next, self.answered = next_request, answered
        self.socket_errors = 0
        self.stopped = False

    def run(self, seconds: float | None = None) -> None:
        """Blocks, on the load's core."""
        import uvloop

        with on_core(load_core()):
            uvloop.run(self.go(seconds))

    async def go(self, seconds: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        opened: list[_Connection] = []
        for number in range(self.connections):
            connection = _Connection(number, self)
            try:
                await loop.create_connection(lambda connection=connection: connection, "127.0.0.1", self.port)  # type: ignore[misc]
            except OSError:
                self.socket_errors += 1
                continue
            opened.append(connection)
        timer = None if seconds is None else loop.call_later(seconds, self.stop)
        await asyncio.gather(*(connection.done for connection in opened))
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """No connection asks again; those that wait for an answer still get it."""
        self.stopped = True
