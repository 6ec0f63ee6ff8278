"""The load of the benchmarks counts what really happened."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from everloop.app.bench.arrivals import Arrivals, percentile, run_all
from everloop.app.bench.load import Client, parse_wrk, post

WRK = """Running 4s test @ http://127.0.0.1:8100/v1/models/bc/predict
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.23ms  210.00us   9.87ms   91.02%
    Req/Sec    51.90k     2.11k   55.12k    72.50%
  Latency Distribution
     50%    1.19ms
     75%    1.30ms
     90%    1.42ms
     99%  980.00us
  206522 requests in 4.00s, 31.71MB read
  Socket errors: connect 1, read 2, write 0, timeout 4
  Non-2xx or 3xx responses: 12
Requests/sec:  51607.35
Transfer/sec:      7.92MB
"""


def test_what_wrk_prints_is_read() -> None:
    run = parse_wrk(WRK)
    assert run.requests == 206_522
    assert run.per_second == 51_607.35
    assert run.p50 == pytest.approx(1.19e-3)
    assert run.p99 == pytest.approx(980e-6)
    assert run.refused == 12
    assert run.socket_errors == 7


def test_a_run_without_errors_has_none() -> None:
    run = parse_wrk("  10 requests in 1.00s, 1KB read\nRequests/sec:     10.00\n")
    assert (run.requests, run.refused, run.socket_errors) == (10, 0, 0)


@contextmanager
def server(answer: bytes, drop_after: int = 1_000_000) -> Iterator[int]:
    """Answers every request with the same bytes, in two pieces; closes a connection after so many of its requests."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for _ in range(drop_after):
                length = 0
                while line := self.rfile.readline().strip().lower():
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                if not length:
                    return
                self.rfile.read(length)
                self.wfile.write(answer[:20])
                self.wfile.flush()
                self.wfile.write(answer[20:])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield listening.server_address[1]
        listening.shutdown()
        thread.join()


ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nhello"


def test_every_answer_reaches_its_connection() -> None:
    left = {0: 5, 1: 3}
    seen: list[tuple[int, int, bytes]] = []

    def ask(connection: int) -> bytes | None:
        left[connection] -= 1
        return post("/x", b"{}") if left[connection] >= 0 else None

    with server(ANSWER) as port:
        client = Client(port, 2, ask, lambda *answer: seen.append(answer))
        client.run()
    assert sorted(seen) == [(0, 202, b"hello")] * 5 + [(1, 202, b"hello")] * 3
    assert client.socket_errors == 0


def test_it_ends_when_the_time_is_over() -> None:
    seen: list[int] = []
    with server(ANSWER) as port:
        Client(port, 4, lambda _c: post("/x", b"{}"), lambda c, _s, _b: seen.append(c)).run(0.2)
    assert len(seen) > 0


def test_a_connection_that_the_server_drops_is_counted() -> None:
    seen: list[int] = []
    with server(ANSWER, drop_after=2) as port:
        client = Client(port, 3, lambda _c: post("/x", b"{}"), lambda c, _s, _b: seen.append(c))
        client.run(10)
    assert len(seen) == 6
    assert client.socket_errors == 3


def test_a_server_that_is_not_there_is_counted() -> None:
    with server(ANSWER) as port:
        pass
    client = Client(port, 2, lambda _c: post("/x", b"{}"), lambda *_: None)
    client.run(1)
    assert client.socket_errors == 2


def test_arrivals_come_whether_or_not_earlier_ones_were_answered() -> None:
    with server(ANSWER) as port:
        loads = [Arrivals(port, [post("/x", b"{}")], 100.0, 0.5, connections=8, seed=seed) for seed in range(2)]
        run_all(loads)
    for load in loads:
        assert load.statuses() == {202: len(load.found)}
        assert 15 < len(load.found) < 100, "50 on average"
        assert load.lost == 0
        assert all(0 <= one.due <= one.sent <= one.answered for one in load.found)
        assert all(one.latency >= one.on_the_wire for one in load.found)


def test_an_arrival_whose_connection_ends_is_lost() -> None:
    with server(ANSWER, drop_after=1) as port:
        load = Arrivals(port, [post("/x", b"{}")], 400.0, 0.1, connections=4)
        load.run()
    assert len(load.found) <= 4


def test_percentiles_of_nothing_are_nothing() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile([], 0.99) != percentile([], 0.99)
