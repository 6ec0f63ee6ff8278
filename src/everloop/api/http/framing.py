"""What a connection refuses or leaves out before a request is one: where the bytes of a message begin and end is nobody's opinion.

A proxy in front and this server must agree on every boundary between messages, or one caller's bytes become another one's
request (RFC 9112, section 11.2). httptools (llhttp, strict) refuses what is ambiguous: both lengths, two lengths, folded lines,
bare line feeds. Four things it leaves to its user:

- *Upgrade.* It takes whatever follows the head for another protocol, also where the server speaks no other. Then the body would
  be lost, or if it comes in a packet of its own, be read as the next request. Java's client asks for HTTP/2 that way on its first
  request, so it is not refused: `as_if_not_asked` gives the head again without the wish, and the body stays a body.
- *Host.* A request of HTTP/1.1 names exactly one (RFC 9112, section 3.2).
- *Size.* A head has no end for it. One that is still coming is counted by the connection, a whole one here.
- *Trailers.* Fields after a chunked body are given as if they were headers. They are dropped (RFC 9110, section 6.5.1: never
  merged unless defined to be); kept, they would also grow without end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everloop.api.http.problems import refusal

if TYPE_CHECKING:
    from everloop.api.http.heads import Headers

MOST_HEAD = 64 << 10
"""Bytes of a request's line and headers."""
NOT_HTTP = refusal(
    400,
    "malformed",
    "Malformed request",
    "this is not a request of HTTP/1.1: its line, a header, its length or a chunk is broken, or it does not name exactly one host",
)
HEAD_TOO_LARGE = refusal(
    431,
    "head_too_large",
    "Head too large",
    f"the request's line and headers are larger than {MOST_HEAD:,} bytes; send data in the body",
)
_WISHES = (b"upgrade", b"http2-settings")


class NotHttp(Exception):
    """Raised inside a callback of the parser, which ends as any of its own errors."""


class HeadTooLarge(Exception):
    """As `NotHttp`."""


class Dropped(list[Any]):
    """In the place of a list of headers that has been handed on: what is appended is gone."""

    def append(self, _field: Any) -> None:
        return


def check_head(url: bytes, version: str, headers: Headers) -> None:
    """Raises HeadTooLarge, NotHttp."""
    size, hosts = len(url), 0
    for name, value in headers:
        size += len(name) + len(value) + len(": \r\n")
        hosts += name == b"host"
    if size > MOST_HEAD:
        raise HeadTooLarge
    if version == "1.1" and hosts != 1:
        raise NotHttp


def as_if_not_asked(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The head of a request that asked for an upgrade, without that. Raises NotHttp: CONNECT asks for nothing else."""
    if method == b"CONNECT":
        raise NotHttp
    lines = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            kept = [option for option in value.split(b",") if option.strip().lower() not in _WISHES]
            if kept:
                lines.append(b"connection: %b\r\n" % b",".join(kept).strip())
        elif name not in _WISHES:
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines) + b"\r\n"
