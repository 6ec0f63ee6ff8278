"""Request bodies: read within their limit, decoded by a typed decoder, refused with the position or the field."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import msgspec.inspect

from everloop.core.errors import InvalidInput, Malformed, TooLarge
from everloop.core.wording import near_names

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")

_JSON_LIKE = ("application/json", "application/x-www-form-urlencoded")
_FORGIVEN = 8
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""Which of the two it is, zlib sees."""
_AT = re.compile(r"^(.*) - at `(key in )?\$?\.?(.*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
_STEP = re.compile(r"[A-Za-z_]\w*")
_SHOWN = 100
"""Characters of a misspelt field that are repeated to whoever sent it."""


async def read_json(request: Request, most: int) -> bytes:
    """The whole body, not yet decoded. Raises WrongMediaType, TooLarge.

    A client that is still sending when its connection closes sees a reset in the place of the answer. So the rest of a body
    that is somewhat too large is read, and thrown away; only one beyond `_FORGIVEN` times the limit is cut off."""
    check_media_type(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
    return await _read(request, most, _FORGIVEN, "send fewer rows at a time")


async def read_file(request: Request, most: int) -> bytes:
    """A file as it is. Raises WrongMediaType, TooLarge, Malformed (it is empty)."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # What curl says of `--data-binary @FILE` when nobody tells it better.
    if media not in ("", "application/octet-stream", "application/x-www-form-urlencoded"):
        raise WrongMediaType(
            f"Content-Type: expected application/octet-stream, got {media[:100]!r}", field="Content-Type"
        )
    check_encoding(request.headers.get("content-encoding", ""))
    payload = await _read(request, most, 1, "the limit is the option limits.max_upload")
    if not payload:
        raise Malformed("the body is empty; expected the bytes of a file", field="body")
    return payload


async def read_tensors(request: Request, most: int) -> bytes:
    """JSON, whatever it is called, with or without bytes behind it; also compressed, as clients of the Open Inference Protocol may send it. Raises
    WrongMediaType, TooLarge, Malformed."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in ("application/octet-stream", "text/plain"):
        check_media_type(media, "")
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("gzip", "deflate"):
        check_encoding(encoding)
    body = await _read(request, most, _FORGIVEN, "send fewer rows at a time")
    return _inflated(body, most) if encoding in ("gzip", "deflate") else body


def _inflated(body: bytes, most: int) -> bytes:
    """Never more than `most` bytes are made of it."""
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        plain = inflater.decompress(body, most + 1)
    except zlib.error as error:
        raise Malformed(f"the body is not compressed as Content-Encoding says: {error}", field="body") from None
    if len(plain) > most:
        raise body_too_large(most, "it is its size when it is unpacked that counts")
    if not inflater.eof or inflater.unused_data:
        raise Malformed("the compressed body is cut off, or something follows it", field="body")
    return plain


async def read_bounded(request: Request, most: int, advice: str) -> bytes:
    """The whole body, whatever it is. Raises TooLarge."""
    return await _read(request, most, _FORGIVEN, advice)


async def _read(request: Request, most: int, forgiven: int, advice: str) -> bytes:
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > most * forgiven:
        raise body_too_large(most, advice)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most:
            chunks.append(chunk)
        elif size > most * forgiven:
            break
    if size > most:
        raise body_too_large(most, advice)
    return b"".join(chunks)


def check_media_type(content_type: str, encoding: str) -> None:
    """JSON, or what curl calls JSON when nobody tells it better. Raises WrongMediaType."""
    media = content_type.partition(";")[0].strip().lower()
    if media and media not in _JSON_LIKE and not media.endswith("+json"):
        raise WrongMediaType(f"Content-Type: expected application/json, got {media[:100]!r}", field="Content-Type")
    check_encoding(encoding)


def check_encoding(encoding: str) -> None:
    """Raises WrongMediaType."""
    if encoding.strip().lower() not in ("", "identity"):
        raise WrongMediaType(
            f"Content-Encoding: {encoding[:100]!r} is not understood; send the body as it is", field="Content-Encoding"
        )


class WrongMediaType(Exception):
    """A body of another type than the route takes. Of HTTP alone, so not among `core.errors`."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


def body_too_large(most: int, advice: str) -> TooLarge:
    return TooLarge(f"the body is larger than {most:,} bytes; {advice}", field="body")


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises Malformed with the byte where the JSON breaks, InvalidInput with the field that has the wrong type."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _broken_after(body) or invalid(error, decoder.type) from None
    except msgspec.DecodeError as error:
        raise _no_json(body, error) from None
    except (RecursionError, UnicodeDecodeError) as error:
        what = "nests too deeply" if isinstance(error, RecursionError) else "is not UTF-8"
        raise Malformed(f"the body {what}", field="body") from None


def _no_json(body: bytes, error: msgspec.DecodeError) -> Malformed:
    empty = not body.strip()
    told = "the body is empty; expected a JSON object" if empty else f"the body is not valid JSON: {error}"
    return Malformed(told, field="body")


def _broken_after(body: bytes) -> Malformed | None:
    """Decoding stops at the first field that is wrong, and has not looked at what follows it."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        return _no_json(body, error)
    except RecursionError:
        pass  # deeper than can be looked at: what is known is which field is wrong
    return None


def invalid(error: msgspec.ValidationError, asked: Any) -> InvalidInput:
    """msgspec says ``Expected `str`, got `int` - at `$.name` ``; ours names the field first. `asked`: the type of the body."""
    text = str(error)
    found = _AT.match(text)
    unknown = _UNKNOWN.match(text if found is None else found[1])
    if unknown is not None:
        where = "" if found is None else found[3]
        return InvalidInput(
            f"{where or 'body'}: {_no_such_field(unknown[1], _taken(asked, where))}", field=where or "body"
        )
    if found is None:
        return InvalidInput(f"body: {_lower(text)}", field="body")
    field = found[3] or "body"
    return InvalidInput(f"{field}: {_lower(found[1])}", field=field)


def _no_such_field(name: str, taken: list[str]) -> str:
    near = near_names(name[:_SHOWN], taken, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(taken)}" if taken else "it takes none"
    return f"unknown field {name[:_SHOWN]!r}; {hint}"


def _taken(asked: Any, where: str) -> list[str]:
    """Names of the fields that the object at `where` may have, as in `examples[3]`."""
    objects = _objects(msgspec.inspect.type_info(asked))
    for step in _STEP.findall(where):
        objects = [
            inner
            for each in objects
            for field in each.fields
            if field.encode_name == step
            for inner in _objects(field.type)
        ]
    return [field.encode_name for each in objects for field in each.fields]


def _objects(found: msgspec.inspect.Type) -> list[msgspec.inspect.StructType]:
    if isinstance(found, msgspec.inspect.StructType):
        return [found]
    if isinstance(found, msgspec.inspect.UnionType):
        return [each for member in found.types for each in _objects(member)]
    return _objects(found.item_type) if isinstance(found, msgspec.inspect.ListType) else []


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
