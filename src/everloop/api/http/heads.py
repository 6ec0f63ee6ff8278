"""Heads of messages: which requests are fast ones, the memory of those that were parsed before, and the heads of answers.

Known heads. When httptools has parsed a chunk of bytes that was exactly one head and one body, and the request was a fast one, the
head's bytes are remembered. The same bytes in the same parser state (between messages) mean the same, so the next such chunk
needs no parser. Content-Length is part of the head; a chunk whose body has another length goes to the parser.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from everloop.api.http.front import SECURITY_HEADERS, quota_headers
from everloop.api.http.problems import Refusal, refusal

if TYPE_CHECKING:
    from everloop.api.door import Caller
    from everloop.api.http.front import Hosts
from everloop.api.observing import checked_id

MOST_BODY = 256 << 10
"""Bytes of a body that the fast lane takes; larger ones are read with uvicorn's flow control."""
MOST_HEADS = 1024
"""Known heads of one server, less than 1 kB each. When full, they are forgotten and learned again."""
LONGEST_HEAD = 2048
END_OF_HEAD = b"\r\n\r\n"
LEAST_PACE = 1000
"""Bytes a second that a body has to come with, beyond `limits.body_sec` seconds."""
TOO_SLOW = refusal(
    408,
    "request_timeout",
    "Request timeout",
    "the request did not come in time; send it whole and at once (options limits.head_sec and limits.body_sec)",
)

_NAME = rb"([A-Za-z0-9][A-Za-z0-9._-]{0,127})"
ROUTE = re.compile(
    rb"/v1/models/" + _NAME + rb"/(predict|feedback)|/v2/models/" + _NAME + rb"(?:/versions/([0-9]{1,9}))?/infer"
    rb"|/api/predict/(sentiment|batch|recommend)"
)
NOT_FAST = frozenset(
    {
        b"transfer-encoding",
        b"origin",
        b"expect",
        b"upgrade",
        b"idempotency-key",
        b"content-encoding",
        b"trailer",
        b"everloop-version",
    }
)
"""Headers that mean something to the app or to uvicorn beyond what the fast lane does."""

JSON = (b"application/json",)
TENSORS = (b"application/json", b"application/octet-stream", b"")
"""What a body of tensors is called; the protocol's own client says nothing."""
_SECONDS = re.compile(rb"[0-9]{1,6}(\.[0-9]{1,9})?")

Headers = list[tuple[bytes, bytes]]


class Head:
    """What a fast request's head says, once parsed."""

    __slots__ = (
        "caller",
        "credential",
        "echo",
        "headers",
        "json_length",
        "length",
        "name",
        "request_id",
        "timeout",
        "traceparent",
        "unit",
        "url",
        "verb",
        "version",
    )

    def __init__(
        self, url: bytes, name: str, verb: str, length: int, headers: Headers, *, unit: bytes | None = None
    ) -> None:
        self.url = url
        self.name = name
        """The model's; empty where the route does not name it."""
        self.verb = verb
        """The operation: `predict`, `feedback`, `infer`, `infer_version`, `predict_sentiment` …"""
        self.length = length
        """Bytes of the body."""
        self.headers = headers
        self.unit = unit
        """Whom the request is for. Such heads are as many as units, so they are not remembered."""
        self.version = ""
        """Of `infer_version`: the number."""
        self.json_length: int | None = None
        """Of `infer`: bytes of the JSON that others follow."""
        self.timeout: float | None = None
        """Seconds within which the answer is of use."""
        self.credential: str | None = None
        """The header `Authorization`."""
        self.caller: Caller | None = None
        """Whose it is, once the door has said so; None where it is open."""
        self.request_id = ""
        """The caller's own. Such heads are as many as requests."""
        self.traceparent = ""
        """As well."""
        self.echo = b""
        """A line of the answer's head, where the caller's id goes back."""


class KnownHeads:
    """Of one server; bounded."""

    __slots__ = ("heads",)

    def __init__(self) -> None:
        self.heads: dict[bytes, Head] = {}

    def remember(self, head: bytes, known: Head) -> None:
        if len(head) <= LONGEST_HEAD and known.unit is None and not known.request_id and not known.traceparent:
            if len(self.heads) >= MOST_HEADS:
                self.heads.clear()
            self.heads[head] = known


def recognise(parser: Any, url: bytes, headers: Headers, max_body: int, hosts: Hosts | None = None) -> Head | None:
    """The head, if it is one of a fast request: called by the parser when it has read one."""
    if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
        return None
    route = ROUTE.fullmatch(url)
    if route is None or not parser.should_keep_alive() or parser.should_upgrade():
        return None
    length, media, unit = -1, b"", None
    request_id = traceparent = credential = json_length = timeout = None
    for name, value in headers:
        if name == b"content-length":
            length = int(value) if value.isdigit() and len(value) < 10 else -1
        elif name == b"content-type":
            media = value.lower().partition(b";")[0].strip()
        elif name == b"authorization":
            credential = value if credential is None else credential
        elif name == b"host":
            if hosts is not None and not hosts.admits(value.decode("latin-1")):
                return None
        elif name == b"everloop-unit":
            unit = value if unit is None else unit
        elif name == b"x-request-id":
            request_id = value if request_id is None else request_id
        elif name == b"traceparent":
            traceparent = value if traceparent is None else traceparent
        elif name == b"inference-header-content-length":
            if json_length is not None or not value.isdigit() or len(value) > 9:
                return None
            json_length = int(value)
        elif name == b"everloop-timeout":
            if timeout is not None or not _SECONDS.fullmatch(value):
                return None
            timeout = float(value)
        elif name in NOT_FAST:
            return None
    if media not in (TENSORS if route[3] else JSON) or not 0 <= length <= min(MOST_BODY, max_body):
        return None
    if route[3]:
        known = Head(url, route[3].decode(), "infer_version" if route[4] else "infer", length, headers, unit=unit)
        known.version, known.json_length = (route[4] or b"").decode(), json_length
    elif route[5]:
        known = Head(url, "", f"predict_{route[5].decode()}", length, headers, unit=unit)
    else:
        known = Head(url, route[1].decode(), route[2].decode(), length, headers, unit=unit)
    known.timeout = timeout
    if credential is not None:
        known.credential = credential.decode("latin-1")
    if request_id is not None:
        known.request_id = checked_id(request_id.decode("latin-1"))
        known.echo = b"x-request-id: %b\r\n" % known.request_id.encode() if known.request_id else b""
    if traceparent is not None:
        known.traceparent = traceparent.decode("latin-1")
    return known


class AnswerHeads:
    """Of one server: the heads of its usual answers, up to where the content length follows."""

    __slots__ = ("_defaults", "_heads")

    def __init__(self) -> None:
        self._defaults: Headers | None = None
        self._heads = (b"", b"", b"")

    def of(self, defaults: Headers) -> tuple[bytes, bytes, bytes]:
        """For a prediction (200), for labels (202), and for tensors as bytes, which takes the length of the JSON first. uvicorn renews its default headers, the date among them, once a second."""
        if defaults is not self._defaults:
            self._defaults = defaults
            common = _lines(defaults) + SECURITY
            rest = common + b"content-type: application/json\r\ncontent-length: "
            tensors = (
                common.replace(b"%", b"%%")
                + b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\ncontent-length: "
            )
            self._heads = (
                STATUS_LINE[200] + rest,
                STATUS_LINE[202] + rest,
                STATUS_LINE[200].replace(b"%", b"%%") + tensors,
            )
        return self._heads


def refusal_head(refused: Refusal, defaults: Headers) -> bytes:
    """Up to where the content length follows."""
    own = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in refused.headers]
    return STATUS_LINE[refused.status] + _lines([*defaults, *own]) + SECURITY + b"content-length: "


def last_answer(refused: Refusal, defaults: Headers) -> bytes:
    """The whole answer, after which the connection closes."""
    head, body = refusal_head(refused, defaults), refused.body
    return b"%b%d\r\nconnection: close\r\n\r\n%b" % (head, len(body), body)


def quota_lines(caller: Caller) -> bytes:
    """Of the answer's head; none where the caller has no quota."""
    return _lines([(name.encode(), value.encode()) for name, value in quota_headers(caller)])


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


SECURITY = _lines([(name.encode(), value.encode()) for name, value in SECURITY_HEADERS])
