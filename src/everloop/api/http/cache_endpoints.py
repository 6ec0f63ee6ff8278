"""The endpoints of `http.cache_operations`: one function an operation, as in `http.endpoints`."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everloop.api import caching
from everloop.api.http.bodies import decode, read_json
from everloop.api.http.endpoint import BY, Api, json

_clear = msgspec.json.Decoder(caching.ClearCache)


async def show_cache(api: Api, request: Request) -> Response:  # noqa: ARG001  every endpoint has the same signature
    return json(await api.threads.run(caching.show, api.services))


async def clear_cache(api: Api, request: Request) -> Response:
    asked = decode(_clear, await read_json(request, api.services.limits.max_body))
    return json(await api.threads.run(caching.clear, api.services, asked, by=BY))
