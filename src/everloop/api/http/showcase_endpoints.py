"""The endpoints of `http.showcase_operations`: one function an operation, as in `http.endpoints`. What they ask is `api.questions`'."""

from __future__ import annotations

from time import perf_counter

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everloop.api import questions, showcase
from everloop.api.http.bodies import decode, read_json
from everloop.api.http.codec import UNIT_HEADER, text_of_unit
from everloop.api.http.deadlines import TIMEOUT_HEADER, seconds_of
from everloop.api.http.endpoint import MOST_ID, Api, json, whole
from everloop.api.http.endpoints import chosen_version
from everloop.api.http.entrance import caller_of
from everloop.api.http.forms import is_form, read_form
from everloop.api.http.showcase_codec import decode_question
from everloop.core.errors import InvalidInput

_image = msgspec.json.Decoder(questions.ImageAsked)
_LARGE = 64 << 10
"""Characters of base64 from which on they are decoded on a thread."""


async def predict_sentiment(api: Api, request: Request) -> Response:
    return await _plain(api, request, "predict_sentiment")


async def predict_batch(api: Api, request: Request) -> Response:
    return await _plain(api, request, "predict_batch")


async def predict_recommend(api: Api, request: Request) -> Response:
    return await _plain(api, request, "predict_recommend")


async def predict_image(api: Api, request: Request) -> Response:
    began = perf_counter()
    services, config = api.services, api.services.showcase
    if config.image not in services.table.current.lanes:  # before anything is decoded, or fetched, for nothing
        raise await api.threads.run(showcase.absent, services, config.image)
    if is_form(request.headers.get("content-type", "")):
        fields = ("image", "image_url", "top_k")
        image, url, top_k = _uploaded(await read_form(request, services.limits.max_body, fields))
        image = image if url is None else await _fetched(api, url)
    else:
        asked = decode(_image, await read_json(request, services.limits.max_body))
        image, top_k = await _image_of(api, asked), asked.top_k
    question = questions.Image(config.image, image, questions.check_top_k(top_k, config))
    return await _answer(api, request, question, began)


async def shown_models(api: Api, request: Request) -> Response:
    return json(await api.threads.run(showcase.models, api.services, caller_of(request)))


async def _plain(api: Api, request: Request, operation: str) -> Response:
    began = perf_counter()
    body = await read_json(request, api.services.limits.max_body)
    return await _answer(api, request, decode_question(operation, body, api.services.showcase), began)


async def _answer(api: Api, request: Request, question: questions.Question, began: float) -> Response:
    services, headers = api.services, request.headers
    if question.model != request.path_params["model"]:  # the body names another one than the door has looked at
        services.door.allow(caller_of(request), "predict", question.model, counted=False)
    unit, seconds = headers.get(UNIT_HEADER), seconds_of(headers.get(TIMEOUT_HEADER))
    answer = await showcase.ask(
        services,
        question,
        run=api.threads.run,
        version=await chosen_version(api, request, question.model),
        unit=None if unit is None else text_of_unit(unit.encode("latin-1")),
        deadline=None if seconds is None else began + seconds,
        began=began,
    )
    return json(answer)


def _uploaded(form: dict[str, bytes]) -> tuple[bytes, str | None, int]:
    """The image, or where it is, and how many labels to tell. Raises InvalidInput."""
    image, url = form.get("image", b""), form.get("image_url")
    if bool(image) == (url is not None):
        raise InvalidInput(
            "image: upload the file as the field image of the form, or tell where it is as image_url", field="image"
        )
    top_k = form.get("top_k", b"5").decode("utf-8", "replace")
    return image, None if url is None else url.decode("utf-8", "replace"), whole(top_k, "top_k", least=1, most=MOST_ID)


async def _image_of(api: Api, asked: questions.ImageAsked) -> bytes:
    """Raises InvalidInput, TooLarge, NotSupported."""
    from everloop.showcase.images import decoded

    text, url = asked.image, asked.image_url
    if (text is None) == (url is None):
        raise InvalidInput(
            "body: give either image (the file in base64) or image_url, or upload the file as the field image of a form",
            field="image",
        )
    if url is not None:
        return await _fetched(api, url)
    assert text is not None
    return decoded(text) if len(text) < _LARGE else await api.threads.run(decoded, text)


async def _fetched(api: Api, url: str) -> bytes:
    """Raises InvalidInput, TooLarge, NotSupported."""
    from everloop.showcase.fetching import fetch

    return await api.fetches.run(fetch, url, api.services.showcase)
