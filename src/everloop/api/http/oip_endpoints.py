# ruff: noqa: ARG001  every endpoint has the same signature
"""The endpoints of `http.oip_operations`: one function an operation, as in `http.endpoints`. What they answer is `api.oip`'s."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everloop.api import oip, oip_wire
from everloop.api.http import oip_codec
from everloop.api.http.bodies import decode, read_tensors
from everloop.api.http.codec import UNIT_HEADER
from everloop.api.http.deadlines import TIMEOUT_HEADER, deadline_of
from everloop.api.http.endpoint import BY, Api, json, json_bytes, model_name
from everloop.api.http.entrance import caller_of
from everloop.api.override import KEY_HEADER
from everloop.core.errors import NotSupported

_index = msgspec.json.Decoder(oip_wire.IndexSpec)
_load = msgspec.json.Decoder(oip_wire.LoadSpec)


async def infer(api: Api, request: Request) -> Response:
    deadline = deadline_of(request.headers.get(TIMEOUT_HEADER))
    header_length = oip_codec.length_of(request.headers.get(oip_codec.LENGTH_HEADER))
    body = await read_tensors(request, api.services.limits.max_body)
    unit = request.headers.get(UNIT_HEADER)
    asked = oip_codec.decode_infer(
        model_name(request),
        _version(request),
        body,
        header_length,
        None if unit is None else unit.encode("latin-1"),
    )
    answer = await oip.infer(
        api.services,
        asked,
        caller_of(request),
        run=api.threads.run,
        key=request.headers.get(KEY_HEADER),
        deadline=deadline,
    )
    encoded = oip_codec.encode_infer(answer, asked)
    if encoded.header_length is None:
        return json_bytes(encoded.body)
    return Response(
        encoded.body,
        headers={oip_codec.LENGTH_HEADER: str(encoded.header_length)},
        media_type=oip_codec.BINARY,
    )


infer_version = infer


async def server_metadata(api: Api, request: Request) -> Response:
    return json(oip.server_metadata(api.services))


async def model_metadata(api: Api, request: Request) -> Response:
    return json(await api.threads.run(oip.model_metadata, api.services, model_name(request), _version(request)))


version_metadata = model_metadata


async def model_ready(api: Api, request: Request) -> Response:
    name = model_name(request)
    ready = await api.threads.run(oip.model_ready, api.services, name, _version(request))
    return json(oip_wire.ModelReady(name, ready), 200 if ready else 503)


version_ready = model_ready


async def model_config(api: Api, request: Request) -> Response:
    return json(await api.threads.run(oip.config, api.services, model_name(request), _version(request)))


version_config = model_config


async def model_statistics(api: Api, request: Request) -> Response:
    return json(await api.threads.run(oip.statistics, api.services, model_name(request), _version(request)))


version_statistics = model_statistics


async def server_statistics(api: Api, request: Request) -> Response:
    found = await api.threads.run(oip.statistics, api.services)
    caller = caller_of(request)
    return json(oip_wire.Statistics([each for each in found.model_stats if caller.reaches(each.name)]))


async def repository_index(api: Api, request: Request) -> Response:
    asked = decode(_index, await _optional(api, request))
    caller = caller_of(request)
    found = await api.threads.run(oip.repository_index, api.services, ready=asked.ready)
    return json([entry for entry in found if caller.reaches(entry.name)])


async def load_model(api: Api, request: Request) -> Response:
    asked = decode(_load, await _optional(api, request))
    if asked.parameters:
        raise NotSupported(
            "parameters: a model is loaded as it is registered; files and configurations are given by "
            "POST /v1/models/{model}/versions and PATCH /v1/models/{model}",
            field="parameters",
        )
    await api.fits.run(oip.load, api.services, model_name(request), by=BY)
    return json(oip_wire.Settled())


async def unload_model(api: Api, request: Request) -> Response:
    decode(_load, await _optional(api, request))
    await api.threads.run(oip.unload, api.services, model_name(request), by=BY)
    return json(oip_wire.Settled())


async def _optional(api: Api, request: Request) -> bytes:
    """The protocol's own client calls an empty body text."""
    body = await read_tensors(request, api.services.limits.max_body)
    return body if body.strip() else b"{}"


def _version(request: Request) -> str:
    version: str = request.path_params.get("version", "")
    return version
