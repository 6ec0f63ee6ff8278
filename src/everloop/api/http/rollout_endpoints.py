"""The endpoints of `http.rollout_operations`: one function an operation, as in `http.endpoints`."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everloop.api import rollout_wire as wire
from everloop.api import rollouts
from everloop.api.http.bodies import check_depth, decode, read_json
from everloop.api.http.endpoint import BY, Api, json, model_name, optional_body

_spec = msgspec.json.Decoder(wire.RolloutSpec)
_change = msgspec.json.Decoder(wire.RolloutChange)
_split = msgspec.json.Decoder(wire.TrafficSplit)


async def show_traffic(api: Api, request: Request) -> Response:
    return json(await api.threads.run(rollouts.traffic, api.services, model_name(request)))


async def set_traffic(api: Api, request: Request) -> Response:
    asked = decode(_split, await read_json(request, api.services.limits.max_body))
    return json(await api.threads.run(rollouts.set_traffic, api.services, model_name(request), asked, by=BY))


async def show_rollout(api: Api, request: Request) -> Response:
    return json(await api.threads.run(rollouts.rollout, api.services, model_name(request)))


async def list_rollouts(api: Api, request: Request) -> Response:
    return json(await api.threads.run(rollouts.history, api.services, model_name(request)))


async def start_rollout(api: Api, request: Request) -> Response:
    limits, name = api.services.limits, model_name(request)
    spec = decode(_spec, await read_json(request, limits.max_body))
    check_depth(spec.steps, limits.max_depth, "steps")
    check_depth(spec.gates, limits.max_depth, "gates")
    info, started = await api.threads.run(rollouts.start, api.services, name, spec, by=BY)
    return json(info, 201 if started else 200, {"location": f"/v1/models/{name}/rollout"})


async def pause_rollout(api: Api, request: Request) -> Response:
    return await _act(api, request, "pause")


async def resume_rollout(api: Api, request: Request) -> Response:
    return await _act(api, request, "resume")


async def promote_rollout(api: Api, request: Request) -> Response:
    return await _act(api, request, "promote")


async def roll_back_rollout(api: Api, request: Request) -> Response:
    return await _act(api, request, "roll_back")


async def stop_rollout(api: Api, request: Request) -> Response:
    return await _act(api, request, "finish")


async def _act(api: Api, request: Request, act: rollouts.Act) -> Response:
    asked = decode(_change, await optional_body(api, request))
    return json(await api.threads.run(rollouts.change, api.services, model_name(request), act, asked, by=BY))
