"""Request bodies: read within their limit, decoded by a typed decoder, refused with the position or the field."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from everloop.core.errors import InvalidInput, Malformed, TooLarge

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")

_AT = re.compile(r"^(.*) - at `(key in )?\$?\.?(.*)`$", re.DOTALL)


async def read_body(request: Request, most: int) -> bytes:
    """The whole body. Raises TooLarge before a byte is read if Content-Length says so, else as soon as it is exceeded."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > most:
        raise body_too_large(most)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise body_too_large(most)
        chunks.append(chunk)
    return b"".join(chunks)


def body_too_large(most: int) -> TooLarge:
    return TooLarge(f"the body is larger than {most:,} bytes; send fewer rows at a time", field="body")


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises Malformed with the byte where the JSON breaks, InvalidInput with the field that has the wrong type."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except msgspec.DecodeError as error:
        raise Malformed(
            "the body is empty; expected a JSON object" if not body.strip() else f"the body is not valid JSON: {error}",
            field="body",
        ) from None
    except (RecursionError, UnicodeDecodeError) as error:
        what = "nests too deeply" if isinstance(error, RecursionError) else "is not UTF-8"
        raise Malformed(f"the body {what}", field="body") from None


def invalid(error: msgspec.ValidationError) -> InvalidInput:
    """msgspec says ``Expected `str`, got `int` - at `$.name` ``; ours names the field first."""
    text = str(error)
    found = _AT.match(text)
    if found is None:
        return InvalidInput(f"body: {_lower(text)}", field="body")
    field = found[3] or "body"
    return InvalidInput(f"{field}: {_lower(found[1])}", field=field)


def check_depth(value: Any, most: int, field: str) -> None:
    """Raises InvalidInput if lists and objects nest deeper than `most`. Not recursive: it is what guards recursion."""
    level = [value]
    for _ in range(most + 1):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
        if not deeper:
            return
        level = deeper
    raise InvalidInput(f"{field}: nests deeper than {most} levels", field=field)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
