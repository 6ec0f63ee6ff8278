"""What all endpoints share: the `Api` they work for, how they read a request and how they write an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everloop.api.http.bodies import read_json
from everloop.api.http.events import EventHub
from everloop.api.http.threads import Threads
from everloop.api.services import Services
from everloop.core.errors import InvalidInput, Overloaded

BY = "http"
"""Who acts, in the timeline."""
MOST_ID = 2**53
"""Beyond it neither JSON readers nor stores agree on integers."""

_encode = msgspec.json.Encoder().encode


@dataclass(eq=False)
class Api:
    """What the endpoints share: one an app."""

    services: Services
    threads: Threads = field(default_factory=lambda: Threads("store", most=8, waiting=256))
    fits: Threads = field(default_factory=lambda: Threads("fit", most=2, waiting=8))
    fetches: Threads = field(default_factory=lambda: Threads("fetch", most=8, waiting=32))
    """For what comes from other servers, which may be slow."""

    _uploads: int = 0
    """Under way; touched by the event loop's thread only."""

    @contextmanager
    def uploading(self) -> Iterator[None]:
        """For as long as a file is held in memory. Raises Overloaded beyond `limits.max_uploads`."""
        if self._uploads >= self.services.limits.max_uploads:
            raise Overloaded(f"{self._uploads} uploads are under way; try again", retry_after=1.0)
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    def close(self) -> None:
        """Let the threads end."""
        self.threads.close()
        self.fits.close()
        self.fetches.close()

    @cached_property
    def hub(self) -> EventHub:
        return EventHub(self.services, self.threads)

    @cached_property
    def openapi(self) -> bytes:
        from everloop.api.http.openapi import document

        return _encode(document())

    @cached_property
    def docs(self) -> tuple[bytes, str]:
        from everloop.api.http.docs_page import page

        return page()


Endpoint = Callable[[Api, Request], Awaitable[Response]]


def json(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return json_bytes(_encode(answer), status, headers)


def json_bytes(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def model_name(request: Request) -> str:
    name: str = request.path_params["model"]
    return name


async def optional_body(api: Api, request: Request) -> bytes:
    body = await read_json(request, api.services.limits.max_body)
    return body if body.strip() else b"{}"


def integer(request: Request, name: str, default: int, *, least: int, most: int) -> int:
    text = request.query_params.get(name)
    return default if text is None else whole(text, name, least=least, most=most)


def whole(text: str, name: str, *, least: int, most: int) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most:
        return int(text)
    raise InvalidInput(f"{name}: expected a whole number from {least} to {most}, got {text[:40]!r}", field=name)


def boolean(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise InvalidInput(f"{name}: expected true or false, got {text[:40]!r}", field=name)


def text(request: Request, name: str, *, most: int) -> str:
    """A query parameter, empty where it is missing."""
    found: str = request.query_params.get(name, "")
    if len(found) > most:
        raise InvalidInput(f"{name}: longer than {most} characters", field=name)
    return found
