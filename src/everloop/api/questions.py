"""Texts, images and users as callers ask about them: the bodies of `/api/predict/…`, the tensors that they become, the answers.

    body ─► Question ─► tensors(lane) ─► routing, batcher, model ─► answer(found, told)

A question is asked of whichever model has the name that `showcase` gives it. Whether that model can answer it, its tensors tell: a model
of texts takes one input `text` and gives `probabilities` of positive and negative, a model of images takes `image`, a recommender takes
`query` and gives `items`. What a model cannot answer is refused (NotSupported), never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from everloop.api.inference import InferAsked, OutputAsked
from everloop.core.errors import InvalidInput, ModelFailed, NotSupported, TooLarge
from everloop.core.tensors import Tensor, Tensors
from everloop.core.types import request_id
from everloop.runtime.recommending import check_context
from everloop.showcase import shaping
from everloop.showcase.answers import (
    ImageAnswer,
    RecommendAnswer,
    SentimentAnswer,
    SentimentsAnswer,
)
from everloop.showcase.config import ShowcaseConfig

if TYPE_CHECKING:
    from everloop.serving.lane import Lane

Text = Annotated[str, Meta(min_length=1, extra_json_schema={"maxLength": ShowcaseConfig.max_text})]
UserId = Annotated[str, Meta(min_length=1, max_length=256)] | int
ItemId = Annotated[str, Meta(min_length=1, max_length=256)] | int
Condition = str | int | float | bool


class SentimentOptions(msgspec.Struct, forbid_unknown_fields=True):
    detailed: bool = False
    """Also the probability of every label, and the words that mattered."""


class SentimentAsked(msgspec.Struct, forbid_unknown_fields=True):
    text: Text
    """1 to `showcase.max_text` characters."""
    options: SentimentOptions | None = None


class BatchAsked(msgspec.Struct, forbid_unknown_fields=True):
    texts: Annotated[list[Text], Meta(min_length=1, extra_json_schema={"maxItems": ShowcaseConfig.max_texts})]
    """1 to `showcase.max_texts` of them."""
    model: str | None = None
    """Which model of texts to ask; the one behind `/api/predict/sentiment` unless it is said."""
    options: SentimentOptions | None = None


class ImageAsked(msgspec.Struct, forbid_unknown_fields=True):
    """Either an image or where it is."""

    image: str | None = None
    """The file, in base64, with or without `data:image/png;base64,` before it."""
    image_url: str | None = None
    """Where the server shall fetch it, if it does that (`showcase.image_urls`)."""
    top_k: Annotated[int, Meta(ge=1)] = 5
    """How many labels to tell, the likeliest first; fewer where the model has fewer."""


class RecommendAsked(msgspec.Struct, forbid_unknown_fields=True):
    """Either for a user, or what is like an item."""

    user_id: UserId | None = None
    item_id: ItemId | None = None
    """What is like this item, instead of what is for a user."""
    context: dict[str, Condition | list[Condition]] | None = None
    """Only items of which this holds, like `{"category": "tech"}`; of several values any one. At most 100 attributes and values in all."""
    limit: Annotated[int, Meta(ge=1, extra_json_schema={"maximum": ShowcaseConfig.max_items})] = 10
    exclude: list[ItemId] = []
    """Items to leave out."""
    history: list[ItemId] = []
    """Items that the user liked just now, beside those that the model knows of."""
    seen: bool = False
    """Whether items that the user knows already may come again."""


class Told(NamedTuple):
    """Who answered, and when it was asked."""

    model: str
    version: int
    classes: Sequence[Any]
    key: str
    number: int
    began: float
    """By `time.perf_counter`."""

    @property
    def by(self) -> str:
        return f"{self.model}-v{self.version}"

    @property
    def milliseconds(self) -> float:
        return round((perf_counter() - self.began) * 1000, 3)

    @property
    def request_id(self) -> str:
        return request_id(self.key, self.number)


class Question(Protocol):
    model: str

    def asked(self, lane: Lane) -> InferAsked:
        """In the tensors of that model. Raises NotSupported (it does not answer such questions), InvalidInput, TooLarge."""

    def answer(self, found: Tensors, told: Told) -> msgspec.Struct:
        """What that model gave, in words. May raise anything where it is not what it should be; see `answer` below."""


class Sentiment:
    """Of one text, or of several together."""

    __slots__ = ("_detailed", "_single", "_texts", "model")

    def __init__(self, model: str, texts: list[str], options: SentimentOptions | None, *, single: bool) -> None:
        self.model = model
        self._texts = texts
        self._detailed = options is not None and options.detailed
        self._single = single

    def asked(self, lane: Lane) -> InferAsked:
        work = lane.tensor_work
        _takes(lane, "text", "texts")
        if shaping.PROBABILITIES not in work.outputs or not {"positive", "negative"}.issubset(lane.classes or ()):
            raise NotSupported(
                f"{_named(lane)} does not tell how likely a text is positive or negative; a model behind this route is a classifier "
                "with these labels"
            )
        outputs = [shaping.PREDICTION, shaping.PROBABILITIES]
        if self._detailed and shaping.EXPLANATION in work.outputs:
            outputs.append(shaping.EXPLANATION)
        return _asked(self.model, "text", self._texts, outputs)

    def answer(self, found: Tensors, told: Told) -> SentimentAnswer | SentimentsAnswer:
        results = shaping.sentiments(found, told.classes, detailed=self._detailed)
        if not self._single:
            return SentimentsAnswer(results, len(results), told.milliseconds, told.by, told.request_id)
        (one,) = results
        one.model, one.request_id = told.by, told.request_id
        one.latency_ms = told.milliseconds
        return one


class Image:
    __slots__ = ("_image", "_top_k", "model")

    def __init__(self, model: str, image: bytes, top_k: int) -> None:
        self.model = model
        self._image = image
        self._top_k = top_k

    def asked(self, lane: Lane) -> InferAsked:
        _takes(lane, "image", "images")
        if shaping.PROBABILITIES not in lane.tensor_work.outputs or not lane.classes:
            raise NotSupported(f"{_named(lane)} does not tell how likely each of its labels is")
        return _asked(self.model, "image", [self._image], (shaping.PROBABILITIES,))

    def answer(self, found: Tensors, told: Told) -> ImageAnswer:
        (best,) = shaping.likeliest(found, told.classes, self._top_k)
        return ImageAnswer(best, told.milliseconds, told.by, told.request_id)


class Recommend:
    __slots__ = ("_query", "model")

    def __init__(self, model: str, query: str) -> None:
        self.model = model
        self._query = query

    def asked(self, lane: Lane) -> InferAsked:
        _takes(lane, "query", "users and items")
        if shaping.ITEMS not in lane.tensor_work.outputs:
            raise NotSupported(f"{_named(lane)} does not answer with items")
        return _asked(self.model, "query", [self._query], (shaping.ITEMS,))

    def answer(self, found: Tensors, told: Told) -> RecommendAnswer:
        (items,) = shaping.recommendations(found)
        return RecommendAnswer(items, told.milliseconds, told.by, told.request_id)


def answer(question: Question, found: Tensors, told: Told) -> msgspec.Struct:
    """Raises ModelFailed: who answered gave no probabilities of these labels, no list of items."""
    try:
        return question.answer(found, told)
    except (ArithmeticError, LookupError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise ModelFailed(
            f"version {told.version} of model {told.model!r} did not answer as models behind this route do: "
            f"{type(error).__name__}: {error}"
        ) from error


def sentiment_question(body: SentimentAsked, config: ShowcaseConfig) -> Sentiment:
    """Raises TooLarge."""
    _check_text(body.text, "text", config.max_text)
    return Sentiment(config.sentiment, [body.text], body.options, single=True)


def batch_question(body: BatchAsked, config: ShowcaseConfig) -> Sentiment:
    """Raises TooLarge."""
    texts = body.texts
    if len(texts) > config.max_texts:
        raise TooLarge(f"texts: {len(texts):,} texts, at most {config.max_texts:,} at a time", field="texts")
    longest = config.max_text
    for i, text in enumerate(texts):
        if len(text) > longest:
            _check_text(text, f"texts[{i}]", longest)
    return Sentiment(body.model or config.sentiment, texts, body.options, single=False)


def recommend_question(body: RecommendAsked, config: ShowcaseConfig) -> Recommend:
    """Raises InvalidInput, TooLarge."""
    if (body.user_id is None) == (body.item_id is None):
        raise InvalidInput(
            "body: give either user_id (what is for a user) or item_id (what is like an item)", field="user_id"
        )
    most = config.max_items
    if body.limit > most:
        raise TooLarge(f"limit: {body.limit:,} recommendations, at most {most:,} at a time", field="limit")
    for name, listed in (("exclude", body.exclude), ("history", body.history)):
        if len(listed) > most:
            raise TooLarge(f"{name}: {len(listed):,} items, at most {most:,} at a time", field=name)
    query: dict[str, Any] = {"limit": body.limit}
    if body.user_id is not None:
        query["user"] = str(body.user_id)
    else:
        query["item"] = str(body.item_id)
    if body.context:
        check_context(body.context)  # before it is written and read again
        query["context"] = body.context
    for name, listed in (("exclude", body.exclude), ("history", body.history)):
        if listed:
            query[name] = [str(item) for item in listed]
    if body.seen:
        query["seen"] = True
    return Recommend(config.recommender, _encode(query).decode())


def check_top_k(top_k: int, config: ShowcaseConfig) -> int:
    """Raises TooLarge."""
    if top_k > config.max_top_k:
        raise TooLarge(f"top_k: {top_k:,} labels, at most {config.max_top_k:,} at a time", field="top_k")
    return top_k


_encode = msgspec.json.Encoder().encode


def _check_text(text: str, field: str, most: int) -> None:
    if len(text) > most:
        raise TooLarge(f"{field}: {len(text):,} characters, at most {most:,} are taken", field=field)


def _takes(lane: Lane, wanted: str, what: str) -> None:
    """That the model takes one tensor of bytes of this name. Raises NotSupported."""
    inputs = lane.tensor_work.tensors.signature.inputs
    if len(inputs) != 1 or inputs[0].name != wanted or inputs[0].datatype != "BYTES":
        takes = ", ".join(spec.name for spec in inputs[:6]) + (", …" if len(inputs) > 6 else "")
        raise NotSupported(f"{_named(lane)} takes {takes or 'nothing'}, and cannot be asked about {what}")


def _named(lane: Lane) -> str:
    return f"the model {lane.name!r} (version {lane.version}, {lane.record.manifest.runtime})"


def _asked(model: str, name: str, values: Sequence[str | bytes], outputs: Sequence[str]) -> InferAsked:
    data = np.empty(len(values), object)
    data[:] = values
    return InferAsked(model, [Tensor(name, "BYTES", data)], outputs=[OutputAsked(each) for each in outputs])
