# ruff: noqa: ARG001  every endpoint has the same signature
"""One function an operation: read the request, call the verb, shape the answer. `http.app` wraps each and builds the routes.

Whatever touches a store runs on `Api.threads`; fits, which take long, on `Api.fits`, so that they cannot starve the others.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from everloop.api import health as wellbeing
from everloop.api import quality as judged
from everloop.api import verbs, versions, wire
from everloop.api.http import codec
from everloop.api.http.bodies import check_depth, decode, read_json
from everloop.api.http.deadlines import TIMEOUT_HEADER, deadline_of
from everloop.api.http.endpoint import (
    BY,
    MOST_ID,
    Api,
    boolean,
    integer,
    json,
    json_bytes,
    model_name,
    optional_body,
    whole,
)
from everloop.api.http.entrance import caller_of
from everloop.api.http.events import EventStream
from everloop.api.observing import SlowRequests
from everloop.api.override import KEY_HEADER, VERSION_HEADER
from everloop.core.errors import InvalidInput
from everloop.core.hashing import body_digest

_model_spec = msgspec.json.Decoder(wire.ModelSpec)
_model_change = msgspec.json.Decoder(wire.ModelChange)
_nothing = msgspec.json.Decoder(wire.Nothing)
_optimize = msgspec.json.Decoder(wire.OptimizeSpec)


async def predict(api: Api, request: Request) -> Response:
    services = api.services
    asked = codec.decode_predict(await read_json(request, services.limits.max_body), services.limits)
    name = model_name(request)
    if name not in services.table.current.lanes:  # the registry knows why, and it is on a disk
        raise await api.threads.run(verbs.missing, services, name)
    header = request.headers.get(codec.UNIT_HEADER)
    unit = codec.unit_of(asked, None if header is None else header.encode("latin-1"))
    version = await chosen_version(api, request, name)
    deadline = deadline_of(request.headers.get(TIMEOUT_HEADER))
    if asked.instances is not None:
        answers = await verbs.predict_batch(services, name, asked.instances, unit, version=version, deadline=deadline)
        return json_bytes(codec.encode_answer(answers))
    assert asked.features is not None
    answer = await verbs.predict(services, name, asked.features, unit, version=version, deadline=deadline)
    return json_bytes(codec.encode_answer(answer))


async def chosen_version(api: Api, request: Request, name: str) -> int | None:
    """The version that a caller with one of the override keys, or with a key for `admin`, asks for; None for whoever the routing gives. Raises Forbidden, VersionNotFound, Conflict
    (it is not open here)."""
    asked = request.headers.get(VERSION_HEADER)
    if asked is None:
        return None
    services = api.services
    if not (services.door.closed and caller_of(request).has("admin")):
        services.override_keys.require(request.headers.get(KEY_HEADER))
    number = await api.threads.run(versions.number_of, services, name, asked)
    if number not in services.table.current.versions(name):  # the registry knows why, as above
        raise await api.threads.run(services.predictor.closed, name, number)
    return number


async def feedback(api: Api, request: Request) -> Response:
    limits = api.services.limits
    body = await read_json(request, limits.max_body)
    labels = codec.decode_feedback(body, limits)
    key = request.headers.get("idempotency-key", "")
    if len(key) > limits.max_key:
        raise InvalidInput(f"Idempotency-Key: longer than {limits.max_key} characters", field="Idempotency-Key")
    digest = body_digest(body) if key else ""
    name, run = model_name(request), api.threads.run
    if len(name) > limits.max_name:
        raise verbs.missing(api.services, name)
    done = await verbs.feedback(api.services, name, labels, run=run, idempotency_key=key, body=digest)
    refused = codec.refused_whole(done)
    if refused is not None:
        raise refused
    return json_bytes(codec.encode_feedback(done), 202)


async def create_model(api: Api, request: Request) -> Response:
    limits = api.services.limits
    spec = decode(_model_spec, await read_json(request, limits.max_body))
    check_depth(spec.parameters, limits.max_depth, "parameters")
    check_depth(spec.learning, limits.max_depth, "learning")
    info, created = await api.threads.run(verbs.create_model, api.services, spec)
    return json(info, 201 if created else 200, {"location": f"/v1/models/{info.name}"})


async def list_models(api: Api, request: Request) -> Response:
    found = await api.threads.run(verbs.list_models, api.services)
    caller = caller_of(request)
    found.models = [model for model in found.models if caller.reaches(model.name)]
    return json(found)


async def describe_model(api: Api, request: Request) -> Response:
    return json(await api.threads.run(verbs.describe_model, api.services, model_name(request)))


async def change_model(api: Api, request: Request) -> Response:
    asked = decode(_model_change, await read_json(request, api.services.limits.max_body))
    return json(await api.threads.run(verbs.change_model, api.services, model_name(request), asked, by=BY))


async def delete_model(api: Api, request: Request) -> Response:
    await api.threads.run(verbs.delete_model, api.services, model_name(request))
    return Response(status_code=204)


async def train(api: Api, request: Request) -> Response:
    decode(_nothing, await optional_body(api, request))
    return json(await api.fits.run(versions.train, api.services, model_name(request)))


async def optimize(api: Api, request: Request) -> Response:
    asked = decode(_optimize, await optional_body(api, request))
    return json(await api.threads.run(verbs.optimize, api.services, model_name(request), asked), 202)


async def timeline(api: Api, request: Request) -> Response:
    limits = api.services.limits
    after = integer(request, "after", 0, least=0, most=MOST_ID)
    limit = integer(request, "limit", min(100, limits.max_page), least=1, most=limits.max_page)
    latest = boolean(request, "latest")
    return json(await api.threads.run(verbs.timeline, api.services, model_name(request), after, limit, latest))


async def quality(api: Api, request: Request) -> Response:
    return json(await api.threads.run(judged.quality, api.services, model_name(request)))


async def drift(api: Api, request: Request) -> Response:
    return json(await api.threads.run(verbs.drift, api.services, model_name(request)))


async def events(api: Api, request: Request) -> Response:
    last = request.headers.get("last-event-id") or request.query_params.get("after")
    after = None if last is None or last == "" else whole(last, "Last-Event-ID", least=0, most=MOST_ID)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    stream = await api.hub.open(after, request.query_params.get("model"))
    door, caller = api.services.door, caller_of(request)
    stream.stands = lambda: door.stands(caller)
    return EventResponse(stream)


async def health(api: Api, request: Request) -> Response:
    found = await api.threads.run(wellbeing.health, api.services)
    return json(found, 503 if found.status == "unhealthy" else 200)


async def live(api: Api, request: Request) -> Response:
    return json(wire.ServerLive(live=True))


async def ready(api: Api, request: Request) -> Response:
    services = api.services
    # While draining, the stores may be about to close: the answer is known without them.
    well = not services.draining and await api.threads.run(wellbeing.ready, services)
    return json(wire.ServerReady(ready=well, live=True), 200 if well else 503)


async def metrics(api: Api, request: Request) -> Response:
    from everloop.api.http import metrics as exposition

    body, content_type = await api.threads.run(exposition.render, api.services, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type, "vary": "Accept"})


async def slow(api: Api, request: Request) -> Response:
    observer = api.services.observer
    return json(SlowRequests(None, 0, []) if observer is None else observer.slow())


async def openapi(api: Api, request: Request) -> Response:
    return json_bytes(await api.threads.run(lambda: api.openapi))


async def docs(api: Api, request: Request) -> Response:
    html, policy = await api.threads.run(lambda: api.docs)
    return Response(
        html,
        media_type="text/html",
        headers={
            "content-security-policy": policy,
            "referrer-policy": "no-referrer",
        },
    )


async def index(api: Api, request: Request) -> Response:
    return RedirectResponse("docs")


class EventResponse(StreamingResponse):
    """Closes its stream however it ends: read to its end, the client gone, or never begun."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(
            stream.lines(),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()
