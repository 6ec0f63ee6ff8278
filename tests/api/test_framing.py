"""Where a message ends: what httptools leaves to its user, over real sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.api.test_fastlane import ROW, request, serve

from everloop.api.http import framing

__all__ = ["serve"]  # a fixture

WISHES = {
    "websocket": {"Connection": "Upgrade", "Upgrade": "websocket"},
    "java": {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABk"},
    "close, too": {"Connection": "close, Upgrade", "Upgrade": "h2c"},
}
CHUNKED = {"Content-Length": None, "Transfer-Encoding": "chunked"}


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("path", ["/v1/models/sum/predict", "/v1/models/sum/predict?through=the+app"])
def test_who_asks_for_another_protocol_is_answered_in_this_one(serve: Any, wish: str, path: str) -> None:
    """In one packet, in two, and in any number behind each other: the body is the body."""
    server, whole = serve(), request(ROW, path, headers=WISHES[wish])
    head = whole.index(b"\r\n\r\n") + 4
    for parts in (
        [whole],
        [whole[:head], whole[head:]],
        [whole[: head - 1], whole[head - 1 : head + 2], whole[head + 2 :]],
    ):
        with server.connect() as client:
            for part in parts:
                client.send(part)
                server.on_loop(lambda: None)
            status, _, body = client.answer()
            assert (status, json.loads(body)["prediction"]) == (200, 3.0)
            if "close" in wish:
                assert client.closed()
                continue
            client.send(whole * 20)
            assert [json.loads(client.answer()[2])["prediction"] for _ in range(20)] == [3.0] * 20


def test_the_body_of_one_who_asks_for_another_protocol_is_never_a_request(serve: Any, services: Any) -> None:
    server = serve()
    inner = request({"name": "smuggled", "kind": "linear"}, "/v1/models")
    for path in ("/v1/models/sum/predict", "/v1/models"):
        whole = request(inner, path, headers=WISHES["java"])
        with server.connect() as client:
            client.send(whole[: -len(inner)])
            server.on_loop(lambda: None)
            client.send(inner)
            assert client.answer()[0] == 400
            assert client.ask(ROW)[0] == 200
    assert "smuggled" not in services.registry.names()


def test_nobody_is_connected_through(serve: Any) -> None:
    with serve().connect() as client:
        client.send(b"CONNECT other:80 HTTP/1.1\r\nHost: other:80\r\n\r\n" + request(ROW))
        assert client.answer()[0] == 400
        assert client.closed()


@pytest.mark.parametrize("hosts", [[], ["a", "b"], ["a", "a"]], ids=str)
@pytest.mark.parametrize("path", ["/v1/models/sum/predict", "/v1/models/sum/predict?through=the+app"])
def test_a_request_names_one_host(serve: Any, hosts: list[str], path: str) -> None:
    named = "".join(f"Host: {host}\r\n" for host in hosts).encode()
    with serve().connect() as client:
        client.send(request(ROW, path).replace(b"Host: test\r\n", named))
        status, headers, body = client.answer()
        assert (status, headers["content-type"], json.loads(body)["code"]) == (
            400,
            "application/problem+json",
            "malformed",
        )
        assert client.closed()


def test_http_1_0_need_not_name_its_host(serve: Any) -> None:
    with serve().connect() as client:
        client.send(request(ROW, version="1.0").replace(b"Host: test\r\n", b""))
        assert client.answer()[0] == 200


def test_trailers_are_not_headers(serve: Any) -> None:
    """They come when the endpoint may have read the headers, or not: what they say must not depend on that."""
    sent = request(b"", "/v1/models/sum/feedback", headers=CHUNKED)  # type: ignore[arg-type]
    body = json.dumps({"features": [1, 2], "label": 3}).encode()
    with serve().connect() as client:
        for _ in range(2):
            client.send(sent + b"%x\r\n%b\r\n0\r\nIdempotency-Key: %b\r\n\r\n" % (len(body), body, b"k" * 300))
            status, _, answer = client.answer()
            assert (status, json.loads(answer)["duplicate"]) == (202, False)
        assert client.ask(ROW)[0] == 200


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("part", "status"), [(0.9, 200), (1.1, 431)], ids=["small enough", "too large"])
def test_a_head_of_many_small_headers_is_counted_however_it_comes(
    serve: Any, parts: int, part: float, status: int
) -> None:
    size = len("x-12345: a\r\n")
    headers = {f"x-{number:05}": "a" for number in range(int(part * framing.MOST_HEAD) // size)}
    whole = request(ROW, headers=headers)
    server = serve()
    with server.connect() as client:
        for start in range(0, len(whole), step := -(-len(whole) // parts)):
            client.send(whole[start : start + step])
            server.on_loop(lambda: None)
        assert client.answer()[0] == status


@pytest.mark.parametrize("endless", [b"x-more: y\r\n", b"x", b""], ids=["trailers", "one trailer", "an extension"])
def test_what_is_no_body_does_not_go_on_for_ever(serve: Any, endless: bytes) -> None:
    server = serve()
    body = json.dumps(ROW).encode()
    begun = b"1" if not endless else b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    piece = (endless or b";x=y") * 1000
    with server.connect() as client:
        client.send(request(b"", headers=CHUNKED) + begun + (b"x: " if endless == b"x" else b""))  # type: ignore[arg-type]
        sent = 0
        while sent < 8 << 20:
            try:
                client.send(piece)
            except OSError:
                break
            sent += len(piece)
        assert sent < 8 << 20
    with server.connect() as client:
        assert client.ask(ROW)[0] == 200


def test_a_body_in_the_smallest_pieces_is_still_taken(serve: Any) -> None:
    """Its chunks' lines are many times what it is itself."""
    body = json.dumps({"features": [1.0, 2.0]}).encode() + b" " * (framing.MOST_HEAD // 4)
    pieces = b"".join(b"1;note=this\r\n%c\r\n" % byte for byte in body)
    assert len(pieces) > 3 * framing.MOST_HEAD
    with serve().connect() as client:
        client.send(request(b"", headers=CHUNKED) + pieces + b"0\r\n\r\n")  # type: ignore[arg-type]
        assert client.answer()[0] == 200


def test_a_head_without_the_wish_is_otherwise_the_same() -> None:
    given = [(b"host", b"h"), (b"connection", b"keep-alive, upgrade"), (b"upgrade", b"h2c"), (b"x", b"1"), (b"x", b"2")]
    head = framing.as_if_not_asked(b"GET", b"/a?b", "1.1", given)
    assert head == b"GET /a?b HTTP/1.1\r\nhost: h\r\nconnection: keep-alive\r\nx: 1\r\nx: 2\r\n\r\n"
