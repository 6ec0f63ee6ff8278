"""Forms with files (`multipart/form-data`, RFC 7578), as browsers and `curl -F` send them: fields by name, as bytes.

The body is in memory already, and bounded: so what is left is to cut it at its boundary and to read a few short headers.
"""

from __future__ import annotations

from email.message import Message

from starlette.requests import Request

from everloop.api.http.bodies import check_encoding, read_bounded
from everloop.core.errors import InvalidInput, Malformed

FORM = "multipart/form-data"
MOST_FIELDS = 16
MOST_HEADERS = 4096
"""Bytes of one field's headers."""


def is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == FORM


async def read_form(request: Request, most: int, known: tuple[str, ...]) -> dict[str, bytes]:
    """The fields, all of them among `known`. Raises WrongMediaType, TooLarge, Malformed, InvalidInput."""
    check_encoding(request.headers.get("content-encoding", ""))
    body = await read_bounded(request, most, "send a smaller file")
    return fields_of(body, request.headers.get("content-type", ""), known)


def fields_of(body: bytes, content_type: str, known: tuple[str, ...]) -> dict[str, bytes]:
    """Raises Malformed, InvalidInput (a field that is not `known`, or comes twice)."""
    boundary = _parameter("Content-Type", content_type, "boundary")
    if not boundary or len(boundary) > 70:
        raise Malformed("Content-Type: a form needs the boundary between its fields", field="Content-Type")
    # The first delimiter may stand at the very beginning; all others begin a line (RFC 2046, 5.1.1).
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"), MOST_FIELDS + 2)
    if not parts or not parts[-1].startswith(b"--"):
        raise Malformed(f"the body is no form, is cut off, or has over {MOST_FIELDS} fields", field="body")
    found: dict[str, bytes] = {}
    for part in parts[:-1]:
        line_end, _, rest = part.partition(b"\r\n")
        headers, blank, content = (b"\r\n" + rest).partition(b"\r\n\r\n")
        if line_end.strip(b" \t") or not blank or len(headers) > MOST_HEADERS:
            raise Malformed("the body is no form: a field of it has no headers", field="body")
        name = _name(headers)
        if name not in known:
            raise InvalidInput(
                f"{name[:100]}: unknown field of the form; it takes {', '.join(known)}", field=name[:100]
            )
        if name in found:
            raise InvalidInput(f"{name}: given twice", field=name)
        found[name] = content
    return found


def _name(headers: bytes) -> str:
    """Of a field. Raises Malformed."""
    for line in headers.decode("utf-8", "replace").split("\r\n"):
        title, _, value = line.partition(":")
        if title.strip().lower() == "content-disposition":
            name = _parameter("Content-Disposition", value.strip(), "name")
            if name:
                return name
    raise Malformed("the body is no form: a field of it has no name", field="body")


def _parameter(header: str, value: str, name: str) -> str:
    message = Message()
    message[header] = value.replace("\r", " ").replace("\n", " ")
    found = message.get_param(name, header=header)
    return found if isinstance(found, str) else ""
