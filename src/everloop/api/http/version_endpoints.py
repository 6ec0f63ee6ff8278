"""The endpoints of `http.version_operations`: one function an operation, as in `http.endpoints`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from everloop.api import files, rollout_wire, versions, wire
from everloop.api.http.bodies import decode, read_file, read_json
from everloop.api.http.endpoint import BY, Api, boolean, json, model_name, optional_body, text
from everloop.api.http.operation import FILE

_CHUNK = 1 << 20

_version_choice = msgspec.json.Decoder(wire.VersionChoice)
_version_change = msgspec.json.Decoder(rollout_wire.VersionChange)
_alias_choice = msgspec.json.Decoder(rollout_wire.AliasChoice)
_collect = msgspec.json.Decoder(rollout_wire.CollectSpec)
_reason = msgspec.json.Decoder(wire.Reason)


async def list_versions(api: Api, request: Request) -> Response:
    return json(await api.threads.run(versions.versions, api.services, model_name(request)))


async def add_version(api: Api, request: Request) -> Response:
    name = model_name(request)
    source = text(request, "file", most=255) or "the body"
    version_name, note = text(request, "name", most=128), text(request, "note", most=1000)
    live = boolean(request, "live")
    with api.uploading():
        payload = await read_file(request, api.services.limits.max_upload)
        made, new = await api.fits.run(
            files.add_version,
            api.services,
            name,
            payload,
            source=source,
            live=live,
            version_name=version_name,
            note=note,
            by=BY,
        )
    return json(made, 201 if new else 200, {"location": f"/v1/models/{made.model}/versions/{made.version}"})


async def describe_version(api: Api, request: Request) -> Response:
    return json(await api.threads.run(versions.version, api.services, model_name(request), _version(request)))


async def change_version(api: Api, request: Request) -> Response:
    asked = decode(_version_change, await read_json(request, api.services.limits.max_body))
    return json(
        await api.threads.run(versions.change, api.services, model_name(request), _version(request), asked, by=BY)
    )


async def lineage(api: Api, request: Request) -> Response:
    return json(await api.threads.run(versions.lineage, api.services, model_name(request), _version(request)))


async def promote(api: Api, request: Request) -> Response:
    choice = decode(_version_choice, await read_json(request, api.services.limits.max_body))
    return json(
        await api.threads.run(versions.promote, api.services, model_name(request), choice.version, choice.note, by=BY)
    )


async def rollback(api: Api, request: Request) -> Response:
    reason = decode(_reason, await optional_body(api, request))
    return json(await api.threads.run(versions.rollback, api.services, model_name(request), reason.note, by=BY))


async def archive(api: Api, request: Request) -> Response:
    choice = decode(_version_choice, await read_json(request, api.services.limits.max_body))
    return json(await api.threads.run(versions.archive, api.services, model_name(request), choice.version, by=BY))


async def list_aliases(api: Api, request: Request) -> Response:
    return json(await api.threads.run(versions.aliases, api.services, model_name(request)))


async def set_alias(api: Api, request: Request) -> Response:
    choice = decode(_alias_choice, await read_json(request, api.services.limits.max_body))
    name, alias = model_name(request), request.path_params["alias"]
    return json(await api.threads.run(versions.set_alias, api.services, name, alias, choice.version, by=BY))


async def remove_alias(api: Api, request: Request) -> Response:
    name, alias = model_name(request), request.path_params["alias"]
    await api.threads.run(versions.remove_alias, api.services, name, alias, by=BY)
    return Response(status_code=204)


async def export_model(api: Api, request: Request) -> Response:
    name = model_name(request)
    path = await api.fits.run(files.export_model, api.services, name)
    return FileAnswer(api, path, f"{name}.everloop")


async def import_model(api: Api, request: Request) -> Response:
    name, live = text(request, "name", most=128), boolean(request, "live")
    with api.uploading():
        payload = await read_file(request, api.services.limits.max_upload)
        made = await api.fits.run(files.import_model, api.services, payload, name or None, live=live, by=BY)
    return json(made, 201, {"location": f"/v1/models/{made.name}"})


async def collect_artifacts(api: Api, request: Request) -> Response:
    asked = decode(_collect, await optional_body(api, request))
    return json(await api.fits.run(files.collect, api.services, asked, by=BY))


class FileAnswer(StreamingResponse):
    """A file that is gone once it has been sent, or its client has."""

    def __init__(self, api: Api, path: Path, name: str) -> None:
        super().__init__(
            self._chunks(),
            media_type=FILE,
            headers={
                "content-length": str(path.stat().st_size),
                "content-disposition": f'attachment; filename="{name}"',
            },
        )
        self._api = api
        self._path = path
        self._file: IO[bytes] = path.open("rb")

    async def _chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self._api.threads.run(self._file.read, _CHUNK):
            yield chunk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()
            files.discard(self._path)


def _version(request: Request) -> str:
    found: str = request.path_params["version"]
    return found
