"""Fetching from URLs: what comes back, and everything that must not be reached."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from everloop.core.errors import InvalidInput, NotSupported, TooLarge
from everloop.showcase.config import ShowcaseConfig
from everloop.showcase.fetching import PORTS, Way, fetch, is_public

ALLOWED = ShowcaseConfig(image_urls=True)
PATIENT = 20.0
"""Seconds after which a test has failed anyway."""


Pieces = list[bytes | threading.Event | None]


class Site:
    """Answers connections one after another with what is scripted: a list of pieces each; None among them waits for the test's end, an
    event until it is set."""

    def __init__(self, *answers: Pieces, context: ssl.SSLContext | None = None) -> None:
        self.asked: list[bytes] = []
        self._answers = answers
        self._context = context
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(PATIENT)
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for pieces in self._answers:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            try:
                connection.settimeout(PATIENT)
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True)
                self.asked.append(connection.recv(65536))
                for piece in pieces:
                    if piece is None:
                        self._over.wait(PATIENT)
                    elif isinstance(piece, threading.Event):
                        piece.wait(PATIENT)
                    else:
                        connection.sendall(piece.replace(b"PORT", str(self.port).encode()))
            except OSError:
                pass  # the client has had enough, which is what some of these tests are about
            finally:
                connection.close()

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(PATIENT)


@contextmanager
def site(*answers: Pieces, context: ssl.SSLContext | None = None) -> Iterator[Site]:
    made = Site(*answers, context=context)
    try:
        yield made
    finally:
        made.close()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> Pieces:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return [head.encode() + b"\r\n\r\n" + body]


def moved(to: str, status: int = 302) -> Pieces:
    return answer(b"", f"Location: {to}", status=f"{status} Moved")


def here(found: Site | None = None, **options: Any) -> Way:
    """Every name is this machine, and that is fine."""
    return Way(**{"resolve": lambda _host, _port: ["127.0.0.1"], "allowed": lambda _: True, "ports": (), **options})


def test_a_file_is_fetched_as_a_browser_would() -> None:
    with site(answer(b"picture")) as found:
        assert fetch(f"http://example.com:{found.port}/a%20b.png?x=1#part", ALLOWED, here()) == b"picture"
    head = found.asked[0].decode()
    assert head.startswith("GET /a%20b.png?x=1 HTTP/1.1\r\n")
    assert f"Host: example.com:{found.port}\r\n" in head
    assert "Accept-Encoding: identity\r\n" in head
    assert "User-Agent: everloop/" in head


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 30000",
        "HTTP/1.0 200 OK\r\nContent-Length: 30000",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK\r\nContent-Length: many",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_body_that_comes_after_the_head_of_an_answer_that_ends_the_connection(head: str) -> None:
    """The body is sent when the head was read: a header's name is asked for by then."""
    body = b"x" * 30_000
    sent = b"7530\r\n" + body + b"\r\n0\r\n\r\n" if "chunked" in head else body
    seen = threading.Event()

    def read(answer: http.client.HTTPResponse, name: str, default: str | None = None) -> str | None:
        seen.set()
        return plain(answer, name, default)

    plain = http.client.HTTPResponse.getheader
    with site([head.encode() + b"\r\n\r\n", seen, sent]) as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(http.client.HTTPResponse, "getheader", read)
        assert fetch(f"http://example.com:{found.port}/", ALLOWED, here()) == body


def test_it_is_off_unless_somebody_allowed_it() -> None:
    with pytest.raises(NotSupported, match="image_urls") as caught:
        fetch("http://example.com/", ShowcaseConfig())
    assert caught.value.field == "image_url"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808",
        "192.0.0.8", "192.0.0.192", "192.88.99.1", "168.63.129.16", "100.100.100.200", "2000::1", "3fff::1", "3ffe::1", "2001:1::1", "2001:20::1",
        "2600::5efe:127.0.0.1", "2600::200:5efe:a00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "100::1", "4000::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_on_the_public_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    way = Way(resolve=lambda _host, _port: ["8.8.8.8", address])
    for host in ("example.com", f"[{address}]" if ":" in address else address):
        with pytest.raises(InvalidInput, match="public internet"):
            fetch(f"http://{host}/", ALLOWED, way)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_no_version_four_address_is_public_in_the_clothes_of_version_six(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for prefix in (0, 0xFFFF << 32, 0x64FF9B << 96):
        assert not is_public(ipaddress.IPv6Address(prefix | number))
    assert not is_public(ipaddress.IPv6Address(0x2002 << 112 | number << 80))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "[::1]", "[::ffff:7f00:1]"]
)
def test_this_machine_is_not_reached_however_it_is_written(host: str) -> None:
    """By the system's own resolver, which knows all of these."""
    with pytest.raises(InvalidInput, match=r"public internet|no host"):
        fetch(f"http://{host}/", ALLOWED)


def test_the_connection_goes_to_the_address_that_was_looked_at() -> None:
    """A name server that answers differently the second time is not asked a second time."""
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    seen = []

    def allowed(address: Any) -> bool:
        seen.append(str(address))
        return True

    with site(answer(b"picture")) as found:
        way = here(resolve=rebinding, allowed=allowed)
        assert fetch(f"http://rebind.example:{found.port}/", ALLOWED, way) == b"picture"
    assert (asked, seen) == (["rebind.example"], ["127.0.0.1"])


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    with site(answer(b"picture")) as found:
        way = here(resolve=lambda _host, _port: ["127.0.0.2", "127.0.0.1"])
        assert fetch(f"http://example.com:{found.port}/", ALLOWED, way) == b"picture"


def test_redirects_are_followed_and_looked_at() -> None:
    with site(moved("/second", 301), moved("//other.example:PORT/third", 307), answer(b"picture")) as found:
        assert fetch(f"http://example.com:{found.port}/first", ALLOWED, here()) == b"picture"
    assert [line.split()[1] for line in found.asked] == [b"/first", b"/second", b"/third"]


@pytest.mark.parametrize(
    "target", ["http://inside.example/", "http://[half", "file:///etc/passwd", "ftp://example.com/", "http://user@h/"]
)
def test_a_redirect_to_what_is_refused_is_refused(target: str) -> None:
    addresses = {"example.com": "127.0.0.1", "inside.example": "127.0.0.3"}
    way = here(resolve=lambda host, _: [addresses[host]], allowed=lambda address: str(address) == "127.0.0.1")
    with site(moved(target)) as found, pytest.raises(InvalidInput) as caught:
        fetch(f"http://example.com:{found.port}/", ALLOWED, way)
    assert caught.value.field == "image_url"
    assert len(found.asked) == 1


def test_redirects_come_to_an_end() -> None:
    config = ShowcaseConfig(image_urls=True, url_redirects=2)
    with site(*[moved("/again")] * 3) as found, pytest.raises(InvalidInput, match="more than 2 times"):
        fetch(f"http://example.com:{found.port}/", config, here())


def test_what_is_too_large_is_refused_with_and_without_a_length() -> None:
    config = ShowcaseConfig(image_urls=True, url_max_bytes=1000)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n"
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000
    answers: list[Pieces] = [answer(b"x" * 1001), [chunked, None], [endless, None]]
    for pieces in answers:
        with site(pieces) as found, pytest.raises(TooLarge, match="1,000 bytes"):
            fetch(f"http://example.com:{found.port}/", config, here())
    with site(answer(b"x" * 1000)) as found:
        assert len(fetch(f"http://example.com:{found.port}/", config, here())) == 1000


@pytest.mark.parametrize(
    "pieces",
    [
        [None],
        [b"HTTP/1.1 200 OK\r\nX-Slow: ", None],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nxx", None],
    ],
)
def test_a_server_that_takes_its_time_is_given_up(pieces: Pieces) -> None:
    config = ShowcaseConfig(image_urls=True, url_timeout_sec=0.05)
    with site(pieces) as found, pytest.raises(InvalidInput, match=r"within 0\.05 seconds"):
        fetch(f"http://example.com:{found.port}/", config, here())


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        (answer(b"no", status="404 Not Found"), "answered 404"),
        (answer(b"x", "Content-Encoding: gzip"), "compressed"),
        ([b"SSH-2.0-OpenSSH\r\n"], "cannot be fetched: BadStatusLine"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"], "cut short"),
        ([b""], "cannot be fetched"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nxxxxx"], "does not speak HTTP"),
    ],
)
def test_other_answers_are_the_callers_to_mend(pieces: Pieces, told: str) -> None:
    with site(pieces) as found, pytest.raises(InvalidInput, match=told) as caught:
        fetch(f"http://example.com:{found.port}/", ALLOWED, here())
    assert "SSH" not in caught.value.message, "what another server says is nobody's business"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://example.com/x", "http://"),
        ("//example.com/x", "http://"),
        ("http://", "http://"),
        ("http://user:word@example.com/", "credentials"),
        ("http://example.com:22/", "port 80 or 443"),
        ("http://example.com:0/", "port 80 or 443"),
        ("http://example.com:99999/", "no URL"),
        ("http://[::1/", "no URL"),
        ("http://example.com/\r\nHost: inside", "spaces"),
        ("http://example.com\\@inside/", "spaces"),
        ("http://" + "a" * 70 + ".example/", "no host"),
        ("http://example.com/" + "a" * 3000, "2048"),
    ],
)
def test_what_is_no_such_url_is_refused(url: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        fetch(url, ALLOWED, here(ports=PORTS, resolve=lambda _host, _port: pytest.fail("it was resolved")))
    assert caught.value.field == "image_url"


def test_a_chunk_of_minus_one_bytes_is_not_without_an_end() -> None:
    """Which `http.client` takes for all that comes."""
    config = ShowcaseConfig(image_urls=True, url_max_bytes=1000)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"
    with site([head, b"x" * (2 << 20), None]) as found, pytest.raises(InvalidInput, match="IncompleteRead"):
        fetch(f"http://example.com:{found.port}/", config, here())


def test_a_name_that_nobody_knows() -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with pytest.raises(InvalidInput, match=r"no host 'example\.com'"):
        fetch("https://example.com/", ALLOWED, here(resolve=unknown))


def test_the_environments_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with site(answer(b"picture")) as found:
        assert fetch(f"http://example.com:{found.port}/", ALLOWED, here()) == b"picture"


def test_certificates_are_looked_at_by_the_hosts_name() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.com").configure_cert(context)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    with site(answer(b"picture"), answer(b"picture"), context=context) as found:
        way = here(context=lambda: client)
        assert fetch(f"https://example.com:{found.port}/", ALLOWED, way) == b"picture"
        with pytest.raises(InvalidInput, match="its certificate is not valid: Hostname mismatch"):
            fetch(f"https://other.example:{found.port}/", ALLOWED, way)
