# ruff: noqa: ARG001  every endpoint has the same signature
"""The endpoints of `http.key_operations`: one function an operation, as in `http.endpoints`."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everloop.api import keys
from everloop.api.http.bodies import decode, read_json
from everloop.api.http.endpoint import Api, json, optional_body

_spec = msgspec.json.Decoder(keys.KeySpec)
_rotation = msgspec.json.Decoder(keys.KeyRotation)
_PRIVATE = {"cache-control": "no-store"}


async def list_keys(api: Api, request: Request) -> Response:
    return json(await api.threads.run(keys.list_keys, api.services), headers=_PRIVATE)


async def create_key(api: Api, request: Request) -> Response:
    spec = decode(_spec, await read_json(request, api.services.limits.max_body))
    return json(await api.threads.run(keys.create_key, api.services, spec), 201, _PRIVATE)


async def revoke_key(api: Api, request: Request) -> Response:
    return json(await api.threads.run(keys.revoke_key, api.services, request.path_params["key"]), headers=_PRIVATE)


async def rotate_key(api: Api, request: Request) -> Response:
    asked = decode(_rotation, await optional_body(api, request))
    reference = request.path_params["key"]
    return json(await api.threads.run(keys.rotate_key, api.services, reference, asked.overlap_sec), 201, _PRIVATE)
