"""The endpoints of `http.version_operations`: one function an operation, as in `http.endpoints`."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everloop.api import versions, wire
from everloop.api.http.bodies import decode, read_json
from everloop.api.http.endpoint import MOST_ID, Api, json, model_name, optional_body
from everloop.core.errors import VersionNotFound

_version_choice = msgspec.json.Decoder(wire.VersionChoice)
_reason = msgspec.json.Decoder(wire.Reason)


async def list_versions(api: Api, request: Request) -> Response:
    return json(await api.threads.run(versions.versions, api.services, model_name(request)))


async def describe_version(api: Api, request: Request) -> Response:
    text = request.path_params["version"]
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and 1 <= int(text) <= MOST_ID):
        raise VersionNotFound(f"versions are whole numbers from 1 on, not {text[:40]!r}", field="version")
    return json(await api.threads.run(versions.version, api.services, model_name(request), int(text)))


async def promote(api: Api, request: Request) -> Response:
    choice = decode(_version_choice, await read_json(request, api.services.limits.max_body))
    return json(await api.threads.run(versions.promote, api.services, model_name(request), choice.version, choice.note))


async def rollback(api: Api, request: Request) -> Response:
    reason = decode(_reason, await optional_body(api, request))
    return json(await api.threads.run(versions.rollback, api.services, model_name(request), reason.note))


async def archive(api: Api, request: Request) -> Response:
    choice = decode(_version_choice, await read_json(request, api.services.limits.max_body))
    return json(await api.threads.run(versions.archive, api.services, model_name(request), choice.version))
