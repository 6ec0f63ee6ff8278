"""Errors on the wire: RFC 9457 problem details that also carry `error`, so that Open Inference Protocol clients read them.

`problem()` is used by the app and by the fast lane alike, which is what makes their refusals the same bytes.
"""

from __future__ import annotations

import math

import msgspec

from everloop.api.status import retry_after, status_of
from everloop.core.errors import EverloopError

MEDIA_TYPE = "application/problem+json"
CHALLENGE = ("www-authenticate", 'Bearer realm="everloop"')
"""RFC 6750, section 3."""
MOST_DETAIL = 2000
"""Characters of a message that go out; a caller's own input may be in it."""


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of every answer of status 400 and above."""

    type: str
    """`urn:everloop:error:` and the code."""
    title: str
    status: int
    detail: str
    """One sentence: what was wrong, and what to do."""
    code: str
    """Stable and machine-readable."""
    error: str
    """The same as `detail`, under the name that Open Inference Protocol clients look for."""
    field: str | None = None
    """Which part of the request was wrong, e.g. `features[3]`."""


class Refusal(msgspec.Struct, frozen=True):
    """A problem, ready to be sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


_encode = msgspec.json.Encoder().encode


def refusal(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    field: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Refusal:
    if len(detail) > MOST_DETAIL:
        detail = detail[: MOST_DETAIL - 1] + "…"
    detail = _printable(detail)
    body = Problem(
        type=f"urn:everloop:error:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        error=detail,
        field=None if field is None else _printable(field[:MOST_DETAIL]),
    )
    return Refusal(status, (("content-type", MEDIA_TYPE), *headers), _encode(body))


def problem(error: BaseException, *, request_id: str = "") -> Refusal:
    """What is answered for `error`. Of an error that is not everloop's own, no word goes out: it is for the log, which has it under
    `request_id`, made here for a caller who gave none."""
    status = status_of(error)
    seconds = retry_after(error)
    headers: tuple[tuple[str, str], ...] = ()
    if seconds is not None:
        headers = (("retry-after", str(max(1, math.ceil(seconds)))),)
    if request_id:
        headers = (*headers, ("x-request-id", request_id))
    if status.http == 401:
        headers = (*headers, CHALLENGE)
    if isinstance(error, EverloopError):
        return refusal(status.http, error.code, status.title, error.message, field=error.field, headers=headers)
    return refusal(500, "internal", status.title, "the server failed on this request; its log says why")


def _printable(text: str) -> str:
    """Lone surrogates (a caller's `\\ud800` echoed) cannot be encoded as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
