"""An error as gRPC tells it: a status of `api.status`, its words, and in the trailing metadata what a program can read.

`everloop-error` is the stable code and `everloop-field` the part of the request that is to blame, as in the problem documents of
HTTP; `grpc-retry-pushback-ms` is when the same request may succeed (gRPC proposal A6, which clients that retry obey).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from everloop.api.status import retry_after, status_of
from everloop.core.errors import EverloopError

if TYPE_CHECKING:
    import grpc

MOST_WORDS = 1000
"""Characters; a head of HTTP/2 takes some 8,000 bytes, and every character may need several."""
UNTOLD = "the server failed on this request; its log says why"
"""Of an error that is not everloop's own, no word goes out."""

Trailers = tuple[tuple[str, str], ...]


def refusal(error: BaseException) -> tuple[grpc.StatusCode, str, Trailers]:
    """The code, the details and the trailing metadata of a call that failed."""
    import grpc

    code = grpc.StatusCode[status_of(error).grpc]
    if not isinstance(error, EverloopError):
        return code, UNTOLD, (("everloop-error", "internal"),)
    trailers = [("everloop-error", error.code)]
    if error.field is not None:
        trailers.append(("everloop-field", _ascii(error.field[:MOST_WORDS])))
    seconds = retry_after(error)
    if seconds is not None:
        trailers.append(("grpc-retry-pushback-ms", str(math.ceil(seconds * 1000))))
    return code, words(error), tuple(trailers)


def words(error: BaseException) -> str:
    """For a status' details, or an `error_message` in a stream."""
    text = error.message if isinstance(error, EverloopError) else UNTOLD
    if len(text) > MOST_WORDS:
        text = text[: MOST_WORDS - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode()


def _ascii(text: str) -> str:
    """Metadata holds printable ASCII."""
    return "".join(each if each.isprintable() else "?" for each in text.encode("ascii", "backslashreplace").decode())
