"""A server process and clients that do not speak HTTP, or speak it to do harm: it never fails, hangs, grows or is talked into a
request that nobody sent."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.app.test_cli_serve import onnx_model

from everloop.app.bench.processes import Server, everloop_server

SECONDS = 20.0
"""Beyond that a server hangs, on however slow a machine."""
MIB = 1 << 20
MOST_GROWTH = 24 * MIB
"""What an allocator may keep of a thousand connections; a leak of their bytes would be hundreds."""
BODY = b'{"features":[1,2]}'
PREDICT = b"/v1/models/m/predict"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """At its end it must stop as always, and have logged no defect."""
    folder = tmp_path_factory.mktemp("broken")
    onnx_model(folder / "m.onnx", 1.0)
    with everloop_server(folder, "m=m.onnx", "--memory") as one:
        one.wait()
        yield one
        one.stop()
        assert one.process.returncode == 0
        assert "Traceback" not in one.log.read_text()
        assert "ERROR" not in one.log.read_text()


class Said(NamedTuple):
    statuses: list[int]
    closed: bool
    """By the server, before the client was done."""


def request(
    body: bytes = BODY,
    *more: bytes,
    path: bytes = PREDICT,
    method: bytes = b"POST",
    length: bool = True,
    version: bytes = b"HTTP/1.1",
    end: bytes = b"\r\n",
) -> bytes:
    lines = [b"%b %b %b" % (method, path, version), b"Host: 127.0.0.1", b"Content-Type: application/json"]
    lines += [b"Content-Length: %d" % len(body)] * length
    return b"".join(line + end for line in [*lines, *more]) + end + body


GOOD = request()
SMUGGLED = request(b'{"name":"smuggled","kind":"linear"}', path=b"/v1/models")
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"12\r\n" + BODY + b"\r\n0\r\n\r\n"


def say(server: Server, parts: Sequence[bytes], *, last_word: bool = False) -> Said:
    """Send all of it, and listen until the server closes. Fails if it hangs. With `last_word` nothing more will come, so that nobody
    waits for the rest of a body; what is still being answered is then abandoned."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        cut = False
        heard = b""
        try:
            for part in parts:
                client.sendall(part)
        except OSError:
            cut = True
        with contextlib.suppress(ConnectionResetError):
            # A question of its own at the end: answered in its turn, or the server has closed before.
            with contextlib.suppress(OSError):
                client.sendall(b"GET /last HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if last_word:
                    client.shutdown(socket.SHUT_WR)
            while piece := client.recv(MIB):
                heard += piece
    statuses = [int(found) for found in re.findall(rb"HTTP/1\.1 (\d\d\d) ", heard)]
    last = b"/last" in heard
    return Said(statuses[:-1] if last else statuses, cut or not last)


def check(server: Server, said: Said) -> None:
    """Nobody was told of a defect, and everybody else is still served."""
    assert all(status < 500 for status in said.statuses), said
    status, answer = server.call("POST", PREDICT.decode(), {"features": [1, 2]})
    assert (status, b"prediction" in answer) == (200, True)


def models(server: Server) -> set[str]:
    return set(re.findall(r'"name":"([^"]*)"', server.call("GET", "/v1/models")[1].decode()))


def lengths(*values: bytes) -> bytes:
    return request(BODY + SMUGGLED, *(b"Content-Length: " + value for value in values), length=False)


REFUSED: dict[str, bytes] = {
    "both lengths": request(b"0\r\n\r\n" + SMUGGLED, CHUNKED),
    "both lengths, the other way": request(b"5\r\nhello\r\n0\r\n\r\n", CHUNKED, b"Content-Length: 3", length=False),
    "two lengths": lengths(b"18", b"5"),
    "the same length twice": lengths(b"18", b"18"),
    "a list of lengths": lengths(b"18, 18"),
    "a length with a sign": lengths(b"+18"),
    "a negative length": lengths(b"-1"),
    "a hexadecimal length": lengths(b"0x12"),
    "a length with a gap": lengths(b"1 8"),
    "a length as Python writes it": lengths(b"1_8"),
    "a length in other digits": lengths("١٨".encode()),
    "a length beyond 64 bits": lengths(b"18446744073709551634"),
    "no length": lengths(b""),
    "a gap before the colon": request(BODY + SMUGGLED, b"Content-Length : 18", length=False),
    "a gap before chunked's colon": request(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding : chunked", length=False),
    "another coding": request(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: xchunked", length=False),
    "chunked is not the last coding": request(CHUNKS, b"Transfer-Encoding: chunked, gzip", length=False),
    "chunked behind a control": request(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: \x0bchunked", length=False),
    "identity": request(BODY, b"Transfer-Encoding: identity"),
    "two codings": request(CHUNKS, CHUNKED, b"Transfer-Encoding: identity", length=False),
    "a chunk without a size": request(b"zz\r\n" + BODY, CHUNKED, length=False),
    "a chunk beyond 64 bits": request(b"1" + b"0" * 16 + b"\r\n" + BODY, CHUNKED, length=False),
    "a chunk of 0x12": request(b"0x" + CHUNKS, CHUNKED, length=False),
    "a chunk of -1": request(b"-1\r\n" + BODY, CHUNKED, length=False),
    "a chunk that is longer": request(b"5\r\n" + BODY + b"\r\n0\r\n\r\n", CHUNKED, length=False),
    "chunks in line feeds": request(CHUNKS.replace(b"\r", b""), CHUNKED, length=False),
    "a line feed in an extension": request(b"12;a=\nb" + CHUNKS[2:], CHUNKED, length=False),
    "a length among the trailers": request(CHUNKS[:-2] + b"Content-Length: 5\r\n\r\n", CHUNKED, length=False),
    "a folded line": request(BODY, b"X-A: b\r\n folded: 1"),
    "a folded length": request(BODY, b"Content-Length:\r\n 18", length=False),
    "a folded coding": request(b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding:\r\n chunked", length=False),
    "line feeds": request(end=b"\n"),
    "carriage returns": request(end=b"\r"),
    "one line feed": GOOD.replace(b"1\r\n", b"1\n", 1),
    "a carriage return in a value": request(BODY, b"X-A: b\rTransfer-Encoding: chunked"),
    "a NUL in a value": request(BODY, b"X-A: b\0c"),
    "a NUL in a name": request(BODY, b"X\0A: b"),
    "no name": request(BODY, b": b"),
    "no colon": request(BODY, b"colon"),
    "a bracket in a name": request(BODY, b"X(A: b"),
    "a gap before a name": GOOD.replace(b"Host", b" Host"),
    "no host": GOOD.replace(b"Host: 127.0.0.1\r\n", b""),
    "two hosts": request(BODY, b"Host: other"),
    "a method in small letters": GOOD.replace(b"POST", b"post"),
    "an unknown method": GOOD.replace(b"POST", b"PLEASE"),
    "a long method": b"A" * 70_000 + GOOD,
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + SMUGGLED,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "HTTP/1.2": request(version=b"HTTP/1.2"),
    "HTTP/11": request(version=b"HTTP/11"),
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\1" * 190,
    "every byte": bytes(range(256)) * 40,
    "nothing but NULs": b"\0" * 100_000,
    "letters in a path": GOOD.replace(b"/m/", "/é/".encode()),
    "a byte in a query": b"GET /v1/events?after=\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a control in a value": request(BODY, b"Everloop-Unit: a\1b"),
    "a body without a length": request(b"GARBAGE", method=b"GET", path=b"/v1/models", length=False),
}
"""Said in one piece; told 400 and no more, and the connection ends."""

ANSWERED: dict[str, tuple[bytes, int]] = {
    "as it should be": (GOOD, 200),
    "chunks": (request(CHUNKS, CHUNKED, length=False), 200),
    "an extension": (request(b"12;a=b" + CHUNKS[2:], CHUNKED, length=False), 200),
    "zeros before the length": (request(BODY, b"Content-Length: 00018", length=False), 200),
    "empty lines before": (b"\r\n\r\n" + GOOD, 200),
    "a whole address": (GOOD.replace(b"POST ", b"POST http://evil.example"), 200),
    "HTTP/1.0": (request(version=b"HTTP/1.0"), 200),
    "an unknown expectation": (request(BODY, b"Expect: 200-ok"), 200),
    "an upgrade": (request(BODY, b"Connection: Upgrade", b"Upgrade: h2c"), 200),
    "a dot": (request(path=b"/v1/models/../../m/predict"), 404),
    "a NUL in a path": (request(path=b"/v1/models/%00/predict"), 404),
    "a broken escape": (request(path=b"/v1/models/%zz/predict"), 404),
    "an escape that is no text": (request(path=b"/v1/models/%ff/predict"), 404),
    "a long path": (request(path=b"/v1/models/" + b"a" * 60_000 + b"/predict"), 404),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "a query that is no text": (b"GET /v1/models/m/timeline?limit=%FF HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 422),
    "a length beyond everything": (request(BODY, b"Content-Length: 9223372036854775808", length=False), 413),
    "a mebibyte of one header": (request(BODY, b"X: " + b"a" * MIB), 431),
    "very many headers": (request(BODY, *(b"X-%d: a" % i for i in range(30_000))), 431),
    "a mebibyte of a path": (request(path=b"/" + b"a" * MIB), 431),
    "a deep list": (request(b'{"features":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), 422),
    "a deep object": (request(b'{"name":"d","kind":"linear","parameters":' + b'{"a":' * 900 + b"1" + b"}" * 901, path=b"/v1/models"), 422),
    "a very large number": (request(b'{"features":[' + b"9" * 5000 + b",1]}"), 422),
    "half a letter": (request(b'{"name":"\\ud800","kind":"linear"}', path=b"/v1/models"), 400),
    "no text": (request(b'{"name":"\xff\xfe","kind":"linear"}', path=b"/v1/models"), 400),
    "another text": (request('{"features":[1,2]}'.encode("utf-16")), 400),
}  # fmt: skip


@pytest.mark.e2e
def test_what_is_no_http_is_refused_and_not_listened_to_any_longer(server: Server) -> None:
    for name, said in REFUSED.items():
        for parts in ([said], [said[:40], said[40:]]):
            answer = say(server, parts)
            assert answer.statuses in ([400], []), (name, answer)  # none: reset while it still sent
            assert answer.closed, name
        check(server, answer)
    assert models(server) == {"m"}


@pytest.mark.e2e
def test_what_is_odd_is_answered_once(server: Server) -> None:
    for name, (said, status) in ANSWERED.items():
        answer = say(server, [said])
        reset = status == 431 and answer.closed  # what it still sent is not read, so its answer may be lost
        assert answer.statuses == [status] or (reset and not answer.statuses), (name, answer)
        check(server, answer)
    assert models(server) == {"m"}


SEEDS = [
    GOOD,
    *(said for said in REFUSED.values() if len(said) < 500),
    *(said for said, _ in ANSWERED.values() if len(said) < 500),
]
spots = st.floats(0, 1, exclude_max=True)
bits = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\0",
            b":",
            b" ",
            b"0\r\n\r\n",
            b"Content-Length: 7\r\n",
            CHUNKED,
            GOOD,
            SMUGGLED[:-1],
        ]
    ),
)
changes = st.lists(st.tuples(spots, st.integers(0, 20), bits), max_size=4)


def changed(said: bytes, how: list[tuple[float, int, bytes]]) -> bytes:
    """`(where, how many bytes go, what comes in their place)`"""
    for where, gone, come in how:
        at = int(where * len(said))
        said = said[:at] + come + said[at + gone :]
    return said


@pytest.mark.e2e
def test_nothing_that_is_said_is_a_defect(server: Server) -> None:
    """Requests with bytes changed, left out and put in, behind each other and in pieces."""

    @settings(max_examples=400, suppress_health_check=list(HealthCheck), database=None)
    @given(
        st.lists(st.builds(changed, st.sampled_from(SEEDS), changes), min_size=1, max_size=3),
        st.lists(spots, max_size=3),
    )
    @example([GOOD[:-5]], [])
    def once(said: list[bytes], cuts: list[float]) -> None:
        whole = b"".join(said)
        at = [0, *sorted(int(cut * len(whole)) for cut in cuts), len(whole)]
        answer = say(server, [whole[a:b] for a, b in itertools.pairwise(at) if b > a], last_word=True)
        assert all(status < 500 for status in answer.statuses), answer

    once()
    check(server, Said([], False))


@pytest.mark.e2e
def test_connections_that_lead_nowhere_cost_nothing(server: Server) -> None:
    """Silent, begun, cut off in every place, half closed, pipelined and left: others are served meanwhile, and nothing stays."""
    begun = [b"", GOOD[:30], GOOD[:-3], request(b"", CHUNKED, length=False), GOOD * 50 + GOOD[:-1], REFUSED["TLS"][:5]]

    def round_of(count: int) -> None:
        with contextlib.ExitStack() as stack:
            clients: list[Any] = []
            for i in range(count):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS))
                client.sendall(begun[i % len(begun)])
                clients.append(client)
            check(server, Said([], False))
            for i, client in enumerate(clients):
                if i % 3 == 0:
                    client.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionResetError):
                        while client.recv(MIB):
                            pass
                elif i % 3 == 1:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset

    round_of(200)
    before = server.resident()
    for _ in range(4):
        round_of(250)
    assert server.resident() - before < MOST_GROWTH
    check(server, Said([], False))


@pytest.mark.e2e
def test_what_is_sent_without_end_is_not_kept(server: Server) -> None:
    before = server.resident()
    body = request(b"", CHUNKED, length=False)
    for begin, piece in (
        (GOOD[:30], b"x" * 65_536),
        (GOOD[:-4] + b"\r\nX: ", b"y" * 65_536),
        (body + b"1;", b"z" * 65_536),
        (body + CHUNKS[:-2], b"x-trailer: y\r\n" * 5000),
        (body, b"10000\r\n" + b" " * 65_536 + b"\r\n"),
        (body, b"1\r\n \r\n" * 10_000),
        (request(b"", b"Content-Length: 99999999", length=False), b" " * 65_536),
        (b"", b"\r\n" * 30_000),
    ):
        answer = say(server, [begin, *[piece] * 160])  # ten mebibytes
        check(server, answer)
        assert server.resident() - before < MOST_GROWTH + 12 * MIB, (
            begin[-20:],
            piece[:20],
        )  # a body of 10 MiB is within limits
